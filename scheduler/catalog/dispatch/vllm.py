"""vLLM's rules, read in the wheels of 0.26.0 to 0.33.0 and run from them as the oracle of the tests.

Lists: `vllm/config/vllm.py`, `VllmConfig._set_cudagraph_sizes`. Model runner V2:
`vllm/v1/worker/gpu/cudagraph_utils.py`, `CudaGraphManager._init_candidates` and `dispatch`. Model runner V1:
`vllm/v1/cudagraph_dispatcher.py`, `vllm/config/compilation.py`, `adjust_cudagraph_sizes_for_spec_decode`.
Not compiled: LoRA cases, dynamic drafting, variable-length decode graphs, micro-batches, several ranks.
"""

from __future__ import annotations

from typing import Literal

from scheduler.catalog.dispatch.table import (
    DispatchTable,
    Kind,
    Route,
    Settings,
    compiled,
    smallest_holding,
)
from scheduler.errors import InputError

Runner = Literal["v1", "v2"]
Version = tuple[int, int]

OLDEST_READ: Version = (0, 26)
NEWEST_READ: Version = (0, 33)
BLACKWELL_1024: Version = (0, 28)  # pull request 49390: data centre Blackwell captures to 1024
KINDS_APART: Version = (0, 29)  # candidates are kept per kind; before, one kind's size could hide the other's
DRAFT_GRID: Version = (0, 29)  # with drafting, multiples of 1 + k on the grid of requests are added
ADDS_MAX_NUM_SEQS: Version = (0, 31)  # pull request 57355
ESTIMATES_GRAPHS: Version = (0, 29)  # runner V2 profiles the memory of graphs; before, its estimate was 0


def grid(maximum: int) -> list[int]:
    """Return 1, 2, 4, steps of 8 below 256 and steps of 16 from there, up to the maximum."""
    whole = [1, 2, 4, *range(8, min(maximum + 1, 256), 8), *range(256, maximum + 1, 16)]
    return [size for size in whole if size <= maximum]


def default_sizes(
    version: Version, settings: Settings, maximum: int | None = None, fine_to: int = 0
) -> tuple[int, ...]:
    """Return the sizes (tokens) that vLLM captures when its user lists none.

    The largest is 2 × max_num_seqs × (1 + k), at most 512 (1024 on data centre Blackwell), unless the user
    gives a `maximum`; max_num_batched_tokens bounds both and is added where it fits. Without a maximum,
    newer releases add max_num_seqs, or with drafting the batches of the request grid, where they fit.
    Every size to `fine_to` is added by `--performance-mode interactivity` (32).
    """
    width, tokens = settings.width, settings.max_num_batched_tokens
    ceiling = 1024 if settings.blackwell and version >= BLACKWELL_1024 else 512
    batches: set[int] = set()
    if maximum is None:
        maximum = min(settings.max_num_seqs * width * 2, ceiling)
        if width > 1 and version >= DRAFT_GRID:
            requests = min(settings.max_num_seqs, ceiling)
            batches = {n * width for n in (*grid(requests), requests) if n * width <= maximum}
        elif width == 1 and version >= ADDS_MAX_NUM_SEQS and settings.max_num_seqs <= maximum:
            batches = {settings.max_num_seqs}
    maximum = min(maximum, tokens)
    sizes = {*grid(maximum), *range(1, min(fine_to, maximum) + 1)}
    if tokens <= maximum:
        sizes.add(tokens)
    return tuple(sorted(sizes | {size for size in batches if size <= tokens}))


def compile_table(version: Version, settings: Settings, runner: Runner = "v2") -> DispatchTable:
    """Return which graph every batch takes; raises InputError where vLLM itself would refuse to start."""
    sizes = default_sizes(version, settings) if settings.sizes is None else settings.sizes
    sizes = tuple(sorted({size for size in sizes if size <= settings.max_num_batched_tokens}))
    if settings.mode == "none":
        sizes = ()
    if runner == "v1":
        return _compile_v1(sizes, settings)
    return _compile_v2(sizes, settings, kinds_apart=version >= KINDS_APART)


def _mixed_kind(settings: Settings) -> Kind:
    kinds: dict[str, Kind] = {"full": "FULL", "full_and_piecewise": "PIECEWISE", "piecewise": "PIECEWISE"}
    return kinds.get(settings.mode, "NONE")


def _has_decode_graphs(settings: Settings) -> bool:
    """Whether decode batches have FULL graphs of their own, apart from those of mixed steps."""
    return settings.mode in ("full_and_piecewise", "full_decode_only")


def _whole_requests(sizes: tuple[int, ...], width: int) -> set[int]:
    """Return the sizes rounded up to whole requests, as far as the largest size goes."""
    rounded = {-(-size // width) * width for size in sizes}
    return {size for size in rounded if size <= sizes[-1]}


def _compile_v2(sizes: tuple[int, ...], settings: Settings, *, kinds_apart: bool) -> DispatchTable:
    """Return runner V2's table: decode graphs hold whole requests, graphs of mixed steps are the raw sizes.

    With `kinds_apart` a step first looks among the decode graphs, then among the others. Before, it looked
    at the smallest size of any kind alone: a graph that cannot serve the step hid a larger one that could.
    """
    kind = _mixed_kind(settings)
    decode: set[int] = set()
    if _has_decode_graphs(settings):
        most = settings.max_num_seqs * settings.width
        decode = {size for size in _whole_requests(sizes, settings.width) if size <= most}
    mixed = set(sizes) if kind != "NONE" else set()
    candidates = [smallest_holding(decode), smallest_holding(mixed)]
    if not kinds_apart:
        candidates = [smallest_holding(decode | mixed)]

    def decode_route(tokens: int) -> Route:
        for smallest in candidates:
            size = smallest(tokens)
            if size is not None:
                return Route("FULL" if size in decode else kind, size)
        return Route("NONE", tokens)

    def mixed_route(tokens: int) -> Route:
        size = candidates[-1](tokens)
        if size is None or size not in mixed:
            return Route("NONE", tokens)
        # A FULL graph has a row per request, at most max_num_seqs of them.
        if kind == "FULL" and min(settings.mixed_requests, tokens) > settings.max_num_seqs:
            return Route("NONE", tokens)
        return Route(kind, size)

    full = mixed if kind == "FULL" else decode
    return compiled(settings, decode_route, mixed_route, full, mixed if kind == "PIECEWISE" else ())


def _compile_v1(sizes: tuple[int, ...], settings: Settings) -> DispatchTable:
    """Return runner V1's table: one list for all steps, rounded to whole requests where decode is FULL."""
    width, kind = settings.width, _mixed_kind(settings)
    if sizes and width > 1 and settings.mode != "piecewise":
        rounded = _whole_requests(sizes, width) or {width}
        if sizes[-1] < width:
            raise InputError(
                f"capture sizes: expected one of at least {width} tokens, a request with "
                f"{settings.draft_tokens} draft tokens; vLLM's runner V1 does not start with {sizes[-1]}"
            )
        sizes = tuple(sorted(rounded))
    decode: set[int] = set()
    if _has_decode_graphs(settings):
        decode = {size for size in sizes if width <= size <= settings.max_num_seqs * width}
    smallest = smallest_holding(sizes)

    def mixed_route(tokens: int) -> Route:
        size = smallest(tokens)
        return Route("NONE", tokens) if size is None or kind == "NONE" else Route(kind, size)

    def decode_route(tokens: int) -> Route:
        size = smallest(tokens)
        return Route("FULL", size) if size in decode else mixed_route(tokens)

    full = sizes if kind == "FULL" else decode
    return compiled(settings, decode_route, mixed_route, full, sizes if kind == "PIECEWISE" else ())
