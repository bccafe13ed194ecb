"""A recorded engine run beside its simulation: engine, pool and requests come from the run's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from scheduler.analysis.fidelity.measured import STATISTICS, Compared, compared
from scheduler.analysis.metrics import latencies_ms
from scheduler.analysis.statistics.intervals import weighted_percentile
from scheduler.catalog.importers.recorded_drafts import drafts_of, method_of
from scheduler.catalog.importers.recorded_run import MODES, RecordedRun, Traffic
from scheduler.catalog.profile.file import error_lines
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.executor import StepKind
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Graph, Run, Status
from scheduler.errors import InputError
from scheduler.executors.model.cost_model import Bound
from scheduler.simulate import Variant, simulate
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

Float = NDArray[np.float64]
LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms")
_CURVE_POINTS = 2_000  # of a distribution of gaps


@dataclass(frozen=True, slots=True)
class ModeUse:
    """Share of steps, and of the time until their hand-over, that one kind of step took."""

    steps: Compared
    time: Compared


@dataclass(frozen=True, slots=True)
class RecordedValidation:
    """A traffic of a recorded run beside simulations of it, one per replication; simulated numbers are means.

    `spread` holds the least and the largest simulated mean TPOT over replications. `drifted` holds the means
    of every latency on a host that is faster, and slower, by the profile's drift; None where it has none.
    """

    workload: Workload
    requests: int
    replications: int
    latencies: dict[str, dict[str, Compared]]
    throughput: Compared
    samples: dict[str, int]
    modes: dict[str, ModeUse]
    spread: tuple[float, float]
    distributions: dict[str, tuple[Float, Float]]
    drifted: dict[str, tuple[float, float]] | None = None


def traffic_of(run: RecordedRun, index: int) -> Traffic:
    """Return one traffic of a run; raises InputError where there is none of that number."""
    if not 0 <= index < len(run.traffic):
        there = f"0 to {len(run.traffic) - 1}" if run.traffic else "a run with traffic"
        raise InputError(f"--traffic: expected {there}, got {index} ({run.path.name})")
    return run.traffic[index]


def recorded_workload(
    run: RecordedRun, traffic: Traffic, profile: str, changes: Mapping[str, Any] | None = None
) -> Workload:
    """Return the run's engine and pool as a workload; its requests are those of `recorded_requests`.

    `changes` are keys of the engine section to set otherwise. An engine that drafts has the acceptance of its
    steps during the traffic.
    """
    engine = run.engine
    drafting = {}
    if engine.draft_tokens:
        accepted = drafts_of(run, run.of_span(traffic.span)).of_all_rows
        drafting["speculation"] = {
            "method": method_of(engine.draft_method),
            "draft_tokens": engine.draft_tokens,
            "acceptance": {"per_position": list(accepted)},
        }
    span_s = max(float(traffic.arrival_ms[-1] - traffic.arrival_ms[0]) / 1e3, 1e-3)
    pool: dict[str, object] = {"sizes": list(engine.capture_sizes) if engine.full or engine.piecewise else []}
    if pool["sizes"] and engine.piecewise:
        pool["mode"] = "full_and_piecewise" if engine.full else "piecewise"
    name = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789_.-" else "-" for c in run.name.lower())
    value = {
        "name": (name.strip(".") or "run")[:80],
        "requests": len(traffic.arrival_ms),
        "arrivals": {"process": "poisson", "rate_per_s": len(traffic.arrival_ms) / span_s},
        "prompt_tokens": {"distribution": "fixed", "value": round(traffic.prompt_tokens.mean())},
        "output_tokens": {"distribution": "fixed", "value": round(traffic.output_tokens.mean())},
        "engine": {
            "policy": "mixed",
            "max_num_seqs": engine.max_num_seqs,
            "max_num_batched_tokens": engine.max_num_batched_tokens,
            "block_size": engine.block_size,
            "kv_blocks": engine.kv_blocks - 1,  # vLLM's null block is never used
            "reserve_full_prompt": True,
            "async_scheduling": engine.async_scheduling,
            "max_model_len": engine.max_model_len,
            "profile": profile,
            **drafting,
            **(changes or {}),
        },
        "pool": pool,
    }
    try:
        return Workload.model_validate(value)
    except ValidationError as error:
        raise InputError(error_lines(error, f"{run.path} and --set")) from None


def recorded_requests(traffic: Traffic) -> Requests:
    """Return a traffic's requests, the first arriving at 0."""
    arrival_ns = np.rint((traffic.arrival_ms - traffic.arrival_ms[0]) * 1e6).astype(np.int64)
    note = f"recorded traffic: {len(arrival_ns):,} requests"
    return Requests(arrival_ns, traffic.prompt_tokens, traffic.output_tokens, notes=(note,))


def validate_recorded(
    run: RecordedRun,
    traffic: Traffic,
    workload: Workload,
    profile: Profile,
    pool: GraphPool,
    replications: int,
) -> RecordedValidation:
    """Simulate a recorded traffic and compare latencies, throughput and the use of graphs."""
    without_graph = "eager" if run.engine.eager else "fallback"
    variant = Variant("graphs", pool, without_graph)  # type: ignore[arg-type]
    requests = recorded_requests(traffic)
    runs = [simulate(workload, requests, profile, variant, replication=r) for r in range(replications)]
    truth = _measured(traffic, has_drafts=run.engine.draft_tokens > 0)
    drawn = [_simulated(one) for one in runs]
    latencies = {
        name: {
            statistic: compared(
                _statistic(truth[name], statistic),
                float(np.mean([_statistic(found[name], statistic) for found in drawn])),
            )
            for statistic in STATISTICS
        }
        for name in LATENCIES
    }
    tokens = int(traffic.output_tokens.sum())
    span_s = (max(times[-1] for times in traffic.token_ms) - float(traffic.arrival_ms[0])) / 1e3
    simulated_s = [float(one.requests.finish_ns.max()) / 1e9 for one in runs]
    tpots = [_statistic(found["tpot_ms"], "mean") for found in drawn]
    return RecordedValidation(
        workload,
        len(requests),
        replications,
        latencies,
        compared(tokens / span_s, float(np.mean([tokens / seconds for seconds in simulated_s]))),
        {name: int(truth[name][1].sum()) for name in LATENCIES},
        _mode_use(run, traffic, runs),
        (min(tpots), max(tpots)),
        {name.removesuffix("_ms"): (_curve(truth[name]), _curve(drawn[0][name])) for name in LATENCIES},
        _drifted(workload, requests, profile, variant, replications),
    )


def _drifted(
    workload: Workload, requests: Requests, profile: Profile, variant: Variant, replications: int
) -> dict[str, tuple[float, float]] | None:
    drifting = profile.at_drift()
    if drifting is None:
        return None
    ends = []
    bounds: tuple[Bound, ...] = ("low", "high")
    for bound in bounds:
        of_bound = replace(variant, bound=bound)
        drawn = [
            _simulated(simulate(workload, requests, drifting, of_bound, replication=r))
            for r in range(replications)
        ]
        ends.append(
            {name: float(np.mean([_statistic(one[name], "mean") for one in drawn])) for name in LATENCIES}
        )
    return {name: (ends[0][name], ends[1][name]) for name in LATENCIES}


Weighted = tuple[Float, NDArray[np.int64]]  # values, and how often each occurs


def _statistic(values: Weighted, name: str) -> float:
    if name == "mean":
        return float(np.average(values[0], weights=values[1]))
    return float(weighted_percentile(values[0], values[1], [float(name[1:])])[0])


def _curve(values: Weighted) -> Float:
    return weighted_percentile(values[0], values[1], np.linspace(0, 100, _CURVE_POINTS).tolist())


def _once(values: Float) -> Weighted:
    return values, np.ones(len(values), np.int64)


def _measured(traffic: Traffic, *, has_drafts: bool) -> dict[str, Weighted]:
    """Return the client's latencies; TPOT by tokens, for a delivery can hold several."""
    first = np.array([times[0] for times in traffic.token_ms]) - traffic.arrival_ms
    last = np.array([times[-1] for times in traffic.token_ms]) - traffic.arrival_ms
    several = traffic.output_tokens > 1
    tpot = (last - first)[several] / (traffic.output_tokens[several] - 1)
    gaps = np.concatenate([np.diff(times) for times in traffic.token_ms])
    if has_drafts:  # tokens that are handed over together reach the client together
        together = int(traffic.output_tokens.sum()) - sum(len(times) for times in traffic.token_ms)
        gaps = np.concatenate([gaps, np.zeros(max(together, 0))])
    return {
        "ttft_ms": _once(first),
        "tpot_ms": _once(tpot),
        "itl_ms": _once(gaps),
        "e2el_ms": _once(last),
    }


def _simulated(run: Run) -> dict[str, Weighted]:
    completed = run.requests.status == Status.COMPLETED
    found = {f"{name}_ms": _once(values) for name, values in latencies_ms(run.requests, completed).items()}
    return {**found, "itl_ms": (run.gaps.gap_ns / 1e6, run.gaps.count.astype(np.int64))}


def _mode_use(run: RecordedRun, traffic: Traffic, runs: Sequence[Run]) -> dict[str, ModeUse]:
    """Return how much each kind of step was used, by its launching and whether prompts took part."""
    steps, inside = run.steps, run.of_span(traffic.span)
    took = np.diff(steps.output, prepend=steps.scheduled[:1])
    took = np.minimum(took, steps.output - steps.scheduled)[inside]  # after an idle time: from the decision
    labels = _labels(steps.mode[inside], steps.chunks[inside] > 0)
    result = {}
    simulated = [_simulated_use(one, eager=run.engine.eager) for one in runs]
    for label in sorted({*np.unique(labels).tolist(), *(label for use in simulated for label in use)}):
        here = labels == label
        shares = [use.get(label, (0.0, 0.0)) for use in simulated]
        result[label] = ModeUse(
            compared(float(here.mean()), float(np.mean([share[0] for share in shares]))),
            compared(float(took[here].sum() / took.sum()), float(np.mean([share[1] for share in shares]))),
        )
    return result


def _labels(mode: NDArray[np.int8], prompts: NDArray[np.bool_]) -> NDArray[np.str_]:
    names = np.array([f"{name}, {kind}" for name in MODES for kind in ("decode", "with prompts")])
    labels: NDArray[np.str_] = names[2 * mode.astype(np.int64) + prompts]
    return labels


def _simulated_use(run: Run, *, eager: bool) -> dict[str, tuple[float, float]]:
    steps = run.steps
    prompts = steps.kind != StepKind.DECODE
    none = MODES.index("eager" if eager else "compiled")
    in_graph = np.where(steps.graph == Graph.PIECEWISE, MODES.index("piecewise"), MODES.index("full"))
    labels = _labels(np.where(steps.capture_size > 0, in_graph, none).astype(np.int8), prompts)
    total = float(steps.duration_ns.sum())
    return {
        label: (
            float((labels == label).mean()),
            float(steps.duration_ns[labels == label].sum()) / total,
        )
        for label in np.unique(labels).tolist()
    }
