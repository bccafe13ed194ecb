"""TensorRT-LLM's rules for its PyTorch backend, by reading (the code was not run).

Lists: `tensorrt_llm/llmapi/llm_args.py`, `CudaGraphConfig` (2026, sizes above 128 in steps of 64 since pull
request 13393); limits: `filter_cuda_graph_batch_sizes`; dispatch: `tensorrt_llm/_torch/pyexecutor/
cuda_graph_runner.py`, `maybe_get_cuda_graph` and `_get_padded_batch`. Sizes are requests. Not compiled:
attention data parallelism, a draft-length schedule, piecewise graphs of torch.compile (off by default).
"""

from __future__ import annotations

import math

from scheduler.catalog.dispatch.table import DispatchTable, Route, Settings, compiled, smallest_holding
from scheduler.errors import InputError

DEFAULT_MAXIMUM = 128


def default_sizes(
    maximum: int | None = None, *, padding: bool = False, doublings: bool = False
) -> tuple[int, ...]:
    """Return the batch sizes that are listed when the user lists none, up to `maximum` (128 by default).

    With `padding` steps of 8 to 128 and of 64 above (powers of two before April 2026: `doublings`); without
    it every size to 32, then powers of two. The maximum is always added.
    """
    maximum = maximum or DEFAULT_MAXIMUM
    powers = [2**n for n in range(8, math.ceil(math.log2(maximum)))]
    if not padding:
        sizes = [*range(1, 33), 64, 128, *powers]
    else:
        sizes = [1, 2, 4, *range(8, 129, 8), *(powers if doublings else range(192, maximum + 1, 64))]
    return tuple(sorted({size for size in sizes if size <= maximum} | {maximum}))


def within_limits(sizes: tuple[int, ...], settings: Settings) -> tuple[int, ...]:
    """Return the sizes up to the executor's largest batch; with padding that batch replaces what is above."""
    most = min(settings.max_num_seqs, settings.max_num_batched_tokens // settings.width)
    kept = tuple(size for size in sorted(set(sizes)) if size <= most)
    if most >= 1 and settings.padding and len(kept) < len(set(sizes)) and most not in kept:
        kept = (*kept, most)
    return kept


def compile_table(settings: Settings) -> DispatchTable:
    """Return which graph every batch takes: exact sizes only, or padded to the next; prompts run without."""
    if settings.mode not in ("full_decode_only", "none"):
        raise InputError(
            f"mode: expected full_decode_only or none for TensorRT-LLM, got {settings.mode}; "
            "its graphs serve steps without prompts only"
        )
    sizes: tuple[int, ...] = ()
    if settings.mode != "none":
        listed = default_sizes(padding=settings.padding) if settings.sizes is None else settings.sizes
        sizes = within_limits(listed, settings)
    smallest, width = smallest_holding(sizes), settings.width

    def decode_route(tokens: int) -> Route:
        size = smallest(tokens // width)
        if size is None or not (settings.padding or size * width == tokens):
            return Route("NONE", tokens)
        return Route("FULL", size * width)

    return compiled(
        settings, decode_route, lambda tokens: Route("NONE", tokens), tuple(n * width for n in sizes), ()
    )
