"""Greedy decoding by direct step plans: the same requests eager and replayed, for checks."""

from __future__ import annotations

from scheduler.engine.executor import Admission, StepKind, StepPlan
from scheduler.executors.real.torch_session import open_session


def greedy_tokens(
    device: str,
    *,
    capture_sizes: tuple[int, ...],
    batch: int,
    steps: int,
    model: str = "tiny",
    attention: str = "auto",
    prompt_tokens: int = 20,
    pad_eagerly: bool = False,
) -> tuple[list[dict[int, int]], int]:
    """Decode `steps` tokens of `batch` prefilled requests; return the tokens of each step and the replays.

    Prompts differ in length by one token each; every step takes the smallest capture size that holds the
    batch, if there is one, and with `pad_eagerly` computes that size without replaying it.
    """
    session = open_session(
        model=model,
        device=device,
        max_num_seqs=max(batch, *capture_sizes, 1),
        max_context=prompt_tokens + batch + steps,
        capture_sizes=capture_sizes,
        attention=attention,
    )
    executor = session.executor()
    executor.pad_eagerly = pad_eagerly
    seen: list[dict[int, int]] = []
    executor.on_tokens = seen.append
    for request in range(batch):
        executor.admit(request, Admission(request, prompt_tokens + request, 0))
    kv_tokens = sum(prompt_tokens + request for request in range(batch))
    size = min((size for size in capture_sizes if size >= batch), default=None)
    for _ in range(steps):
        executor.run(StepPlan(StepKind.DECODE, batch, size, kv_tokens))
        kv_tokens += batch
    replayed = executor.counts.replayed
    session.close()
    return seen, replayed
