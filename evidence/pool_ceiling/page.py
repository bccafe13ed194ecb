"""Every number and the figure of docs/pool_ceiling.md.

python -m evidence.pool_ceiling.page            print the tables (about half a minute)
python -m evidence.pool_ceiling.page figure     redraw docs/images/pool_ceiling.png
python -m evidence.pool_ceiling.page arrivals   print the arrivals of sgl-project/sglang#40346 as a trace
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from evidence.fidelity.executed_loops import poisson_requests
from evidence.pool_ceiling.pool_trap import (
    TwoLevels,
    at_rate,
    is_trapped,
    left_at_s,
    runs_of,
    settled_batch,
    trapped_runs,
    turning_rate,
)
from scheduler.analysis.comparison.pools import named_pool
from scheduler.analysis.metrics import summarize
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.report.plots import over_time, save_png
from scheduler.report.views import View
from scheduler.simulate import Variant, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.file.loader import load_workload
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

ROOT = Path(__file__).parents[2]
FIGURE = ROOT / "docs" / "images" / "pool_ceiling.png"
CEILINGS = (48, 128)
BURST_S = 3.0
LEVELS_33483 = TwoLevels.from_itl(3.0, 12.6, rate_per_s=31)
LEVELS_40346 = TwoLevels.from_itl(2.64, (5.44 + 5.51) / 2, rate_per_s=50)
# Executed for real on one H100 80GB SXM in November 2026: (mean batch over time, mean ITL in ms).
H100_EXECUTED = {48: (118.73, 17.713), 128: (32.81, 3.660)}
H100_RATE_PER_S = 36.387007447825006


def workload(name: str) -> Workload:
    """Return a shipped workload."""
    return load_workload(ROOT / "workloads" / f"{name}.yaml")


def sglang_pool(of: Workload, ceiling: int) -> GraphPool:
    """Return the sizes that SGLang captures up to a maximum."""
    return named_pool(f"sglang-{ceiling}", of.engine, of.engine.profile).pool


def h100_pool(ceiling: int) -> GraphPool:
    """Return the sizes of workloads/pool_ceiling.yaml, up to a ceiling."""
    return GraphPool(tuple(size for size in (1, 2, 4, *range(8, 129, 8)) if size <= ceiling))


def redrawn_40346() -> Requests:
    """Return the benchmark's own arrivals: numpy's legacy generator from the reported seed.

    The order is that of sglang/benchmark/datasets/random.py and serving.py: lengths (a range of one value
    draws nothing), one token offset per prompt below the tokenizer's 151,643, then the gaps.
    """
    random = np.random.RandomState(33483)
    random.randint(0, 151_643, size=1000)
    gaps = random.exponential(1 / 50, size=1000)
    arrival_s = np.concatenate([[0.0], np.cumsum(gaps)[:-1]])
    lengths = np.ones(1000, np.int64)
    return Requests(np.rint(arrival_s * 1e9).astype(np.int64), 128 * lengths, 256 * lengths)


def serve(of: Workload, requests: Requests, pool: GraphPool) -> Run:
    """Serve requests with a pool."""
    return simulate(of, requests, of.engine.profile, Variant("pool", pool, "fallback"))


def mean_batch_and_itl_ms(run: Run) -> tuple[float, float]:
    """Return the mean batch size over time, and the mean gap between tokens."""
    steps = run.steps
    gaps = run.gaps
    return (
        float(np.average(steps.batch_size, weights=steps.duration_ns)),
        float(np.average(gaps.gap_ns, weights=gaps.count)) / 1e6,
    )


def h100_lines() -> Iterator[str]:
    """Predict the two loops that ran on an H100."""
    of = workload("pool_ceiling")
    requests = poisson_requests(H100_RATE_PER_S, 1600, 384, 256, 1)
    for ceiling in CEILINGS:
        batch, itl_ms = mean_batch_and_itl_ms(serve(of, requests, h100_pool(ceiling)))
        seen_batch, seen_ms = H100_EXECUTED[ceiling]
        yield (
            f"| {ceiling} | {seen_batch:.0f} | {batch:.0f} | {seen_ms:.1f} ms | {itl_ms:.1f} ms "
            f"| {itl_ms / seen_ms - 1:+.0%} |"
        )


def timeline_lines() -> Iterator[str]:
    """Describe the two runs of the figure."""
    for ceiling, run in zip(CEILINGS, timelines(), strict=True):
        summary = summarize(run, {}, 0)
        eager = (run.steps.capture_size == 0).mean()
        yield (
            f"| {ceiling} | {run.steps.batch_size.max()} | {settled_batch(run):.0f} | {eager:.0%} "
            f"| {summary['median_tpot_ms']:.1f} ms |"
        )


def timelines() -> list[Run]:
    """Serve pool_ceiling.yaml's requests under both ceilings."""
    of = workload("pool_ceiling")
    requests = draw_requests(of, 0)
    return [serve(of, requests, h100_pool(ceiling)) for ceiling in CEILINGS]


def sglang_40346_lines() -> Iterator[str]:
    """Predict sgl-project/sglang#40346 on its own arrivals, then on 20 others."""
    of = workload("sglang_40346")
    for ceiling, reported in ((48, "5.44 to 5.51 ms"), (128, "2.64 ms")):
        pool = sglang_pool(of, ceiling)
        run = serve(of, redrawn_40346(), pool)
        tpot_ms = summarize(run, {}, 0)["median_tpot_ms"]
        trapped = trapped_runs(of, pool, 20)
        yield f"| {ceiling} | {reported} | {tpot_ms:.2f} ms | {settled_batch(run):.0f} | {trapped} of 20 |"


def sglang_33483_lines() -> Iterator[str]:
    """Predict the arms of sgl-project/sglang#33483."""
    arms = (
        (31, 32, 20, "19 of 20", "77", "12.6"),
        (31, 128, 9, "0 of 9", "20", "3.0 to 3.15"),
        (20, 32, 3, "0 of 3", "11 to 12", "2.6"),
        (32, 32, 20, "–", "67", "–"),
        (32, 128, 9, "–", "23", "–"),
    )
    of = workload("sglang_33483")
    for rate_per_s, ceiling, count, trapped, batch, itl_ms in arms:
        runs = list(runs_of(at_rate(of, rate_per_s), sglang_pool(of, ceiling), count))
        slow = [run for run in runs if is_trapped(run, ceiling)]
        state = slow or runs
        settled = np.median([settled_batch(run) for run in state])
        itl = np.median([np.median(tpots_ms(run)[-len(run.requests.arrival_ns) // 4 :]) for run in state])
        yield (
            f"| {rate_per_s} | {ceiling} | {trapped} | {len(slow)} of {count} | {batch} | {settled:.0f} "
            f"| {itl_ms} | {itl:.2f} |"
        )
        if (rate_per_s, ceiling) == (31, 32):
            left = np.median([left_at_s(run) for run in slow])
            first = f"Left for good after (median): reported 17 s, predicted {left:.0f} s."
    yield first


def tpots_ms(run: Run) -> np.ndarray:
    """Return each completed request's TPOT in arrival order, one-token answers left out."""
    requests = run.requests
    several = requests.output_tokens > 1
    later = requests.output_tokens[several] - 1
    return (requests.finish_ns - requests.first_token_ns)[several] / later / 1e6


def mostly_trapped(
    name: str, ceiling: int, after_burst_s: float, replications: int
) -> Callable[[float], bool]:
    """Return the question whether more than half of a workload's runs are trapped at a rate."""
    of = workload(name)
    pool = sglang_pool(of, ceiling)

    def answer(rate_per_s: float) -> bool:
        at = at_rate(of, rate_per_s, after_burst_s=after_burst_s)
        return trapped_runs(at, pool, replications) > replications / 2

    return answer


def free_prefill_lines() -> Iterator[str]:
    """Predict both cases with the reported gaps taken as step times, and prefill free."""
    slow = free_prefill("sglang_33483", 3.0, 12.6)
    trapped = trapped_runs(slow, sglang_pool(slow, 32), 20)
    of = free_prefill("sglang_40346", 2.64, (5.44 + 5.51) / 2)
    tpot_ms = summarize(serve(of, redrawn_40346(), sglang_pool(of, 48)), {}, 0)["median_tpot_ms"]
    yield f"With free prefill: #33483 {trapped} of 20 trapped, #40346 median TPOT {tpot_ms:.2f} ms under 48."


def free_prefill(name: str, graph_ms: float, eager_ms: float) -> Workload:
    """Return a shipped workload with these step times and a prefill that takes no time."""
    curves = {"decode_graph_ms": graph_ms, "decode_eager_ms": eager_ms}
    settings = [f"engine.profile.{key}.base={value}" for key, value in curves.items()]
    path = ROOT / "workloads" / f"{name}.yaml"
    return load_workload(path, [*settings, "engine.profile.prefill_ms.base=0"])


def return_lines() -> Iterator[str]:
    """Count the runs of sgl-project/sglang#33483 that are still slow long after a burst has made them so."""
    of = workload("sglang_33483")
    for rate_per_s, reported in ((31, "none of 46 returned"), (20, "returned from batch 56")):
        slow = trapped_runs(at_rate(of, rate_per_s, after_burst_s=BURST_S), sglang_pool(of, 32), 20)
        yield f"| {rate_per_s} | {reported} | {20 - slow} of 20 returned |"


def turning_lines(replications: int = 9) -> Iterator[str]:
    """Find the rates at which half of the runs are trapped: from an empty engine, and after a burst."""
    for name, rate, ceiling, levels, steps in (
        ("sglang_33483", 31, 32, LEVELS_33483, 197),
        ("sglang_40346", 50, 48, LEVELS_40346, 255),
    ):
        slow, fast = levels.window_per_s(ceiling, steps)
        entered = turning_rate(mostly_trapped(name, ceiling, 0, replications), rate / 2, 1.5 * rate)
        left = turning_rate(mostly_trapped(name, ceiling, BURST_S, replications), rate / 2, 1.5 * rate)
        yield f"| {name} | {slow:.1f}/s | {left:.0f}/s | {entered:.0f}/s | {fast:.1f}/s |"


def draw() -> None:
    """Draw both timelines of pool_ceiling.yaml."""
    most = workload("pool_ceiling").engine.max_num_seqs
    views = [
        View(f"graphs up to {ceiling}", h100_pool(ceiling).sizes, True, (run,), {}, 0, most)
        for ceiling, run in zip(CEILINGS, timelines(), strict=True)
    ]
    FIGURE.parent.mkdir(exist_ok=True)
    save_png(over_time(views), FIGURE)


TABLES = (
    timeline_lines,
    h100_lines,
    free_prefill_lines,
    sglang_33483_lines,
    return_lines,
    sglang_40346_lines,
    turning_lines,
)


def main(command: str) -> None:
    """Print the tables, or do what the command says."""
    if command == "figure":
        draw()
    elif command == "arrivals":
        print("arrived_at,num_prefill_tokens,num_decode_tokens")
        for arrival_ns in redrawn_40346().arrival_ns:
            print(f"{arrival_ns / 1e9:.9f},128,256")
    elif command == "tables":
        for lines in TABLES:
            print("\n".join(lines()), end="\n\n", flush=True)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tables")
