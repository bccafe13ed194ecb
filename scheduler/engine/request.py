"""A request while it is in the batch."""

from __future__ import annotations


class Running:
    """A request that holds a batch slot: still prefilling, or decoding one token per decode step.

    While prefilling, `cached` of `target` tokens are in the KV cache, in `blocks` blocks. While decoding
    nothing is updated per step: with D the engine's count of decode steps, `origin + D` tokens are in
    the cache, so work per step does not grow with the batch. `admission` counts admissions: the
    order of the batch. `first_flight` is the number of the step with its first token since then.
    """

    __slots__ = (
        "admission",
        "blocks",
        "cached",
        "first_flight",
        "generated",
        "has_stopped",
        "index",
        "is_decoding",
        "origin",
        "prompt_tokens",
        "slot",
        "stop_step",
        "target",
    )

    def __init__(self, index: int, slot: int, prompt_tokens: int, generated: int, admission: int = 0) -> None:
        self.index = index
        self.admission = admission
        self.slot = slot
        self.prompt_tokens = prompt_tokens
        self.generated = generated
        self.target = prompt_tokens + generated
        self.cached = 0
        self.blocks = 0
        self.origin = 0
        self.first_flight = -1
        self.stop_step = -1
        self.is_decoding = False
        self.has_stopped = False
