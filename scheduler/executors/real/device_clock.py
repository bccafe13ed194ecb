"""What time a step took: the clock of each device, and waiting for it.

On a CPU the clock is the thread's own CPU time (time.thread_time_ns) with torch on one thread: on a shared
machine wall time measures the neighbours. On a GPU it is the host's wall clock around "copy the inputs,
launch, copy the tokens back, wait", which is what a scheduler sees; CUDA events give the GPU's share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class StepTime(NamedTuple):
    """One timed step in nanoseconds: total, until all was issued, and between CUDA events (or None)."""

    total_ns: int
    issue_ns: int
    gpu_ns: int | None


class DeviceClock:
    """Reads the clock that belongs to a device; making one for a CPU sets torch to one thread."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"
        self.now_ns: Callable[[], int] = time.perf_counter_ns if self.is_cuda else time.thread_time_ns
        self.description = "wall clock" if self.is_cuda else "CPU time of one thread"
        if not self.is_cuda:
            torch.set_num_threads(1)

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def device_name(self) -> str:
        """Return the name of the GPU or of the processor."""
        if self.is_cuda:
            return str(torch.cuda.get_device_name(self.device))
        return cpu_name()

    def time_step(
        self, before: Callable[[], None], launch: Callable[[], None], after: Callable[[], None]
    ) -> StepTime:
        """Time copying inputs, launching and fetching results; `after` must wait for the device."""
        if not self.is_cuda:
            start = self.now_ns()
            before()
            launch()
            issued = self.now_ns()
            after()
            return StepTime(self.now_ns() - start, issued - start, None)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start = self.now_ns()
        before()
        begin.record()
        launch()
        end.record()
        issued = self.now_ns()
        after()
        total = self.now_ns() - start
        return StepTime(total, issued - start, round(begin.elapsed_time(end) * 1e6))


def cpu_name() -> str:
    """Return the processor's model name, or "CPU" where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "CPU"
