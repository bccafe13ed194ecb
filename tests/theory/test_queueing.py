"""The whole program, workload file to records, against exact queueing results.

Poisson arrivals, free prefill, first come first served at step boundaries, unlimited KV. Every expected
value follows from the named formula; "chain" is the Markov chain of the number in system at step starts
(n' = n - stops + arrivals during the step; an empty system waits for one request), solved exactly.
A value is met when the mean over 20 replications is within its 99.9 % half-width, and that half-width is
narrow enough for the test to mean something. A fresh seed fails about one value in a thousand; the slow
test then repeats once with four times the replications.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from scheduler.analysis.statistics.intervals import mean_interval
from scheduler.analysis.statistics.steady_state import offered_load
from scheduler.catalog.profile.inline import InlineProfile
from scheduler.engine.graph_pool import GraphPool
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload

SHARED = Path(os.environ.get("GRAPHPOOL_SHARED", Path(__file__).parents[2].parent / "shared"))
REPLICATIONS = 20
TEN_MS = {"base": 10, "per_request": 0}
EAGER_12 = {"base": 12, "per_request": 0.2}
GRAPH_6 = {"base": 6, "per_request": 0.3}
GEOMETRIC_16 = {"distribution": "geometric", "mean": 16}
NO_CAP = 10_000  # no case ever has so many requests in the system

POLLACZEK = "Wq = lam E[S^2] / (2 (1 - rho)) (Pollaczek-Khinchine); P(no wait) = 1 - rho"
MD1 = POLLACZEK + "; P(W <= x) = (1-rho) sum_k (-lam (x-kS))^k / k! exp(lam (x-kS)) (Erlang)"
GATED = "q = e^(-lam c), E[busy] = c (q^-D - 1)/(1 - q), P = E[busy]/(E[busy] + 1/lam), latency = D c + P c/2"
INOUE = "batch service with linear step times (Inoue 2021, arXiv 1912.06322)"
CHAIN = "chain; E[L] = sum pi (n t + lam t^2/2) / T, latency = E[L]/lam (Little)"


@dataclass(frozen=True)
class Case:
    """One queue: what arrives, what steps take, what must come out (seconds, requests, shares)."""

    name: str
    formula: str
    rate_per_s: float
    output_tokens: dict
    max_num_seqs: int
    eager_ms: dict
    expected: dict[str, float]
    widest: float
    graph_ms: dict | None = None
    sizes: tuple[int, ...] = ()
    requests: int = 20_000


CASES = (
    Case(
        "md1_rho0.3", MD1, 3.0, {"distribution": "fixed", "value": 10}, 1, TEN_MS,
        {
            "mean_wait": 0.02142857143, "mean_latency": 0.1214285714, "mean_ttft": 0.03142857143, "util": 0.3,
            "frac_no_wait": 0.7, "p90_wait": 0.08377147609, "p99_wait": 0.1890873401,
        },
        0.03,
    ),
    Case(
        "md1_rho0.8", MD1, 8.0, {"distribution": "fixed", "value": 10}, 1, TEN_MS,
        {
            "mean_wait": 0.2, "mean_latency": 0.3, "mean_ttft": 0.21, "util": 0.8,
            "frac_no_wait": 0.2, "p90_wait": 0.5011511498, "p99_wait": 1.035588679,
        },
        0.07, requests=40_000,
    ),
    Case(
        "mgeo1_rho0.5", POLLACZEK, 2.5, {"distribution": "geometric", "mean": 20}, 1, TEN_MS,
        {"mean_wait": 0.195, "mean_latency": 0.395, "util": 0.5, "frac_no_wait": 0.5},
        0.05,
    ),
    Case(
        "mg1_mix_rho0.5", POLLACZEK, 3.4482758620689657,
        {"distribution": "discrete", "values": [5, 100], "weights": [0.9, 0.1]}, 1, TEN_MS,
        {"mean_wait": 0.3525862069, "mean_latency": 0.4975862069, "util": 0.5, "frac_no_wait": 0.5},
        0.08, requests=30_000,
    ),
    Case(
        "gated_D8_lam5", GATED, 5.0, {"distribution": "fixed", "value": 8}, NO_CAP, TEN_MS,
        {
            "mean_latency": 0.08167602427, "mean_ttft": 0.01167602427, "util": 0.3352048532,
            "frac_no_wait": 0.6647951468, "mean_batch": 1.193300145, "p90_ttft": 0.01701674964,
            "p99_ttft": 0.01970167496,
        },
        0.02,
    ),
    Case(
        "inoue_lam40", INOUE, 40.0, {"distribution": "fixed", "value": 1}, NO_CAP,
        {"base": 20, "per_request": 1.5},
        {"mean_latency": 0.0298504614, "mean_batch": 1.293676051, "util": 0.6783928342},
        0.02,
    ),
    Case(
        "bulk_lin_b8_lam150", CHAIN, 150.0, {"distribution": "fixed", "value": 1}, 8,
        {"base": 20, "per_request": 1.5},
        {"mean_latency": 0.04059804191, "mean_batch": 3.899844743, "util": 0.9942613932},
        0.03, requests=30_000,
    ),
    Case(
        "cb_eager_lam12", CHAIN, 12.0, GEOMETRIC_16, 8, EAGER_12,
        {
            "mean_latency": 0.2088560642, "mean_batch": 2.6359886, "util": 0.9124553734,
            "mean_token_gap": 0.01268460111, "tput_tokens": 192.0,
        },
        0.04,
    ),
    Case(
        "cb_full1-8_lam12", CHAIN, 12.0, GEOMETRIC_16, 8, EAGER_12,
        {
            "mean_latency": 0.1092433981, "mean_batch": 1.747086928, "util": 0.716983332,
            "mean_token_gap": 0.006681085734, "tput_tokens": 192.0,
        },
        0.04, GRAPH_6, (1, 2, 3, 4, 5, 6, 7, 8),
    ),
    Case(
        "cb_pow2_lam12", CHAIN, 12.0, GEOMETRIC_16, 8, EAGER_12,
        {
            "mean_latency": 0.1110338839, "mean_batch": 1.755891298, "util": 0.7192752557,
            "mean_token_gap": 0.006790999315, "tput_tokens": 192.0, "padded_per_step": 0.1706566567,
        },
        0.04, GRAPH_6, (1, 2, 4, 8),
    ),
    Case(
        "cb_upto4_fallback_lam12", CHAIN, 12.0, GEOMETRIC_16, 8, EAGER_12,
        {
            "mean_latency": 0.1162031919, "mean_batch": 1.773271688, "util": 0.723037601,
            "mean_token_gap": 0.007105649676, "tput_tokens": 192.0, "padded_per_step": 0.1266779118,
        },
        0.04, GRAPH_6, (1, 2, 4),
    ),
    Case(
        "cb_pow2_lam33", CHAIN, 33.0, GEOMETRIC_16, 8, EAGER_12,
        {
            "mean_latency": 0.1320723779, "mean_batch": 4.031615597, "util": 0.97793904,
            "mean_token_gap": 0.007827668249, "tput_tokens": 528.0, "padded_per_step": 0.8590048983,
        },
        0.04, GRAPH_6, (1, 2, 4, 8),
    ),
)  # fmt: skip
QUICK = [case for case in CASES if case.name not in {"md1_rho0.8", "cb_full1-8_lam12"}]


def workload_of(case: Case, requests: int, folder: Path):
    """Write the case as a workload file and read it back."""
    path = folder / "workload.yaml"
    document = {
        "name": "queue",
        "requests": requests,
        "arrivals": {"process": "poisson", "rate_per_s": case.rate_per_s},
        "prompt_tokens": {"distribution": "fixed", "value": 1},
        "output_tokens": case.output_tokens,
        "engine": {
            "policy": "decode_only",
            "max_num_seqs": case.max_num_seqs,
            "max_num_batched_tokens": NO_CAP,
            "kv_blocks": "unlimited",
            "profile": {
                "decode_eager_ms": case.eager_ms,
                "decode_graph_ms": case.graph_ms or case.eager_ms,
            },
        },
        "pool": {"sizes": list(case.sizes) or [1]},
    }
    path.write_text(json.dumps(document))
    return load_workload(path)


def simulated(case: Case, requests: int, replication: int, folder: Path):
    workload = workload_of(case, requests, folder)
    assert isinstance(workload.engine.profile, InlineProfile)
    variant = Variant("queue", GraphPool(case.sizes), "eager")
    drawn = draw_requests(workload, replication)
    return simulate(workload, drawn, workload.engine.profile, variant, replication=replication)


def measured(run, dropped: int) -> dict[str, float]:
    """Return every quantity a case may name, the first `dropped` requests and the drain left out."""
    requests = run.requests
    wait = (requests.scheduled_ns - requests.arrival_ns)[dropped:] / 1e9
    ttft = (requests.first_token_ns - requests.arrival_ns)[dropped:] / 1e9
    latency = (requests.finish_ns - requests.arrival_ns)[dropped:] / 1e9
    start, end = int(requests.arrival_ns[dropped]), int(requests.arrival_ns[-1])
    steps = run.steps
    inside = (steps.start_ns >= start) & (steps.start_ns < end)
    batch, duration = steps.batch_size[inside].astype(float), steps.duration_ns[inside] / 1e9
    capture = steps.capture_size[inside]
    window_s = (end - start) / 1e9
    return {
        "mean_wait": wait.mean(),
        "mean_latency": latency.mean(),
        "mean_ttft": ttft.mean(),
        "frac_no_wait": (wait == 0).mean(),
        "p90_wait": np.percentile(wait, 90),
        "p99_wait": np.percentile(wait, 99),
        "p90_ttft": np.percentile(ttft, 90),
        "p99_ttft": np.percentile(ttft, 99),
        "util": duration.sum() / window_s,
        "mean_batch": batch.mean(),
        "mean_token_gap": (batch * duration).sum() / batch.sum(),
        "tput_tokens": batch.sum() / window_s,
        "padded_per_step": np.where(capture > 0, capture - batch, 0).mean(),
    }


def misses(case: Case, requests: int, replications: range, widening: float, folder: Path) -> list[str]:
    """Return one line for each expected value that the replications do not meet."""
    runs = [measured(simulated(case, requests, r, folder), requests // 10) for r in replications]
    lines = []
    for key, expected in case.expected.items():
        interval = mean_interval([run[key] for run in runs], confidence=0.999)
        assert interval is not None
        shown = f"{case.name} {key}: {interval.mean:.6g} ± {interval.half_width:.2g}, expected {expected:.6g}"
        if not interval.contains(expected):
            lines.append(f"{shown}: missed ({case.formula})")
        if interval.half_width > widening * case.widest * expected:
            lines.append(f"{shown}: too vague")
    return lines


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_short_runs_meet_the_exact_result(case, tmp_path):
    assert misses(case, 5_000, range(REPLICATIONS), 2.5, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_full_runs_meet_the_exact_result(case, tmp_path):
    if misses(case, case.requests, range(REPLICATIONS), 1, tmp_path):
        again = range(REPLICATIONS, 5 * REPLICATIONS)
        assert misses(case, case.requests, again, 1, tmp_path) == []


def test_expected_values_are_those_of_the_reference_file():
    path = SHARED / "reference" / "queueing_cases.json"
    if not path.exists():
        pytest.skip(f"{path} is not here; the values above are copies")
    reference = {case["id"]: case for case in json.loads(path.read_text())["cases"]}
    assert set(reference) == {case.name for case in CASES}
    for case in CASES:
        other = reference[case.name]
        assert case.expected == {key: other["expected"][key] for key in other["check_keys"]}
        assert case.rate_per_s == pytest.approx(other["params"]["arrival_rate"])
        assert (case.widest, case.requests) == (
            other["max_rel_halfwidth"],
            other["run"]["requests_per_replication"],
        )


OVERLOAD = {
    # Growth = rate - b / (mean tokens * t(b)) at b = max_num_seqs (Li, Dai, Peng 2025, arXiv 2504.07347).
    "eager": (Case("overload_eager", "", 40.0, GEOMETRIC_16, 8, EAGER_12, {}, 0), 40 - 8 / (16 * 0.0136)),
    "pool": (
        Case("overload_pool", "", 70.0, GEOMETRIC_16, 8, EAGER_12, {}, 0, GRAPH_6, (1, 2, 4, 8)),
        70 - 8 / (16 * 0.0084),
    ),
}


@pytest.mark.parametrize("name", OVERLOAD)
def test_overload_is_named_and_the_queue_grows_at_the_excess_rate(name, tmp_path):
    case, growth_per_s = OVERLOAD[name]
    loads = [offered_load(simulated(case, 5_000, r, tmp_path).requests) for r in range(10)]
    assert sum(load.overloaded for load in loads) >= 9
    interval = mean_interval([load.growth_per_s.mean for load in loads], confidence=0.999)
    assert interval.contains(growth_per_s)
    assert interval.half_width < 0.6 * growth_per_s
    capacity = mean_interval([load.delivered_per_s for load in loads], confidence=0.999)
    assert capacity.contains(case.rate_per_s - growth_per_s)


@pytest.mark.parametrize(
    ("rate_per_s", "sizes"), [(33.0, ()), (12.0, ()), (33.0, (1, 2, 4, 8))], ids=["load 0.9", "0.33", "0.55"]
)
def test_a_stable_queue_is_not_called_overloaded(rate_per_s, sizes, tmp_path):
    case = Case("stable", "", rate_per_s, GEOMETRIC_16, 8, EAGER_12, {}, 0, GRAPH_6, sizes)
    loads = [offered_load(simulated(case, 2_000, r, tmp_path).requests) for r in range(10)]
    assert all(load.steady_state for load in loads)
