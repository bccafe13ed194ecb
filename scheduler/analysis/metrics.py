"""From timestamps to numbers: one flat record per run, with the keys of vLLM's `bench serve`.

TTFT = first token − arrival (queueing and prefill included). TPOT = (E2EL − TTFT) / (output tokens − 1),
one number per request, none for one-token answers. ITL = every gap between consecutive tokens, pooled over
requests. E2EL = last token − arrival. Percentiles are numpy's `linear`, weighted ones too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scheduler.analysis.statistics.intervals import may_state, weighted_percentile
from scheduler.engine.executor import StepKind
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Graph, RequestRecords, Run, Status, StepRecords, TokenGaps
from scheduler.workload.arrivals import ClosedLoopArrivals, TraceArrivals
from scheduler.workload.schema import Workload

Float = NDArray[np.float64]
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
MS = 1e6
Record = dict[str, Any]  # flat: what a key holds is a number or a text, but for a few lists and mappings
Latency = Literal["ttft", "tpot", "itl", "e2el", "queue"]
_LATENCY_KEY = re.compile(r"(mean|median|std|p[0-9]+(?:\.[0-9]+)?)_(ttft|tpot|itl|e2el|queue)_ms")
_OF_THE_RUN = {
    "duration": ("s", True),
    "request_goodput": ("requests/s", False),
    "request_throughput": ("requests/s", False),
    "output_throughput": ("tokens/s", False),
    "output_throughput_to_last_arrival": ("tokens/s", False),
    "total_token_throughput": ("tokens/s", False),
}


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of the flat record that variants are compared by; `metric_of` reads it off the key.

    `latency` is None for a number of the run as a whole, such as a throughput; otherwise `statistic` is
    taken of that latency: mean, median, std or a percentile as `p99`.
    """

    key: str
    unit: str
    lower_is_better: bool
    latency: Latency | None = None
    statistic: str | None = None

    @property
    def percentile(self) -> float | None:
        """The percentile (0-100) that is taken; None for a mean, a spread and numbers of the run."""
        if self.statistic is None or self.statistic in ("mean", "std"):
            return None
        return 50.0 if self.statistic == "median" else float(self.statistic[1:])

    @property
    def pairs_by_request(self) -> bool:
        """Whether it is a mean or percentile of one number per request (gaps between tokens are many)."""
        return self.latency not in (None, "itl") and self.statistic != "std"


@lru_cache(maxsize=256)
def metric_of(key: str) -> Metric:
    """Return the metric that a key of the flat record names; raises KeyError where there is none."""
    found = _LATENCY_KEY.fullmatch(key)
    if found is None:
        return Metric(key, *_OF_THE_RUN[key])
    return Metric(key, "ms", True, cast(Latency, found[2]), found[1])


def latencies_ms(requests: RequestRecords, chosen: NDArray[np.bool_]) -> dict[str, Float]:
    """Return the per-request latencies of the chosen completed requests, in milliseconds.

    Keys: ttft, tpot (answers of two tokens or more), e2el, queue (first scheduled − arrival).
    """
    arrival = requests.arrival_ns[chosen]
    ttft = requests.first_token_ns[chosen] - arrival
    e2el = requests.finish_ns[chosen] - arrival
    later_tokens = requests.output_tokens[chosen] - 1
    several = later_tokens > 0
    return {
        "ttft": ttft / MS,
        "tpot": (e2el - ttft)[several] / later_tokens[several] / MS,
        "e2el": e2el / MS,
        "queue": (requests.scheduled_ns[chosen] - arrival) / MS,
    }


def measured_requests(requests: RequestRecords, warmup_requests: int) -> NDArray[np.bool_]:
    """Return which requests count: completed, and not among the first `warmup_requests`."""
    chosen: NDArray[np.bool_] = requests.status == Status.COMPLETED
    chosen[:warmup_requests] = False
    return chosen


def window_start_ns(requests: RequestRecords, warmup_requests: int) -> int:
    """Return the arrival of the first request that counts; steps and gaps before it are left out."""
    count = len(requests.arrival_ns)
    return int(requests.arrival_ns[min(warmup_requests, count - 1)]) if count else 0


def summarize(run: Run, slo_ms: Mapping[str, float], warmup_requests: int = 0) -> Record:
    """Return the flat record of one run; a key whose value does not exist is left out.

    `slo_ms` maps ttft, tpot, e2el to limits in milliseconds. Times end in `_ms`, durations in seconds,
    throughputs are per second of the measured window (first measured arrival to last completion).
    """
    requests = run.requests
    chosen = measured_requests(requests, warmup_requests)
    start_ns = window_start_ns(requests, warmup_requests)
    latencies = latencies_ms(requests, chosen)
    record = _counts(requests, run)
    record["measured_requests"] = int(chosen.sum())
    for name, values in latencies.items():
        record |= _distribution(name, values, None, len(values))
    steps, gaps = run.steps, run.gaps
    measured = steps.start_ns[gaps.step] >= start_ns if len(gaps.gap_ns) else slice(0)
    gaps_ms, counts = gaps.gap_ns[measured] / MS, gaps.count[measured]
    record |= _distribution("itl", gaps_ms, counts, int(chosen.sum()))
    if "p99_itl_ms" in record:
        slowest = gaps_ms >= record["p99_itl_ms"]
        by_prompts = _has_prompt_work(steps)[gaps.step[measured][slowest]]
        record["p99_itl_prompt_share"] = float(np.average(by_prompts, weights=counts[slowest]))
    record |= _throughput(run, chosen, start_ns)
    record |= _while_arriving(requests, steps, gaps, start_ns)
    record |= _goodput(latencies, requests.output_tokens[chosen], slo_ms, record["duration"])
    record |= pool_use(run, start_ns)
    return record


def _counts(requests: RequestRecords, run: Run) -> Record:
    status = requests.status
    completed = status == Status.COMPLETED
    prefixes = run.prefix_use
    shared: Record = {}
    if prefixes is not None and prefixes.asked_tokens:
        shared = {
            "prefix_hit_rate": prefixes.hit_tokens / prefixes.asked_tokens,
            "prefix_cached_tokens": prefixes.hit_tokens,
            "prefix_evicted_blocks": prefixes.evicted_blocks,
        }
    return {
        "num_prompts": len(status),
        "completed": int(completed.sum()),
        "rejected": int((status == Status.REJECTED).sum()),
        "failed": int((status == Status.REJECTED).sum()),
        "unfinished": int((status == Status.UNFINISHED).sum()),
        "preemptions": int(requests.preemptions.sum()),
        "max_preemptions": int(requests.preemptions.max(initial=0)),
        "total_input_tokens": int(requests.prompt_tokens[completed].sum()),
        "total_output_tokens": int(requests.output_tokens[completed].sum()),
        "peak_kv_blocks": run.peak_kv_blocks,
        **shared,
    }


def _distribution(
    name: str, values: Float, counts: NDArray[np.int32] | None, requests: int
) -> dict[str, float]:
    if not len(values) or not requests:  # gaps of requests that never ended say nothing of their ITL
        return {}
    percentiles = [q for q in PERCENTILES if may_state(q, requests)]
    if counts is None:
        points = np.percentile(values, percentiles)
        mean, spread = float(values.mean()), float(values.std())
    else:
        points = weighted_percentile(values, counts, percentiles)
        mean = float(np.average(values, weights=counts))
        spread = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
    record = {f"mean_{name}_ms": mean, f"median_{name}_ms": float(points[0]), f"std_{name}_ms": spread}
    for q, point in zip(percentiles, points, strict=True):
        record[f"p{q:g}_{name}_ms"] = float(point)
    if name == "tpot":  # readers divide by every key that names tpot, so zeros are left out
        record = {key: value for key, value in record.items() if value}
    return record


def _throughput(run: Run, chosen: NDArray[np.bool_], start_ns: int) -> Record:
    requests = run.requests
    end_ns = int(requests.finish_ns.max(initial=start_ns))
    duration = (end_ns - start_ns) / 1e9
    record: Record = {"duration": duration}
    if duration > 0:
        output = int(requests.output_tokens[chosen].sum())
        prompt = int(requests.prompt_tokens[chosen].sum())
        record["request_throughput"] = int(chosen.sum()) / duration
        record["output_throughput"] = output / duration
        record["total_token_throughput"] = (output + prompt) / duration
    arrivals = requests.arrival_ns
    if len(arrivals) > 1 and arrivals[-1] > arrivals[0]:
        record["offered_request_rate"] = (len(arrivals) - 1) / (int(arrivals[-1] - arrivals[0]) / 1e9)
    return record


def _has_prompt_work(steps: StepRecords) -> NDArray[np.bool_]:
    """Return for each step whether the gap it ends holds work on prompts: its own, or of the step before."""
    prompts = steps.kind != StepKind.DECODE
    before = np.concatenate([[False], steps.kind[:-1] == StepKind.PREFILL])[: len(prompts)]
    found: NDArray[np.bool_] = prompts | before
    return found


def _while_arriving(requests: RequestRecords, steps: StepRecords, gaps: TokenGaps, start_ns: int) -> Record:
    """Return the output tokens per second that were handed over up to the last arrival.

    What is served afterwards, while the server empties, depends on how long the run is. Nothing where all
    arrive at once.
    """
    end_ns = int(requests.arrival_ns.max(initial=start_ns))
    if end_ns <= start_ns:
        return {}
    ends = (steps.start_ns + steps.duration_ns)[gaps.step]
    later = int(gaps.count[(ends > start_ns) & (ends <= end_ns)].sum(dtype=np.int64))
    first = int(((requests.first_token_ns > start_ns) & (requests.first_token_ns <= end_ns)).sum())
    return {"output_throughput_to_last_arrival": (later + first) / ((end_ns - start_ns) / 1e9)}


def _goodput(
    latencies: Mapping[str, Float],
    output_tokens: NDArray[np.int64],
    slo_ms: Mapping[str, float],
    duration: float,
) -> Record:
    if not slo_ms:
        return {}
    good = np.ones(len(output_tokens), bool)
    for name, limit in slo_ms.items():
        values = latencies[name]
        if name == "tpot":  # a one-token answer has no TPOT and misses no TPOT limit
            values = np.zeros(len(output_tokens))
            values[output_tokens > 1] = latencies["tpot"]
        good &= values <= limit
    record: Record = {"goodput_slo": dict(slo_ms)}
    if len(good):
        record["slo_attainment"] = float(good.mean())
    if duration > 0:
        record["request_goodput"] = float(good.sum() / duration)
    return record


def waiting_and_running(run: Run, at_ns: ArrayLike) -> tuple[Float, Float]:
    """Return how many requests wait and how many run (hold a slot) at the given times, as servers report it.

    A preempted request waits until it is admitted again; a rejected one does neither.
    """
    requests, held, at = run.requests, run.kv_use, np.asarray(at_ns)
    came = (requests.status != Status.REJECTED) & (requests.arrival_ns >= 0)
    arrived, ended = (
        np.searchsorted(np.sort(times), at, side="right").astype(float)
        for times in (requests.arrival_ns[came], requests.finish_ns[requests.finish_ns >= 0])
    )
    in_system = arrived - ended
    newest = np.searchsorted(held.time_ns, at, side="right")
    holding = np.concatenate([[0], held.running])[newest]  # 0 before the first step
    running: Float = np.minimum(holding, in_system)  # an answer that has ended holds no slot
    return in_system - running, running


def pool_use(run: Run, start_ns: int = 0) -> Record:
    """Return how the graphs were used by steps that start at or after `start_ns`.

    Replay share = decode steps replayed / decode steps; padding share = padded slots / captured slots.
    Mixed and prefill steps that took a piecewise graph are counted apart.
    """
    steps = run.steps
    chosen = steps.start_ns >= start_ns
    kind, batch, capture = steps.kind[chosen], steps.batch_size[chosen], steps.capture_size[chosen]
    decode = kind == StepKind.DECODE
    replayed = decode & (capture > 0)
    captured_slots = int(capture[replayed].sum(dtype=np.int64))
    duration = steps.duration_ns[chosen]
    busy_ns = int(duration.sum())
    record: Record = {
        "steps": int(chosen.sum()),
        "decode_steps": int(decode.sum()),
        "prefill_steps": int((kind == StepKind.PREFILL).sum()),
        "mixed_steps": int((kind == StepKind.MIXED).sum()),
    }
    if record["decode_steps"]:
        record["replay_share"] = float(replayed.sum() / decode.sum())
        record["mean_batch_size"] = float(batch[decode].mean())
        record["max_batch_size"] = int(batch[decode].max())
    if captured_slots:
        record["padding_share"] = (
            1 - int(batch[replayed].sum(dtype=np.int64)) * run.tokens_per_row / captured_slots
        )
    if len(capture) > int(decode.sum()):
        record["mixed_replay_share"] = float((capture[~decode] > 0).mean())
    if run.tokens_per_row > 1:
        record |= _accepted(run, start_ns)
    if busy_ns:
        record["time_mean_batch_size"] = float((batch * duration).sum() / busy_ns)
        record["decode_time_share"] = float(duration[decode].sum() / busy_ns)
    return record


def _accepted(run: Run, start_ns: int) -> Record:
    """Return how many tokens a request got per decode step, the target model's own included."""
    steps, gaps = run.steps, run.gaps
    decode = (steps.kind == StepKind.DECODE) & (steps.start_ns >= start_ns)
    rows = int(steps.batch_size[decode].sum(dtype=np.int64))
    tokens = int(gaps.count[decode[gaps.step]].sum(dtype=np.int64))
    return {"spec_decode_acceptance_length": tokens / rows} if rows else {}


def without_graph_share(run: Run) -> float:
    """Return the share of decode steps that ran without a graph."""
    decode = run.steps.kind == StepKind.DECODE
    return float((run.steps.capture_size[decode] == 0).mean()) if decode.any() else 0.0


def missed_graph_share(run: Run, pool: GraphPool) -> float:
    """Return the share of steps that found no graph of the kind that the pool's mode has for them.

    Decode steps without a FULL graph (in mode piecewise without any), and, where the list serves them, steps
    with prompts without a graph.
    """
    steps = run.steps
    decode = steps.kind == StepKind.DECODE
    missed = decode & (steps.graph != (Graph.FULL if pool.full else Graph.PIECEWISE))
    if pool.piecewise:
        missed |= ~decode & (steps.graph == Graph.NONE)
    return float(missed.mean()) if len(steps) else 0.0


def request_rate(workload: Workload, record: Record) -> float | str:
    """Return the rate asked for; of a trace or of stages the rate that came; "inf": all at once."""
    arrivals = workload.arrivals
    if isinstance(arrivals, ClosedLoopArrivals):
        return "inf"
    if not isinstance(arrivals, TraceArrivals) and arrivals.rate_per_s is not None:
        return arrivals.rate_per_s
    offered: float | str = record.get("offered_request_rate", "inf")
    return offered
