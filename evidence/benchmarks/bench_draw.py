"""How long drawing and reading 1,000,000 requests takes: python -m evidence.benchmarks.bench_draw."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scheduler.workload.arrivals import GammaArrivals, PoissonArrivals
from scheduler.workload.lengths import GeometricLength, LognormalLength
from scheduler.workload.rates import Stage
from scheduler.workload.traces.read import read_trace

COUNT = 1_000_000
REPEATS = 3
POISSON = PoissonArrivals(process="poisson", rate_per_s=8.0)
PROMPT = LognormalLength(distribution="lognormal", mean=1155.0, p99=4142.0)
OUTPUT = GeometricLength(distribution="geometric", mean=211.0)


def timed(name: str, work: Callable[[], object]) -> None:
    """Print the best of a few runs."""
    best = min(_seconds(work) for _ in range(REPEATS))
    print(f"{name:<46} {best * 1e3:8.1f} ms for {COUNT:,} requests")


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Time arrivals, lengths and the trace readers."""
    rng = np.random.default_rng(0)
    gamma = GammaArrivals(process="gamma", rate_per_s=8.0, burstiness=0.5)
    rates = (((2.0, 20.0), 300.0), ((20.0, 2.0), 300.0), (8.0, 60.0))
    ramps = tuple(Stage(rate_per_s=rate, duration_s=duration) for rate, duration in rates)
    with_ramps = PoissonArrivals(process="poisson", stages=ramps)
    timed("poisson arrivals", lambda: POISSON.draw(rng, requests=COUNT))
    timed("gamma arrivals", lambda: gamma.draw(rng, requests=COUNT))
    timed("poisson arrivals, ramps", lambda: with_ramps.draw(rng, requests=COUNT))
    timed("lognormal lengths", lambda: PROMPT.draw(rng, COUNT))
    timed("geometric lengths", lambda: OUTPUT.draw(rng, COUNT))
    with tempfile.TemporaryDirectory() as folder:
        azure, jsonl = _write_traces(Path(folder), rng)
        timed("read Azure CSV", lambda: read_trace(azure))
        timed("read JSON Lines", lambda: read_trace(jsonl))


def _write_traces(folder: Path, rng: np.random.Generator) -> tuple[Path, Path]:
    arrival_ns = POISSON.draw(rng, requests=COUNT)
    start = np.datetime64("2023-11-16T18:15:46", "ns")
    times = np.char.replace(np.datetime_as_string(start + arrival_ns // 100 * 100), "T", " ")
    prompt, output = PROMPT.draw(rng, COUNT), OUTPUT.draw(rng, COUNT)
    azure, jsonl = folder / "azure.csv", folder / "requests.jsonl"
    with azure.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        file.writelines(f"{t[:-2]},{p},{o}\n" for t, p, o in zip(times, prompt, output, strict=True))
    with jsonl.open("w") as file:
        line = '{{"arrival_time": {:.7f}, "input_toks": {}, "output_toks": {}}}\n'
        rows = zip(arrival_ns / 1e9, prompt, output, strict=True)
        file.writelines(line.format(*row) for row in rows)
    return azure, jsonl


if __name__ == "__main__":
    main()
