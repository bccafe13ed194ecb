"""A small MLP with static buffers: the simplest step that can be recorded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scheduler.executors.real.decoder import Mlp


class StaticMlp:
    """An MLP with static input and output buffers, so that its step can be recorded."""

    def __init__(self, sizes: tuple[int, ...], rows: int, device: str, seed: int = 0) -> None:
        self.mlp = Mlp(sizes, device=device, seed=seed)
        self.inputs = torch.zeros(rows, sizes[0], device=device)
        self.outputs = torch.zeros(rows, sizes[-1], device=device)

    def step(self, rows: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the step of the first `rows` rows."""

        def forward(inputs: Tensor, outputs: Tensor) -> Tensor:
            outputs[:rows].copy_(self.mlp(inputs[:rows]))
            return outputs

        return forward

    @property
    def bound(self) -> tuple[Tensor, Tensor]:
        """The tensors a recorded step is bound to."""
        return self.inputs, self.outputs

    def eager(self, rows: int) -> Callable[[], None]:
        """Return a launch of the step, operation by operation."""
        step, bound = self.step(rows), self.bound

        def launch() -> None:
            with torch.no_grad():
                step(*bound)

        return launch
