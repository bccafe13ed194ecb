"""How fast the host is at an instant of virtual time: drawn once, the same for every variant of a run."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

import numpy as np

from scheduler.catalog.profile.engine import SpeedComponent
from scheduler.executors.model.step_lines import NS_PER_MS

_BLOCK = 1024
_POINTS: Final = 1 << 17  # of a grid, then it repeats: traffic of days must fill neither memory nor time
_FEWEST_POINTS_PER_TAU = 8
_NORMALS: Final = 1 << 16
_BIN_NS: Final = 250_000  # of virtual time: what is drawn by itself differs from bin to bin
_STRIDE: Final = 7919  # so that two purposes do not meet the same draws


class HostNoise:
    """The logarithm of the host's slowness, and independent normals, both as functions of virtual time.

    The logarithm is a sum of stationary Ornstein–Uhlenbeck processes of mean 0, drawn on grids of τ / 8 and
    linear between their points; a grid of 131,072 points repeats. Whoever asks, in whatever order, is told
    the same.
    """

    def __init__(self, components: Sequence[SpeedComponent], generator: np.random.Generator) -> None:
        seeds = generator.bit_generator.seed_seq.spawn(len(components) + 1)  # type: ignore[attr-defined]
        # Arrays: what is asked for is spread over them, and lists would keep their floats elsewhere.
        normals = np.random.default_rng(seeds[-1]).standard_normal(_NORMALS)
        self._normals: array[float] = array("d", normals.tolist())
        self._processes = [
            _Process(component, np.random.default_rng(seed))
            for component, seed in zip(components, seeds, strict=False)
        ]

    def log_slowness(self, at_ns: int) -> float:
        """Return the logarithm of host time relative to its median at an instant."""
        return math.fsum(
            [
                process.before + process.rise * ((at_ns - process.from_ns) / process.grid_ns)
                if process.from_ns <= at_ns < process.until_ns
                else process.at(at_ns)
                for process in self._processes
            ]
        )

    def normal(self, at_ns: int, purpose: int) -> float:
        """Return a standard normal that belongs to an instant and a purpose alone."""
        return self._normals[(at_ns // _BIN_NS + _STRIDE * purpose) % _NORMALS]


class _Process:
    """One Ornstein–Uhlenbeck process, drawn block by block as far as it is asked for.

    From `from_ns` to `until_ns`, between two points of the grid, it is at `before` and goes by `rise`.
    """

    __slots__ = ("_generator", "_next", "_values", "before", "from_ns", "grid_ns", "rise", "until_ns")

    def __init__(self, component: SpeedComponent, generator: np.random.Generator) -> None:
        spread = component.spread
        self.grid_ns = max(round(component.tau_ms * NS_PER_MS / _FEWEST_POINTS_PER_TAU), 1)
        keep = math.exp(-self.grid_ns / (component.tau_ms * NS_PER_MS))
        add = spread * math.sqrt(1 - keep * keep)
        self._next: Callable[[float, float], float] = lambda value, normal: keep * value + add * normal
        self._generator = generator
        self._values: array[float] = array("d", [spread * float(generator.standard_normal())])
        self.before = self.rise = 0.0
        self.from_ns = self.until_ns = 0

    def at(self, at_ns: int) -> float:
        """Return the value at an instant; what is asked for next is mostly near it."""
        place, rest = at_ns // self.grid_ns, at_ns % self.grid_ns
        index = place % _POINTS
        while index + 1 >= len(self._values):
            block = self._generator.standard_normal(_BLOCK).tolist()
            self._values.extend(list(accumulate(block, self._next, initial=self._values[-1]))[1:])
        self.from_ns = at_ns - rest
        self.until_ns = self.from_ns + self.grid_ns
        self.before = self._values[index]
        self.rise = self._values[index + 1] - self.before
        return self.before + self.rise * (rest / self.grid_ns)
