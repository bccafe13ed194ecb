"""Many simulations, kept one by one: each lands in a file of its own, and a repeated sweep skips it.

A point is one combination of swept keys. Each point × variant × replication is one task, named by a hash
of all that decides its numbers, so nothing is counted twice and a changed workload computes anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler.analysis.metrics import Record
from scheduler.analysis.sweep.max_rate import SLO_SHARE, RateSearch
from scheduler.analysis.sweep.store import Store
from scheduler.analysis.sweep.task import Setting, Simulation
from scheduler.analysis.workers import Workers, as_completed
from scheduler.errors import InputError
from scheduler.simulate import HIGH, Variant

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One combination of swept keys, resolved: what to simulate, or the lines that say why it cannot be."""

    swept: Mapping[str, Any]
    setting: Setting | None = None
    variants: tuple[Variant, ...] = ()
    replications: int = 1
    problems: tuple[str, ...] = ()

    def simulations(self) -> Iterator[Simulation]:
        """Yield one task per replication and variant."""
        if self.setting is not None:
            for replication in range(self.replications):
                for variant in self.variants:
                    yield Simulation(self.setting, variant, replication)

    def rate_searches(self, slo_share: float = SLO_SHARE) -> Iterator[RateSearch]:
        """Yield one search for the highest rate per replication and variant."""
        for task in self.simulations():
            yield RateSearch(task.setting, task.variant, task.replication, slo_share)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker sends back: flat records, or one error line; and the CPU seconds it took."""

    records: list[Record]
    error: str | None
    cpu_s: float


@dataclass(slots=True)
class Effort:
    """What was done this time, at what cost, and the error line of each task that failed (by key)."""

    workers: int
    computed: int = 0
    reused: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def utilisation(self) -> float | None:
        """CPU seconds of the tasks / (workers × wall-clock seconds); None where nothing was computed."""
        return self.cpu_s / (self.workers * self.wall_s) if self.computed and self.wall_s else None


def work(task: Simulation) -> Outcome:
    """Carry out one task, in whatever process this is; an error becomes one line."""
    started = time.thread_time()
    try:
        return Outcome(task.records(), None, time.thread_time() - started)
    except InputError as error:
        line = error.lines[0] if error.lines else "failed"
    except Exception as error:  # one point must not end the others, whatever is wrong with it
        line = f"unexpected {type(error).__name__}: {error}"
    return Outcome([], " ".join(line.split()), time.thread_time() - started)


def carry_out(
    tasks: Iterable[Simulation],
    workers: Workers,
    store: Store,
    progress: Progress | None = None,
    what: str = "simulations",
) -> Effort:
    """Do what is not stored yet, each distinct task once, and store it as it is finished.

    Raises WorkersLostError where the executor itself fails and passes Ctrl-C on; what is finished is
    stored by then.
    """
    started = time.monotonic()
    by_key = {task.key(): task for task in tasks}
    missing = [key for key in by_key if store.get(key) is None]
    effort = Effort(workers.count, reused=len(by_key) - len(missing))
    for index, outcome in as_completed(work, [by_key[key] for key in missing], workers):
        if outcome.error is None:
            store.put(missing[index], outcome.records)
        else:
            effort.errors[missing[index]] = outcome.error
        effort.computed += 1
        effort.cpu_s += outcome.cpu_s
        if progress is not None:
            progress(what, effort.computed, len(missing))
    effort.wall_s = time.monotonic() - started
    return effort


def collect(
    points: Sequence[Point],
    tasks: Sequence[Sequence[Simulation]],
    store: Store,
    errors: Mapping[str, str] | None = None,
) -> list[Record]:
    """Return the flat records of all points (`tasks[i]` are those of point i) from what is stored.

    In the order of points, then variants, then high ends of ranges, replications within. What failed is a
    record with `error`; what is neither stored nor failed is left out.
    """
    records: list[Record] = []
    for point, row in zip(points, tasks, strict=True):
        if point.problems:
            records.append({**point.swept, "error": point.problems[0]})
        records += _records_of(point, row, store, errors or {})
    return records


def _records_of(
    point: Point, tasks: Sequence[Simulation], store: Store, errors: Mapping[str, str]
) -> list[Record]:
    """Put a point's records in order.

    A replication in which no step was slower at the high end stands for both ends where another's was.
    """
    low: dict[str, list[Record]] = {variant.name: [] for variant in point.variants}
    high: dict[str, list[Record]] = {variant.name: [] for variant in point.variants}
    has_high: set[str] = set()
    for task in tasks:
        name, key = task.variant.name, task.key()
        if key in errors:
            failed = {"variant": name, "replication": task.replication, "error": errors[key]}
            low[name].append({**point.swept, **failed})
        found = store.get(key)
        if found is None:
            continue
        low[name].append({**found[0], **point.swept})
        high[name].append({**found[-1], "variant": name + HIGH, **point.swept})
        if len(found) > 1:
            has_high.add(name)
    records = [record for name in low for record in low[name]]
    return records + [record for name in high if name in has_high for record in high[name]]


def failures(records: Sequence[Record]) -> list[str]:
    """Return one line per point and variant that failed, each once."""
    return list(dict.fromkeys(_failure(record) for record in records if "error" in record))


def _failure(record: Record) -> str:
    hidden = ("variant", "replication", "error")
    parts = [f"{key}={value}" for key, value in record.items() if key not in hidden]
    if "variant" in record:
        parts.append(str(record["variant"]))
    return f"{', '.join(parts) or 'the workload'}: {record['error']}"
