"""Replay on a CPU: a step recorded at one fixed shape by torch.jit.trace and replayed without Python.

This is not a CUDA graph. It is the nearest thing a CPU has: the operations are recorded once, bound to the
same tensors, and a C++ interpreter replays them. torch.jit.trace is deprecated, so it is used here alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from scheduler.executors.real.replay import WARM_UP_RUNS, Captured, CaptureError, Kind, Step


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_host_decisions(step: Step, bound: tuple[Any, ...]) -> None:
    """Raise CaptureError where the step reads a value on the host or has a shape that depends on data.

    The trace would silently bake in whatever value it saw. A dry run on tensors without data cannot.
    """
    try:
        with _without_warnings(), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            step(*(mode.from_tensor(tensor) for tensor in bound))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise CaptureError("dynamic", error) from error
    except Exception as error:
        raise CaptureError("illegal", error) from error


class TracedGraphs:
    """Records steps with torch.jit.trace. Memory of a recording is unknown, and no nodes are kernels."""

    name = "traced replay on CPU"

    def __init__(self) -> None:
        self._functions: dict[Hashable, Any] = {}

    def capture(self, key: Hashable, step: Step, bound: tuple[Any, ...]) -> Captured:
        """See ReplayBackend. Recording executes the step, and so do the warm-up runs of the interpreter."""
        if key in self._functions:
            raise CaptureError("other", RuntimeError(f"{key} was captured before"))
        refuse_host_decisions(step, bound)
        started = time.perf_counter()
        with torch.no_grad():
            try:
                for _ in range(WARM_UP_RUNS):
                    step(*bound)
                warmed = time.perf_counter()
                with _without_warnings():
                    function = torch.jit.trace(step, bound, check_trace=False)  # type: ignore[no-untyped-call]
                # The interpreter optimises the recording on its second and third call.
                for _ in range(WARM_UP_RUNS):
                    function(*bound)
            except Exception as error:
                raise CaptureError(_kind(error), error) from error
        recorded = time.perf_counter()
        self._functions[key] = function
        nodes = sum(1 for node in function.graph.nodes() if node.kind().startswith("aten::"))

        def replay() -> None:
            if key not in self._functions:
                raise RuntimeError(f"{key} was reset; capture it again before replaying it")
            with torch.no_grad():
                function(*bound)

        return Captured(replay, nodes, None, warmed - started, recorded - warmed)

    def reset(self) -> None:
        """See ReplayBackend."""
        self._functions.clear()


def _kind(error: Exception) -> Kind:
    text = str(error).lower()
    return "oom" if "can't allocate memory" in text or "not enough memory" in text else "other"
