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


class Drafted(Running):
    """A request of a drafting engine, with progress of its own.

    `cached` and `generated` count what the launched steps yield; of `generated`, `unseen` tokens come from
    the `computing` decode steps whose tokens were not handed over yet.
    """

    __slots__ = ("computing", "unseen")

    def __init__(self, index: int, slot: int, prompt_tokens: int, generated: int, admission: int) -> None:
        super().__init__(index, slot, prompt_tokens, generated, admission)
        self.computing = 0
        self.unseen = 0

    def cached_if_accepted(self, draft_tokens: int) -> int:
        """Return its tokens in the KV cache after one more step, all drafts in flight being accepted."""
        return self.cached - self.unseen + (1 + draft_tokens) * (self.computing + 1)

    @property
    def certain(self) -> int:
        """The least that it will have generated when every step in flight is done: one token of each."""
        return self.generated - self.unseen + self.computing
