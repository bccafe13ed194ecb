"""A vLLM that drafted, against what was foretold: `python -m evidence.fidelity.vllm_drafting`.

An 8B model of random weights with a random EAGLE head of one layer, three drafts, vLLM's synthetic
acceptance (70, 49 and 34.3 % by position); vLLM's own list, which ends at 128 requests, and one to 1,024
tokens, by turns in one engine; then the same engine without drafts. One H100; see
evidence/data/your_engine_h100. What was foretold before the run is beside the data (foretold.json): from
another machine's calibration without drafting, its cost assumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from evidence.profiles.shipped import VLLM_026
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.fidelity.recorded import (
    RecordedValidation,
    recorded_requests,
    recorded_workload,
    traffic_of,
    validate_recorded,
)
from scheduler.catalog.importers.engine_steps.build import Source, import_steps
from scheduler.catalog.importers.engine_steps.drafting import launching_drafts
from scheduler.catalog.importers.engine_steps.flow import FULL
from scheduler.catalog.importers.recorded_drafts import drafts_of
from scheduler.catalog.importers.recorded_run import RecordedRun, Traffic, read_recorded
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.measured import MeasuredProfile
from scheduler.simulate import Variant, simulate

RUNS = Path(__file__).parents[1] / "data" / "your_engine_h100"
OWN, REACHING, PLAIN = "drafting, own list", "drafting, list to 1,024", "not drafting, own list"
PATHS = {
    OWN: RUNS / "drafting" / "own.json",
    REACHING: RUNS / "drafting" / "to_1024.json",
    PLAIN: RUNS / "not_drafting" / "own.json",
}
LOADS = ("high", "low")  # 75 and 30 requests/s
REPLICATIONS = 4
COLUMNS = ("tpot_ms", "ttft_ms", "e2el_ms")


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that one profile foretells; `saw` names those it was fitted to."""

    name: str
    profile: MeasuredProfile
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The turns of one run and load together: measured and simulated means, tokens per second."""

    run: str
    load: str
    turns: int
    measured: Mapping[str, float]
    simulated: Mapping[str, float]

    def error(self, column: str) -> float | None:
        """Return simulated / measured − 1, None where nothing was foretold."""
        return self.simulated[column] / self.measured[column] - 1 if column in self.simulated else None


@cache
def recorded(name: str) -> RecordedRun:
    """Return a run, read once."""
    return read_recorded(PATHS[name])


def traffics(name: str) -> list[str]:
    """Return the load of each traffic of a run, as its two rates tell them apart."""
    spans = [traffic.arrival_ms for traffic in recorded(name).traffic]
    rates = [(len(at) - 1) / (at[-1] - at[0]) for at in spans]
    middle = (max(rates) + min(rates)) / 2
    return ["high" if rate > middle else "low" for rate in rates]


def groups() -> Iterator[Group]:
    """Yield the profiles, those that saw least first."""
    every = (OWN, REACHING, PLAIN)
    yield Group(
        "the shipped profile: another host, drafting ASSUMED", load_profile(VLLM_026).of_its_host(), every
    )
    yield Group("fitted to the other list and to no drafts", _fitted(PLAIN, REACHING), (OWN,))
    yield Group("", _fitted(PLAIN, OWN), (REACHING,))
    for name in every:
        gpu = tuple(other for other in every if other != name)
        yield Group(
            "the host of the run itself, the GPU of all" if name == OWN else "", _of_host(name, gpu), (name,)
        )


def _fitted(*names: str) -> MeasuredProfile:
    return import_steps([Source(PATHS[name]) for name in names], {})[0]


def _of_host(name: str, gpu: Sequence[str]) -> MeasuredProfile:
    sources = [Source(PATHS[name]), *(Source(PATHS[other], gpu_only=True) for other in gpu)]
    return import_steps(sources, {})[0]


def validated(name: str, index: int, profile: MeasuredProfile) -> RecordedValidation:
    """Return one turn's validation under the run's own list."""
    run = recorded(name)
    traffic = traffic_of(run, index)
    workload = recorded_workload(run, traffic, "imported.json")
    pool = workload_pool(workload.pool, workload.engine, profile).pool
    return validate_recorded(run, traffic, workload, profile, pool, REPLICATIONS)


def row_of(name: str, load: str, profile: MeasuredProfile) -> Row:
    """Return the means over the turns of one load."""
    found = [validated(name, index, profile) for index, at in enumerate(traffics(name)) if at == load]
    measured, simulated = (
        {
            **{column: _mean([each.latencies[column]["mean"][side] for each in found]) for column in COLUMNS},
            "throughput": _mean([each.throughput[side] for each in found]),
        }
        for side in ("measured", "simulated")
    )
    return Row(name, load, len(found), measured, simulated)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def foretold_before(name: str, load: str) -> Mapping[str, float]:
    """Return what was foretold of a run before it ran: means over its turns."""
    path = PATHS[name].with_name("foretold.json")
    turns = [
        turn
        for turn in json.loads(path.read_text(encoding="utf-8"))["turns"]
        if (turn["list"], turn["traffic"]) == (PATHS[name].stem, load)
    ]
    return {column: _mean([turn[f"mean_{column}"] for turn in turns]) for column in COLUMNS}


def rows() -> Iterator[tuple[str, Row]]:
    """Yield every row of the table with the name of its group, empty where it goes on."""
    every = list(groups())
    found = [
        (group.name, row_of(name, load, group.profile))
        for group in every
        for name in group.runs
        for load in LOADS
    ]
    for _, row in found[: len(PATHS) * len(LOADS)]:
        yield "before the run", replace(row, simulated=foretold_before(row.run, row.load))
    yield from found


def tables() -> str:
    """Return the Markdown tables of docs/speculation.md."""
    found = list(rows())
    lines = [
        "| run, load, turns | measured TPOT ms | mean TPOT | mean TTFT | mean E2EL | tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    for group, row in found:
        if group and not any(f"| **{group}** |" in line for line in lines):
            lines.append(f"| **{group}** | | | | | |")
        cells = " | ".join(_percent(row.error(column)) for column in (*COLUMNS, "throughput"))
        tpot = row.measured["tpot_ms"]
        lines.append(f"| {row.run}, {row.load}, {row.turns} | {tpot:.2f} | {cells} |")
    lines += ["", *_pays([row for _, row in found]), "", *_costs()]
    return "\n".join(lines) + "\n"


def _pays(found: Sequence[Row]) -> list[str]:
    """Say what drafting, and the longer list, changed: measured, and foretold before the run."""
    first = {(row.run, row.load): row for row in found[: len(PATHS) * len(LOADS)]}
    lines = ["| change of mean TPOT | load | measured | foretold before the run |", "|---|---|---|---|"]
    for what, after, before in (
        ("drafting, own list", OWN, PLAIN),
        ("drafting, list to 1,024", REACHING, PLAIN),
        ("the list to 1,024 instead of the own", REACHING, OWN),
    ):
        for load in LOADS:
            one, other = first[after, load], first[before, load]
            measured = one.measured["tpot_ms"] / other.measured["tpot_ms"] - 1
            foretold = one.simulated["tpot_ms"] / other.simulated["tpot_ms"] - 1
            lines.append(f"| {what} | {load} | {_percent(measured)} | {_percent(foretold)} |")
    return lines


def _costs() -> list[str]:
    draft = _fitted(PLAIN, OWN, REACHING).draft
    assert draft is not None  # noqa: S101  (two of the runs draft)
    accepted = [drafts_of(recorded(name)).text() for name in (OWN, REACHING)]
    return [*accepted, *(f"{what}: {text}" for what, text in draft.in_words()), *_turns()]


def _turns() -> list[str]:
    """Say how turns of one list and load differ: TPOT, launches of a graph; and how many rows were needed."""
    lines = []
    profile = load_profile(VLLM_026).of_its_host()
    for name in (OWN, REACHING):
        run, loads = recorded(name), traffics(name)
        steps = run.steps
        launches = steps.launched - steps.dispatched - launching_drafts(steps)
        for load in LOADS:
            spans = [traffic for traffic, at in zip(run.traffic, loads, strict=True) if at == load]
            inside = [run.of_span(traffic.span) & (steps.mode == FULL) for traffic in spans]
            tpots = [
                validated(name, index, profile).latencies["tpot_ms"]["mean"]["measured"]
                for index, at in enumerate(loads)
                if at == load
            ]
            graphs = [_mean(launches[mask].tolist()) for mask in inside]
            rows = sum(int(steps.decodes[run.of_span(traffic.span)].sum()) for traffic in spans)
            lines.append(
                f"{name}, {load}: TPOT by turn {_span(tpots)} ms, launching a FULL graph {_span(graphs)} ms; "
                f"{rows:,} rows decoded, simulated {sum(map(partial(_rows, name, profile), spans)):,}"
            )
    return lines


def _rows(name: str, profile: MeasuredProfile, traffic: Traffic) -> int:
    """Return how many rows the loop decodes for a traffic's answers."""
    run = recorded(name)
    workload = recorded_workload(run, traffic, "imported.json")
    pool = workload_pool(workload.pool, workload.engine, profile).pool
    simulated = simulate(
        workload, recorded_requests(traffic), profile, Variant("graphs", pool, "fallback"), replication=0
    )
    return int(simulated.steps.batch_size.sum())


def _span(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:+.1f} %".replace("-", "−")


if __name__ == "__main__":
    print(tables(), end="")
