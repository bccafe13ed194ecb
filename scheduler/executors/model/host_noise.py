"""How fast the host is at an instant of virtual time: drawn once, the same for every variant of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from scheduler.catalog.profile.engine import SpeedComponent
from scheduler.executors.model.step_lines import NS_PER_MS

_BLOCK = 1024
_POINTS = 1 << 17  # of a grid, then it repeats: traffic of days must fill neither memory nor time
_FEWEST_POINTS_PER_TAU = 8
_NORMALS = 1 << 16
_BIN_NS = 250_000  # of virtual time: what is drawn by itself differs from bin to bin
_STRIDE = 7919  # so that two purposes do not meet the same draws


class HostNoise:
    """The logarithm of the host's slowness, and independent normals, both as functions of virtual time.

    The logarithm is a sum of stationary Ornstein–Uhlenbeck processes of mean 0, drawn on grids of τ / 8 and
    linear between their points; a grid of 131,072 points repeats. Whoever asks, in whatever order, is told
    the same.
    """

    def __init__(self, components: Sequence[SpeedComponent], generator: np.random.Generator) -> None:
        seeds = generator.bit_generator.seed_seq.spawn(len(components) + 1)  # type: ignore[attr-defined]
        self._normals: list[float] = np.random.default_rng(seeds[-1]).standard_normal(_NORMALS).tolist()
        self._processes = [
            _Process(component, np.random.default_rng(seed))
            for component, seed in zip(components, seeds, strict=False)
        ]

    def log_slowness(self, at_ns: int) -> float:
        """Return the logarithm of host time relative to its median at an instant."""
        return math.fsum([process.at(at_ns) for process in self._processes])

    def normal(self, at_ns: int, purpose: int) -> float:
        """Return a standard normal that belongs to an instant and a purpose alone."""
        return self._normals[(at_ns // _BIN_NS + _STRIDE * purpose) % _NORMALS]


class _Process:
    """One Ornstein–Uhlenbeck process, drawn block by block as far as it is asked for."""

    def __init__(self, component: SpeedComponent, generator: np.random.Generator) -> None:
        self._spread = component.spread
        self._grid_ns = max(round(component.tau_ms * NS_PER_MS / _FEWEST_POINTS_PER_TAU), 1)
        keep = math.exp(-self._grid_ns / (component.tau_ms * NS_PER_MS))
        add = self._spread * math.sqrt(1 - keep * keep)
        self._next: Callable[[float, float], float] = lambda value, normal: keep * value + add * normal
        self._generator = generator
        self._place, self._before, self._rise = -1, 0.0, 0.0  # the newest two points asked for
        self._values = [self._spread * float(generator.standard_normal())]

    def at(self, at_ns: int) -> float:
        place, rest = divmod(at_ns, self._grid_ns)
        if place != self._place:
            self._place = place
            index = place % _POINTS
            while index + 1 >= len(self._values):
                block = self._generator.standard_normal(_BLOCK).tolist()
                self._values.extend(list(accumulate(block, self._next, initial=self._values[-1]))[1:])
            self._before = before = self._values[index]
            self._rise = self._values[index + 1] - before
        return self._before + self._rise * (rest / self._grid_ns)
