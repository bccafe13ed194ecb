"""The trap of a pool whose largest capture size lies below the batches that the engine admits.

Above the largest size steps run without a graph and take longer, so answers take longer, so more of them run
at once: at one arrival rate the loop can settle below the ceiling or far above it. First reported in
https://github.com/sgl-project/sglang/issues/33483.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np

from scheduler.analysis.sweep.max_rate import mean_rate_per_s
from scheduler.catalog.profile.file import load_profile
from scheduler.engine.graph_pool import GraphPool
from scheduler.engine.records import Run
from scheduler.errors import InputError
from scheduler.simulate import Variant, simulate
from scheduler.workload.arrivals import PoissonArrivals
from scheduler.workload.draw import draw_requests
from scheduler.workload.rates import Stage
from scheduler.workload.schema import Workload

TAIL = 0.75  # a run has settled in the last quarter of its arrivals, or never does


@dataclass(frozen=True, slots=True)
class TwoLevels:
    """One decode step with and without a graph, whatever the batch; a prefill step runs without one.

    A step without a graph costs what its launches cost, so a step of short prompts takes `eager_ms`, too.
    """

    graph_ms: float
    eager_ms: float

    @classmethod
    def from_itl(cls, graph_itl_ms: float, eager_itl_ms: float, rate_per_s: float) -> TwoLevels:
        """Return the step times behind two reported token gaps at an arrival rate.

        With one prefill step per request, prefill takes the share `rate · eager` of all time and decode
        steps what is left: gap = step / (1 − rate · eager), solved for the steps.
        """
        rate_per_ms = rate_per_s / 1e3
        eager_ms = eager_itl_ms / (1 + rate_per_ms * eager_itl_ms)
        return cls(graph_itl_ms * (1 - rate_per_ms * eager_ms), eager_ms)

    def window_per_s(self, ceiling: int, steps_per_answer: float) -> tuple[float, float]:
        """Return the arrival rates between which both states exist, fluctuations left out.

        Little's law, batch = rate · steps · step / (1 − rate · eager), solved for the rate at which the
        slow batch falls to the ceiling, and the one at which the fast batch climbs to it.
        """
        slow_ms = (steps_per_answer + ceiling) * self.eager_ms
        fast_ms = steps_per_answer * self.graph_ms + ceiling * self.eager_ms
        return 1e3 * ceiling / slow_ms, 1e3 * ceiling / fast_ms


def settled_batch(run: Run) -> float:
    """Return the batch size at the middle of the time spent decoding in the last quarter of the arrivals."""
    steps = run.steps
    end_ns = int(run.requests.arrival_ns.max())
    tail = (steps.batch_size > 0) & (steps.start_ns >= TAIL * end_ns) & (steps.start_ns <= end_ns)
    batch, duration = steps.batch_size[tail], steps.duration_ns[tail]
    order = np.argsort(batch, kind="stable")
    spent = np.cumsum(duration[order])
    return float(batch[order][np.searchsorted(spent, spent[-1] / 2)])


def is_trapped(run: Run, ceiling: int) -> bool:
    """Tell whether the run settled above the largest capture size."""
    return settled_batch(run) > ceiling


def left_at_s(run: Run) -> float:
    """Return when the last step with a graph ended before the arrivals did (0: there is none)."""
    steps = run.steps
    graph = (steps.capture_size > 0) & (steps.start_ns <= int(run.requests.arrival_ns.max()))
    ends = (steps.start_ns + steps.duration_ns)[graph]
    return float(ends.max()) / 1e9 if len(ends) else 0.0


def runs_of(workload: Workload, pool: GraphPool, replications: int) -> Iterator[Run]:
    """Serve the workload's requests with a pool, one run per replication."""
    own = workload.engine.profile
    profile = load_profile(str(workload.profile_path or own)) if isinstance(own, str) else own
    variant = Variant("pool", pool, "fallback")
    for replication in range(replications):
        requests = draw_requests(workload, replication)
        yield simulate(workload, requests, profile, variant, replication=replication)


def trapped_runs(workload: Workload, pool: GraphPool, replications: int) -> int:
    """Return how many replications settle above the pool's largest size."""
    return sum(is_trapped(run, pool.sizes[-1]) for run in runs_of(workload, pool, replications))


def at_rate(workload: Workload, rate_per_s: float, *, after_burst_s: float = 0.0) -> Workload:
    """Return the workload at another rate; with `after_burst_s`, first so long at three times its own rate.

    The burst puts the engine into the slow state, for as many requests more as it brings.
    """
    if not isinstance(workload.arrivals, PoissonArrivals) or workload.requests is None:
        raise InputError("expected Poisson arrivals at one rate and a number of requests")
    burst = 3 * mean_rate_per_s(workload)
    requests = workload.requests
    if after_burst_s:
        stages = (
            Stage(rate_per_s=burst, duration_s=after_burst_s),
            Stage(rate_per_s=rate_per_s, duration_s=10 * requests / rate_per_s),
        )
        arrivals = PoissonArrivals(process="poisson", stages=stages)
        requests += round(burst * after_burst_s)
    else:
        arrivals = PoissonArrivals(process="poisson", rate_per_s=rate_per_s)
    return workload.model_copy(update={"arrivals": arrivals, "requests": requests})


def turning_rate(trapped: Callable[[float], bool], low: float, high: float, ratio: float = 1.02) -> float:
    """Return the rate at which `trapped` turns from False (at `low`) to True (at `high`), by bisection."""
    while high / low > ratio:
        middle = sqrt(low * high)
        if trapped(middle):
            high = middle
        else:
            low = middle
    return sqrt(low * high)
