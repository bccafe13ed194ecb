"""Recording a step once and replaying it: the small protocol both backends keep, and what was recorded.

A *step* is a function of the static tensors it is *bound* to; it writes its result into one of them and
returns nothing that is read. Whatever is not in a bound tensor (sizes, buckets, addresses) is baked into the
recording, and so belongs into its key.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

Kind = Literal["oom", "illegal", "dynamic", "other"]
FailurePolicy = Literal["eager", "raise"]

Step = Callable[..., Any]
"""A step over its bound tensors. Torch types are left out so that this file does not need torch."""

WARM_UP_RUNS = 3


class GraphKey(NamedTuple):
    """Everything the host bakes into a recorded decode step."""

    batch: int
    context: int | None
    dtype: str
    attention: str


@dataclass(frozen=True, slots=True)
class Captured:
    """One recorded step. `nodes` and `memory_bytes` are None where the backend cannot know them.

    `memory_bytes` is the growth of the backend's own memory by this recording: the first, largest one
    carries the shared part. `first_replay_s` is what the first replays after recording took.
    """

    replay: Callable[[], None]
    nodes: int | None
    memory_bytes: int | None
    warm_up_s: float
    capture_s: float
    node_types: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class CaptureError(Exception):
    """A step that could not be recorded.

    `kind` is oom (memory), illegal (an operation that a recording may not contain), dynamic (a host decision
    or a shape that depends on data) or other; `first` is the first exception, the one that explains it.
    """

    def __init__(self, kind: Kind, first: BaseException) -> None:
        self.kind: Kind = kind
        self.first = first
        lines = str(first).strip().splitlines()
        super().__init__(f"{kind}: {type(first).__name__}: {lines[0] if lines else ''}")


class ReplayBackend(Protocol):
    """Records steps and replays them."""

    name: str

    def capture(self, key: Hashable, step: Step, bound: tuple[Any, ...]) -> Captured:
        """Warm up and record `step(*bound)`; raises CaptureError, also for a key recorded before.

        A backend may execute the step while it records (the CPU one does): the bound tensors must hold
        rows that are safe to compute, such as scratch rows.
        """
        ...

    def reset(self) -> None:
        """Drop every recording and its memory; a replay after that raises RuntimeError."""
        ...


@dataclass(slots=True)
class CapturedSteps:
    """The recordings of one model, by key, with what each cost and the first error where one failed."""

    backend: ReplayBackend
    on_failure: FailurePolicy = "eager"
    captured: dict[GraphKey, Captured] = field(default_factory=dict)
    failed: dict[GraphKey, str] = field(default_factory=dict)

    def capture_all(
        self,
        keys: Iterable[GraphKey],
        step_of: Callable[[GraphKey], Step],
        bound: tuple[Any, ...],
        progress: Callable[[GraphKey], None] = lambda key: None,
    ) -> None:
        """Record every key, the largest first, so that smaller ones reuse the memory of larger ones.

        After a failure for want of memory the remaining keys are not tried: a failed recording may keep its
        memory until the process ends. Under the policy "raise" the first failure is raised.
        """
        out_of_memory = False
        for key in sorted(keys, key=lambda key: (key.batch, key.context or 0), reverse=True):
            if out_of_memory:
                self.failed[key] = "not tried after running out of memory"
                continue
            progress(key)
            try:
                self.captured[key] = self.backend.capture(key, step_of(key), bound)
            except CaptureError as error:
                if self.on_failure == "raise":
                    raise
                self.failed[key] = str(error)
                out_of_memory = error.kind == "oom"

    def get(self, key: GraphKey) -> Captured | None:
        """Return the recording of a key, or None where it failed or was never asked for."""
        return self.captured.get(key)

    def totals(self) -> tuple[float, float, int | None]:
        """Return warm-up seconds, capture seconds and bytes of all recordings."""
        done = self.captured.values()
        sizes = [each.memory_bytes for each in done]
        known = [size for size in sizes if size is not None]
        total = sum(known) if len(known) == len(sizes) and sizes else None
        return sum(c.warm_up_s for c in done), sum(c.capture_s for c in done), total
