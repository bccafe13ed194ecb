"""One simulation of a sweep as a small picklable task: what defines it, its key, and its flat record."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from scheduler.analysis.metrics import Record, summarize
from scheduler.analysis.records import flat_record, offered_loads
from scheduler.catalog.profile.profile import Profile
from scheduler.engine.records import Run
from scheduler.errors import InputError
from scheduler.simulate import Variant, high_end, pool_cost, simulate
from scheduler.workload.draw import draw_requests
from scheduler.workload.inputs.runs import split_run
from scheduler.workload.requests import Requests
from scheduler.workload.schema import Workload

_PACKAGE = Path(__file__).parents[2]
# What a simulated number depends on; a change to any of these files makes stored numbers stale.
_SOURCES = (
    "__init__.py",
    "analysis/sweep/max_rate.py",
    "analysis/metrics.py",
    "analysis/records.py",
    "analysis/sweep/task.py",
    "analysis/statistics/intervals.py",
    "analysis/statistics/steady_state.py",
    "catalog",
    "compiled.py",
    "engine",
    "errors.py",
    "executors/model",
    "files.py",
    "simulate.py",
    "workload",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all variants and replications of a point share.

    `digest` stands for the content of all of it, and `source` for the program that must compute it.
    """

    workload: Workload
    profile: Profile
    warmup_share: float
    digest: str
    source: str


def setting_of(workload: Workload, profile: Profile, warmup_share: float) -> Setting:
    """Return the setting; the workload's own pool is no part of its digest, each variant's is of its task's.

    Raises InputError where a trace cannot be read.
    """
    content = {
        "workload": workload.model_dump(mode="json", exclude={"pool"}),
        "trace": requests_digest(workload),
        "profile": profile.model_dump(mode="json"),
        "warmup_share": warmup_share,
        "source": source_digest(),
    }
    return Setting(workload.absolute(), profile, warmup_share, _digest(content), source_digest())


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Simulation:
    """One variant and one replication of a setting."""

    setting: Setting
    variant: Variant
    replication: int

    def definition(self) -> list[Any]:
        """Return everything that decides the result."""
        pool = self.variant.pool
        shape = [list(pool.sizes), pool.padding, pool.mode, pool.rules, self.variant.without_graph]
        return [type(self).__name__, self.setting.digest, self.variant.name, shape, self.replication]

    def key(self) -> str:
        """Return the name under which the result is stored: equal tasks have equal keys."""
        return _digest(self.definition())

    def records(self) -> list[Record]:
        """Simulate; where the profile gives a range and it matters here, its high end is a second record.

        Raises InputError for what the workload and the profile cannot mean together.
        """
        self.check_source()
        requests = drawn(self.setting.workload, self.replication)
        run = self.run(self.setting.workload, requests, self.variant)
        records = [self._record(run, requests, self.variant)]
        high = high_end(self.setting.profile, self.variant, [run])
        if high is not None:
            records.append(self._record(self.run(self.setting.workload, requests, high), requests, high))
        return records

    def check_source(self) -> None:
        """Raise InputError on a worker that runs other code than the one that asks."""
        if self.setting.source != source_digest():
            raise InputError("the worker runs another version of graphpool; install the same one everywhere")

    def run(self, workload: Workload, requests: Requests, variant: Variant) -> Run:
        """Serve the requests once; a partial run is an error here, and Ctrl-C stays one."""
        run = simulate(workload, requests, self.setting.profile, variant, replication=self.replication)
        if run.failure == "interrupted":
            raise KeyboardInterrupt
        if run.failure is not None:
            raise InputError(run.failure)
        return run

    def warmup_requests(self, requests: Requests) -> int:
        """Return how many of the first requests no statistic counts."""
        return int(len(requests) * self.setting.warmup_share)

    def _record(self, run: Run, requests: Requests, variant: Variant) -> Record:
        workload, profile = self.setting.workload, self.setting.profile
        slo_ms = workload.slo.limits_ms if workload.slo else {}
        return flat_record(
            workload,
            profile,
            variant,
            pool_cost(workload.engine, profile, variant.pool),
            [summarize(run, slo_ms, self.warmup_requests(requests))],
            offered_loads(workload, [run]),
            {"replication": self.replication},
        )


def drawn(workload: Workload, replication: int) -> Requests:
    """Return the replication's requests; the latest are kept, because the next task often needs the same."""
    decisive = workload.model_dump(mode="json", exclude={"engine", "pool", "slo"})
    key = (json.dumps(decisive, sort_keys=True), requests_digest(workload), replication)
    if key not in _drawn:
        requests = draw_requests(workload, replication)
        _drawn.clear()
        _drawn[key] = requests
    return _drawn[key]


_drawn: dict[tuple[str, str | None, int], Requests] = {}


def requests_digest(workload: Workload) -> str | None:
    """Return a digest of the files that requests are read from, None where all are drawn.

    Raises InputError where one cannot be read.
    """
    digests = [_digest_of(split_run(path)[0]) for path in workload.request_files]
    return "+".join(digests) or None


def _digest_of(path: Path) -> str:
    try:
        facts = path.stat()
        return _file_digest(path, facts.st_mtime_ns, facts.st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@lru_cache(maxsize=64)
def _file_digest(path: Path, modified_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_files() -> list[Path]:
    """Return the files that decide a result, in a fixed order; the door of a room decides nothing."""
    parts = [_PACKAGE / name for name in _SOURCES]
    return [file for part in parts for file in (sorted(part.rglob("[!_]*.py")) if part.is_dir() else [part])]


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Return a digest of the code that decides a result: numbers of other code are never taken for ours."""
    digest = hashlib.sha256()
    for file in source_files():
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
