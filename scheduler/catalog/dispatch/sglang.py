"""SGLang's rules, read in the wheel of 0.5.23 and run from it as the oracle of the tests.

Lists: `sglang/srt/arg_groups/cuda_graph_hook.py` and `memory_hook.py`; what is captured of them:
`sglang/srt/model_executor/runner/base_cuda_graph_runner.py`, `get_batch_sizes_to_capture`; dispatch:
`decode_cuda_graph_runner.py` and `prefill_cuda_graph_runner.py`, `can_run_graph`, in the same folder.
Decode sizes are requests. Steps with prompts have graphs of their own ("breakable": cut at attention, so
PIECEWISE here), in buckets of tokens. Not compiled: DP attention, LoRA, ragged verification, adaptive drafts.
"""

from __future__ import annotations

from scheduler.catalog.dispatch.table import DispatchTable, Route, Settings, compiled, smallest_holding
from scheduler.errors import InputError

MIB = 1 << 20
# Requests that run at a time where it drafts and --max-running-requests does not say otherwise:
# `arg_groups/speculative_hook.py`, _handle_eagle_family and _handle_ngram.
DRAFTING_REQUESTS = 48
MOST_PADDING = 2  # a bucket of more than twice the tokens is not replayed (pull request 31487)


def default_maximum(gpu_memory_bytes: int | None, tensor_parallel: int) -> int:
    """Return the largest decode graph by GPU memory; None is SGLang's own "unknown"."""
    # (upper bound in GiB, size, size with four or more ranks)
    tiers = ((20, 8, 8), (35, 48, 160), (60, 32, 160), (160, 256, 512))
    if gpu_memory_bytes is None:
        return 160
    for bound, size, size_parallel in tiers:
        if gpu_memory_bytes // MIB < bound * 1024:
            return size_parallel if tensor_parallel >= 4 else size
    return 512


def default_sizes(settings: Settings, maximum: int | None = None) -> tuple[int, ...]:
    """Return the decode sizes (requests) that SGLang lists when its user lists none.

    The `maximum` is the user's, or follows GPU memory and is cut to max_num_seqs
    (`--max-running-requests`). Without padding every size to the maximum is listed; drafting has a finer
    grid at small batches.
    """
    if maximum is None:
        by_memory = default_maximum(settings.gpu_memory_bytes, settings.tensor_parallel)
        maximum = min(by_memory, settings.max_num_seqs)
    if not settings.padding:
        sizes = [*range(1, maximum + 1)]
    elif settings.draft_tokens:
        sizes = [*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8)]
        sizes += range(272, maximum + 1, 16)
    else:
        sizes = [1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 512, 16), *range(512, maximum + 1, 32)]
    return tuple(sorted({size for size in sizes if size <= maximum} | {maximum}))


def prefill_buckets(most_tokens: int) -> tuple[int, ...]:
    """Return the default buckets (tokens) of steps with prompts, up to the chunked prefill size."""
    buckets = [
        *range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64),
        *range(1280, 4097, 256), *range(4608, most_tokens + 1, 512),
    ]  # fmt: skip
    return tuple(bucket for bucket in buckets if bucket <= most_tokens)


def captured_sizes(sizes: tuple[int, ...], settings: Settings) -> tuple[int, ...]:
    """Return the decode sizes that are captured of a list: those up to max_num_seqs.

    That size is added where any lies above it. Sizes whose tokens are no multiple of the attention
    tensor-parallel alignment are dropped.
    """
    step = settings.alignment
    most = -(-settings.max_num_seqs // step) * step
    wanted = {*sizes, most} if max(sizes, default=0) > most else set(sizes)
    return tuple(sorted(size for size in wanted if size <= most and size * settings.width % step == 0))


def compile_table(settings: Settings) -> DispatchTable:
    """Return which graph every batch takes; raises InputError for what SGLang has no mode for."""
    if settings.mode not in ("full_and_piecewise", "full_decode_only", "none"):
        raise InputError(
            f"mode: expected full_and_piecewise, full_decode_only or none for SGLang, got {settings.mode}"
        )
    sizes: tuple[int, ...] = ()
    if settings.mode != "none":
        listed = default_sizes(settings) if settings.sizes is None else settings.sizes
        sizes = captured_sizes(listed, settings)
        if not sizes:
            raise InputError(
                f"capture sizes: expected one up to {settings.max_num_seqs} that is a multiple of the "
                f"alignment {settings.alignment}; SGLang does not start without"
            )
    buckets: tuple[int, ...] = ()
    if settings.mode == "full_and_piecewise":
        step = settings.alignment
        raw = prefill_buckets(settings.max_num_batched_tokens)
        buckets = tuple(sorted({-(-bucket // step) * step for bucket in raw}))
    smallest_size, smallest_bucket = smallest_holding(sizes), smallest_holding(buckets)
    width = settings.width

    def decode_route(tokens: int) -> Route:
        size = smallest_size(tokens // width)
        if size is None or not (settings.padding or size * width == tokens):
            return Route("NONE", tokens)
        return Route("FULL", size * width)

    def mixed_route(tokens: int) -> Route:
        bucket = smallest_bucket(tokens)
        if bucket is None or bucket > MOST_PADDING * tokens:
            return Route("NONE", tokens)
        return Route("PIECEWISE", bucket)

    return compiled(settings, decode_route, mixed_route, tuple(size * width for size in sizes), buckets)
