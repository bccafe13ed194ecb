"""Lists of graphs by turns in one engine: foretold, then held against what was measured.

    python -m evidence.fidelity.graph_lists predict PLAN.json ENGINE.json PROFILE.json OUT.json

foretells what `evidence/gpu/list_turns.py` will measure, from the plan alone: the requests of each turn are
drawn as it draws them. ENGINE.json is a recorded run of the engine (its limits and KV room).

    python -m evidence.fidelity.graph_lists split RUN.json PLAN.json OUT

makes of such a run one per list, as if an engine of that list alone had been recorded: `OUT/LIST.json` and
its tables.

    python -m evidence.fidelity.graph_lists

prints the tables of docs/fidelity.md from evidence/data/your_engine_h100.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

import evidence
from evidence.gpu.record_cost import figures
from scheduler.analysis.comparison.pools import workload_pool
from scheduler.analysis.fidelity.recorded import recorded_requests, recorded_workload
from scheduler.analysis.metrics import latencies_ms
from scheduler.analysis.statistics.intervals import weighted_percentile
from scheduler.catalog.importers.recorded_run import RecordedRun, Span, Traffic, read_recorded
from scheduler.catalog.profile.file import load_profile
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.records import Status
from scheduler.files import write_json
from scheduler.live.pack import split_lists
from scheduler.live.work import traffic_requests
from scheduler.report.wording import percent_text
from scheduler.simulate import Variant, simulate

REPLICATIONS = 4
DATA = Path(evidence.__file__).parent / "data" / "your_engine_h100"
OWN = "own"
# Folder of the turns, its engine, the lists in the order of the table.
GROUPS = (
    ("turns_8b", "8B", ("own", "to_64", "to_2048", "tuned_32", "tuned_16", "tuned_9")),
    ("turns_qwen", "0.6B", ("own", "to_64", "to_2048", "tuned")),
    ("drafting", "8B with EAGLE, k = 3", ("own", "to_1024")),
    ("not_drafting", "the same 8B without drafts", ("own",)),
)


def planned(run: RecordedRun, spec: Mapping[str, Any]) -> Traffic:
    """Return the requests of a planned traffic, as the client will send them."""
    engine = run.engine
    kv_tokens = engine.kv_blocks * engine.block_size
    longest = min(engine.max_model_len or kv_tokens, kv_tokens) - 16
    rows = np.array(traffic_requests(spec, longest))
    return Traffic(
        Span("traffic", 0.0, 0.0), rows[:, 0] * 1e3, rows[:, 1].astype(int), rows[:, 2].astype(int), ()
    )


def foretold(
    run: RecordedRun,
    profile: Profile,
    name: str,
    sizes: Sequence[int],
    traffic: Traffic,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Return simulated latencies of a traffic under a list, in ms, means over replications.

    `name` is the profile's file; `changes` are keys of the engine section to set otherwise.
    """
    full = replace(
        run.engine, capture_sizes=tuple(sizes), full=True, piecewise=True, cudagraph_mode="FULL_AND_PIECEWISE"
    )
    workload = recorded_workload(replace(run, engine=full), traffic, name, changes)
    pool = workload_pool(workload.pool, workload.engine, profile).pool
    drawn = []
    for replication in range(REPLICATIONS):
        done = simulate(
            workload,
            recorded_requests(traffic),
            profile,
            Variant("graphs", pool, "fallback"),
            replication=replication,
        )
        found = latencies_ms(done.requests, done.requests.status == Status.COMPLETED)
        gaps = done.gaps.gap_ns / 1e6, done.gaps.count.astype(np.int64)
        drawn.append(
            {
                "mean_tpot_ms": float(np.mean(found["tpot"])),
                "mean_ttft_ms": float(np.mean(found["ttft"])),
                "mean_e2el_ms": float(np.mean(found["e2el"])),
                **{f"p{p}_itl_ms": float(weighted_percentile(*gaps, [float(p)])[0]) for p in (50, 99)},
            }
        )
    return {key: float(np.mean([one[key] for one in drawn])) for key in drawn[0]}


def predict(plan_path: Path, run_path: Path, profile_path: Path, out: Path) -> None:
    """Foretell every turn of a plan and write it with the time at which that was done."""
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    run, profile = read_recorded(run_path), load_profile(str(profile_path))
    changes = {"speculation": plan["speculation"]} if "speculation" in plan else None
    turns = []
    for turn in range(plan["rounds"]):
        for spec in plan["traffics"]:
            traffic = planned(run, {**spec, "seed": spec["seed"] + turn})
            for name in spec.get("lists") or list(plan["lists"]):
                found = foretold(run, profile, str(profile_path), plan["lists"][name], traffic, changes)
                turns.append({"turn": turn, "traffic": spec["name"], "list": name, **found})
    write_json(out, {"foretold_unix_s": time.time(), "profile": str(profile_path), "turns": turns})


@dataclass(frozen=True, slots=True)
class Turn:
    """One traffic under one list: measured and foretold, in ms."""

    number: int
    traffic: str
    graphs: int
    name: str
    tpot_ms: tuple[float, float]
    ttft_ms: tuple[float, float]
    itl_p99_ms: tuple[float, float]


def turns_of(folder: Path) -> list[Turn]:
    """Return every turn of a folder that `split` wrote, with what was foretold of it."""
    foretold = {
        (turn["traffic"], turn["list"], turn["turn"]): turn
        for turn in json.loads((folder / "foretold.json").read_text(encoding="utf-8"))["turns"]
    }
    lists = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["lists"]
    found = []
    for name in lists:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        run = read_recorded(path)
        specs = [entry["spec"] for entry in json.loads(path.read_text(encoding="utf-8"))["traffic"]]
        for spec, traffic in zip(specs, run.traffic, strict=True):
            first = np.array([times[0] for times in traffic.token_ms]) - traffic.arrival_ms
            last = np.array([times[-1] for times in traffic.token_ms]) - traffic.arrival_ms
            more = traffic.output_tokens > 1
            tpot = (last - first)[more] / (traffic.output_tokens[more] - 1)
            gaps = np.concatenate([np.diff(times) for times in traffic.token_ms])
            told = foretold[spec["name"], name, spec["turn"]]
            found.append(
                Turn(
                    spec["turn"],
                    spec["name"],
                    len(lists[name]),
                    name,
                    (float(tpot.mean()), told["mean_tpot_ms"]),
                    (float(first.mean()), told["mean_ttft_ms"]),
                    (float(np.percentile(gaps, 99)), told["p99_itl_ms"]),
                )
            )
    return found


def table() -> str:
    """Return the Markdown table of docs/fidelity.md: a row per engine, traffic and list."""
    lines = [
        "| engine, traffic | list | graphs | turns | measured TPOT ms (turn by turn) | foretold | error "
        "| against own: measured | foretold | TTFT measured / foretold |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for folder, engine, order in GROUPS:
        turns = turns_of(DATA / folder)
        for traffic in dict.fromkeys(turn.traffic for turn in turns):
            own = {t.number: t for t in turns if t.traffic == traffic and t.name == OWN}
            for name in order:
                here = [t for t in turns if t.traffic == traffic and t.name == name]
                if here:
                    lines.append(_row(f"{engine}, {traffic}", here, own))
    return "\n".join(lines) + "\n"


def _row(label: str, here: Sequence[Turn], own: Mapping[int, Turn]) -> str:
    here = sorted(here, key=lambda turn: turn.number)
    measured, told = (fmean(turn.tpot_ms[k] for turn in here) for k in (0, 1))
    both = [turn for turn in here if turn.number in own]  # the last round may have ended before all lists
    ratios = [
        sum(turn.tpot_ms[k] for turn in both) / sum(own[turn.number].tpot_ms[k] for turn in both) - 1
        for k in (0, 1)
    ]
    against = ["", ""] if here[0].name == OWN else [percent_text(ratio) for ratio in ratios]
    each = " ".join(f"{turn.tpot_ms[0]:.2f}" for turn in here)
    ttft = " / ".join(f"{fmean(turn.ttft_ms[k] for turn in here):.0f}" for k in (0, 1))
    cells = [
        label,
        here[0].name,
        str(here[0].graphs),
        str(len(here)),
        f"{measured:.2f} ({each})",
        f"{told:.2f}",
        percent_text(told / measured - 1),
        *against,
        ttft,
    ]
    return f"| {' | '.join(cells)} |"


def costs() -> str:
    """Return what the recorder cost a step, a line per model, list and batch: all turns of it pooled."""
    runs = json.loads((DATA / "record_cost.json").read_text(encoding="utf-8"))["runs"]
    lines = []
    for key in dict.fromkeys((run["model"], run["list"], run["batch"]) for run in runs):
        parts = [
            figures([(bool(on), us, steps) for on, us, steps in run["each_turn"]])
            for run in runs
            if (run["model"], run["list"], run["batch"]) == key
        ]
        weights = [1 / part["standard_error_us"] ** 2 for part in parts]
        cost = sum(w * part["cost_us"] for w, part in zip(weights, parts, strict=True)) / sum(weights)
        error = sum(weights) ** -0.5
        step = fmean(part["off_us"] for part in parts)
        model, name, batch = key
        lines.append(
            f"{model}, list {name}, {batch} requests: {f'{cost:.0f}'.replace('-', '−')} ± {error:.0f} µs of "
            f"{step:,.0f} µs a step, {sum(part['turns'] for part in parts)} turns; "
            f"at most {(cost + 2 * error) / step:.1%}"
        )
    return "\n".join(lines) + "\n"


def split(run_path: Path, plan_path: Path, out: Path) -> None:
    """Write one run per list of a plan."""
    split_lists(run_path, json.loads(plan_path.read_text(encoding="utf-8"))["lists"], out)


def main() -> None:
    """Run what the command line asks for."""
    if len(sys.argv) == 1:
        print(table(), costs(), sep="\n", end="")
        return
    command, *paths = sys.argv[1:]
    if command == "predict":
        predict(*map(Path, paths))
    elif command == "split":
        split(*map(Path, paths))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
