"""From measured (size, KV per row) cells to a decode table, and how well a table predicts cells."""

from __future__ import annotations

from collections.abc import Mapping

from scheduler.catalog.profile.profile import Fit
from scheduler.catalog.profile.tables import DecodeTable, decode_points, read_points
from scheduler.errors import InputError

Cells = Mapping[tuple[int, float], float]  # (rows, KV tokens per row) -> milliseconds


def decode_table(cells: Cells) -> DecodeTable:
    """Return the table of a grid, sizes measured at one context only borrowing their neighbours' KV slope.

    Where no size has two contexts the table is flat in the KV tokens.
    """
    if not cells:
        raise InputError("no decode steps to build a table from")
    sizes = sorted({size for size, _ in cells})
    rows = {size: sorted((kv, ms) for (at, kv), ms in cells.items() if at == size) for size in sizes}
    anchors = [size for size in sizes if len(rows[size]) > 1]
    for size in sizes:
        if len(rows[size]) == 1 and anchors:
            (kv, ms), reference = rows[size][0], _between(rows, anchors, size)
            base = read_points(reference, kv)
            rows[size] = [(at, max(ms + read_points(reference, at) - base, 0.0)) for at, _ in reference]
    return DecodeTable(
        sizes=tuple(sizes),
        kv_tokens=tuple(tuple(float(kv * size) for kv, _ in rows[size]) for size in sizes),
        ms=tuple(tuple(round(ms, 6) for _, ms in rows[size]) for size in sizes),
    )


def _between(
    rows: Mapping[int, list[tuple[float, float]]], anchors: list[int], size: int
) -> list[tuple[float, float]]:
    """Return the KV curve of a size, mixed from the nearest that have one; beyond them scaled by rows."""
    below = max((anchor for anchor in anchors if anchor < size), default=None)
    above = min((anchor for anchor in anchors if anchor > size), default=None)
    if below is None or above is None:
        nearest = below or above or anchors[0]
        return [(kv, ms * size / nearest) for kv, ms in rows[nearest]]
    share = (size - below) / (above - below)
    shared = [kv for kv, _ in rows[below] if any(kv == other for other, _ in rows[above])]
    contexts = shared if len(shared) > 1 else [kv for kv, _ in rows[below]]
    return [
        (kv, (1 - share) * read_points(rows[below], kv) + share * read_points(rows[above], kv))
        for kv in contexts
    ]


def predict(table: DecodeTable, size: int, kv_per_row: float) -> float:
    """Return the table's milliseconds for a step of `size` rows with `kv_per_row` tokens each."""
    return read_points(decode_points(table, size), kv_per_row * size)


def leave_one_size_out(cells: Cells, of: str) -> Fit:
    """Return how well each inner size's cells are predicted from the other sizes: the interpolation error."""
    sizes = sorted({size for size, _ in cells})
    errors = []
    for size in sizes[1:-1]:
        rest = decode_table({key: ms for key, ms in cells.items() if key[0] != size})
        errors += [predict(rest, at, kv) / ms - 1 for (at, kv), ms in cells.items() if at == size]
    return Fit.of_errors(
        errors, of, "each inner size predicted from the other sizes: the error of interpolation"
    )
