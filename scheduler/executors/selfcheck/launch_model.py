"""What a graph saves, computed: kernels are launched asynchronously, so only overhead that shows costs time.

Kernel i is issued at i·issue and starts when both it is issued and the one before has finished:
finish_i = max(i·issue, finish_{i−1}) + gpu_i. Adding launch and compute times, as tutorials do, is right
only where the CPU waits for each kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LaunchComparison:
    """One iteration eager and as a graph, by both rules, in milliseconds."""

    kernels: int
    kernel_ms: float
    issue_ms: float
    eager_ms: float
    graph_ms: float
    naive_eager_ms: float
    naive_graph_ms: float

    @property
    def speed_up(self) -> float:
        """Eager over graph with asynchronous launching."""
        return self.eager_ms / self.graph_ms

    @property
    def naive_speed_up(self) -> float:
        """Eager over graph if launch and compute times simply added up."""
        return self.naive_eager_ms / self.naive_graph_ms


def asynchronous_ms(kernel_ms: Sequence[float], issue_ms: float) -> float:
    """Return when the last of the kernels finishes, the first being issued at `issue_ms`."""
    finish = 0.0
    for index, duration in enumerate(kernel_ms, 1):
        finish = max(index * issue_ms, finish) + duration
    return finish


def compare_launching(kernels: int, kernel_ms: float, issue_ms: float) -> LaunchComparison:
    """Compare `kernels` equal kernels, each issued alone, with one graph issued once."""
    compute_ms = kernels * kernel_ms
    return LaunchComparison(
        kernels,
        kernel_ms,
        issue_ms,
        eager_ms=asynchronous_ms([kernel_ms] * kernels, issue_ms),
        graph_ms=issue_ms + compute_ms,
        naive_eager_ms=kernels * issue_ms + compute_ms,
        naive_graph_ms=issue_ms + compute_ms,
    )
