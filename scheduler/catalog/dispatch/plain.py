"""The rule of engines that have none of their own here: the smallest captured batch size that holds it."""

from __future__ import annotations

from scheduler.catalog.dispatch.table import DispatchTable, Kind, Route, Settings, compiled, smallest_holding


def compile_table(settings: Settings) -> DispatchTable:
    """Return which graph every batch takes: the next larger size, or its own alone without padding.

    In mode full_and_piecewise a decode graph holds at most max_num_seqs rows, as vLLM's, and larger sizes
    are PIECEWISE only; in the other modes a graph may have more rows than the engine admits requests. With
    drafts, sizes count tokens: 1 + k rows per request.
    """
    sizes = settings.sizes or ()
    both = settings.mode == "full_and_piecewise"
    full = sizes if settings.mode in ("full", "full_decode_only") else ()
    if both:
        full = tuple(size for size in sizes if size <= settings.max_num_seqs * settings.width)
    mixed = sizes if settings.mode in ("full", "full_and_piecewise", "piecewise") else ()
    kind: Kind = "FULL" if settings.mode == "full" else "PIECEWISE"
    smallest_full, smallest_mixed = smallest_holding(full), smallest_holding(mixed)

    def mixed_route(tokens: int) -> Route:
        size = smallest_mixed(tokens)
        fits = size is not None and (settings.padding or size == tokens)
        return Route(kind, size) if size is not None and fits else Route("NONE", tokens)

    def decode_route(tokens: int) -> Route:
        size = smallest_full(tokens)
        fits = size is not None and (settings.padding or size == tokens)
        return Route("FULL", size) if size is not None and fits else mixed_route(tokens)

    return compiled(settings, decode_route, mixed_route, full, mixed if kind == "PIECEWISE" else ())
