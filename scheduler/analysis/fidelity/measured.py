"""Simulated against measured: the same arrivals and lengths through both, and how far apart they end."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from scheduler.analysis.metrics import latencies_ms, waiting_and_running
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.records import Run, Status
from scheduler.errors import InputError
from scheduler.simulate import PoolCost, Variant, pool_cost, simulate
from scheduler.workload.inputs.measured import Measured
from scheduler.workload.schema import Workload

Float = NDArray[np.float64]
STATISTICS = ("mean", "p50", "p90", "p99")


class Compared(TypedDict):
    """A number as measured and as simulated; `error` = simulated / measured − 1."""

    measured: float
    simulated: float
    error: float


@dataclass(frozen=True, slots=True)
class Validation:
    """A measured run beside the simulation of it.

    `latencies` maps a latency (`ttft_ms`) and a statistic to both numbers, `totals` a number of the run.

    `paired` holds per-request relative errors (simulated / measured − 1) of the requests both completed.
    """

    workload: Workload
    measured: Measured
    run: Run
    latencies: dict[str, dict[str, Compared]]
    totals: dict[str, Compared]
    samples: dict[str, int]
    paired: dict[str, dict[str, float]]
    over_time: dict[str, dict[str, float]]
    ticks: Ticks | None
    distributions: dict[str, tuple[Float, Float]]
    timelines: dict[str, tuple[Float, Float]]


@dataclass(frozen=True, slots=True)
class Ticks:
    """What a server printed at intervals: time since its first request, and running, waiting, KV use."""

    time_s: Float
    running: Float
    waiting: Float
    kv_cache_pct: Float


def read_ticks(path: Path) -> Ticks:
    """Read a CSV with the columns t, running, waiting, kv_cache_pct; raises InputError."""
    names = ("t", "running", "waiting", "kv_cache_pct")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = [np.array([float(row[name]) for row in rows], np.float64) for name in names]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: expected a CSV with numbers in the columns {', '.join(names)}") from None
    if not len(columns[0]) or not all(np.isfinite(column).all() for column in columns):
        raise InputError(f"{path}: expected at least one row of finite numbers")
    return Ticks(*columns)


def validate(
    workload: Workload, profile: Profile, variant: Variant, measured: Measured, ticks: Ticks | None = None
) -> Validation:
    """Drive the simulator with a measured run's requests and compare every latency and the throughput."""
    run = simulate(workload, measured.requests, profile, variant)
    completed = run.requests.status == Status.COMPLETED
    simulated = latencies_ms(run.requests, completed)
    latencies: dict[str, dict[str, Compared]] = {}
    samples: dict[str, int] = {}
    measured_by_name = {"ttft": measured.ttft_ms, "tpot": measured.tpot_ms, "e2el": measured.e2el_ms}
    for name, values in measured_by_name.items():
        values = values[~np.isnan(values)]
        latencies[f"{name}_ms"] = {
            statistic: compared(_statistic(values, statistic), _statistic(simulated[name], statistic))
            for statistic in STATISTICS
            if len(values) and len(simulated[name])
        }
        samples[f"{name}_ms"] = len(values)
    makespan_s = float(run.requests.finish_ns.max(initial=0) - run.requests.arrival_ns.min(initial=0)) / 1e9
    totals = {
        "makespan_s": compared(measured.makespan_s, makespan_s),
        "output_throughput": compared(
            int(measured.requests.output_tokens.sum()) / measured.makespan_s,
            int(run.requests.output_tokens[completed].sum()) / makespan_s if makespan_s else 0.0,
        ),
    }
    cost = pool_cost(workload.engine, profile, variant.pool)
    timelines = {} if ticks is None else _timelines(ticks, run, cost)
    return Validation(
        workload,
        measured,
        run,
        latencies,
        totals,
        samples,
        _paired(measured_by_name, run, completed),
        {name: _tick_errors(*pair) for name, pair in timelines.items()},
        ticks,
        {name: (values[~np.isnan(values)], simulated[name]) for name, values in measured_by_name.items()},
        timelines,
    )


def _timelines(ticks: Ticks, run: Run, cost: PoolCost) -> dict[str, tuple[Float, Float]]:
    """Return (measured, simulated) at each tick."""
    waiting, running = waiting_and_running(run, ticks.time_s * 1e9)
    pairs = {"running": (ticks.running, running), "waiting": (ticks.waiting, waiting)}
    if cost.kv_blocks:
        index = np.clip(np.searchsorted(run.kv_use.time_ns, ticks.time_s * 1e9, side="right") - 1, 0, None)
        pairs["kv_cache_pct"] = (ticks.kv_cache_pct, 100.0 * run.kv_use.blocks[index] / cost.kv_blocks)
    return pairs


def _tick_errors(measured: Float, simulated: Float) -> dict[str, float]:
    return {
        "measured": float(measured.mean()),
        "simulated": float(simulated.mean()),
        "mean_absolute_difference": float(np.abs(simulated - measured).mean()),
        "ticks": len(measured),
    }


def _statistic(values: Float, name: str) -> float:
    return float(values.mean()) if name == "mean" else float(np.percentile(values, float(name[1:])))


def compared(measured: float, simulated: float) -> Compared:
    """Return both numbers and the relative error of the simulated one (0 where nothing was measured)."""
    error = simulated / measured - 1 if measured else 0.0
    return Compared(measured=measured, simulated=simulated, error=error)


def _paired(
    measured: dict[str, Float], run: Run, completed: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Return median, mean absolute and 90 % absolute relative error per request."""
    requests = run.requests
    later = requests.output_tokens - 1
    ttft = (requests.first_token_ns - requests.arrival_ns) / 1e6
    e2el = (requests.finish_ns - requests.arrival_ns) / 1e6
    simulated = {"ttft": ttft, "e2el": e2el, "tpot": (e2el - ttft) / np.where(later > 0, later, np.nan)}
    result = {}
    for name, values in measured.items():
        usable = completed & (values > 0) & ~np.isnan(simulated[name])
        if not usable.any():
            continue
        errors = simulated[name][usable] / values[usable] - 1
        result[f"{name}_ms"] = {
            "requests": int(usable.sum()),
            "median_error": float(np.median(errors)),
            "mean_absolute_error": float(np.abs(errors).mean()),
            "p90_absolute_error": float(np.percentile(np.abs(errors), 90)),
        }
    return result
