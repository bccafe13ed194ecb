"""The prefill section of a profile, from measured steps that computed prompt tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scheduler.catalog.profile.curves import Prefill
from scheduler.catalog.profile.profile import Fit
from scheduler.catalog.profile.tables import Curve, DecodeTable, decode_points, read_curve, read_points


@dataclass(frozen=True, slots=True)
class PrefillStep:
    """A measured step: prompt `tokens` computed, their (new, earlier) token `pairs`, decodes beside them."""

    tokens: int
    pairs: float
    fresh: bool
    decodes: int
    decode_kv_tokens: int
    ms: float


def prefill_section(
    steps: Sequence[PrefillStep], table: DecodeTable | None, below: Sequence[tuple[float, float]] = ()
) -> tuple[Prefill | None, list[Fit]]:
    """Return the section and how well it gives back the steps it was built from.

    Token work is what fresh prompts took less their pairs (`below` continues it to smaller steps), the time
    per pair comes from steps of equal tokens and different pairs, and mixed steps add the KV part of the
    decode table and the median of what then remains. (None, []) without a fresh prompt alone.
    """
    alone = [step for step in steps if not step.decodes]
    fresh: dict[int, list[float]] = {}
    pair_ms = _pair_ms([step for step in alone if not step.fresh]) or _pair_ms(alone)
    for step in alone:
        if step.fresh:
            fresh.setdefault(step.tokens, []).append(max(step.ms - pair_ms * step.pairs, 0.0))
    if not fresh:
        return None, []
    curve = [point for point in below if point[0] < min(fresh)]
    curve += [(float(tokens), median(times)) for tokens, times in sorted(fresh.items())]
    tokens = Curve(at=tuple(at for at, _ in curve), ms=tuple(round(ms, 4) for _, ms in curve))

    def parts(step: PrefillStep) -> float:
        total = read_curve(tokens, step.tokens + step.decodes) + pair_ms * step.pairs
        if step.decodes and table is not None:
            points = decode_points(table, step.decodes)
            total += max(read_points(points, step.decode_kv_tokens) - read_points(points, 0.0), 0.0)
        return total

    mixed = [step for step in steps if step.decodes]
    extra = round(max(median(step.ms - parts(step) for step in mixed), 0.0), 4) if mixed else 0.0
    fits = []
    for name, some, more in (("prefill steps", alone, 0.0), ("mixed steps", mixed, extra)):
        if some:
            errors = [(parts(step) + more) / step.ms - 1 for step in some]
            fits.append(Fit.of_errors(errors, name, "against the measured steps the section was built from"))
    return Prefill(tokens=tokens, pair_ms=pair_ms, mixed_extra_ms=extra), fits


def _pair_ms(steps: Sequence[PrefillStep]) -> float:
    """Return ms per (new, earlier) token pair, a median over groups of equal tokens; 0 where none differ."""
    groups: dict[int, list[tuple[float, float]]] = {}
    for step in steps:
        groups.setdefault(step.tokens, []).append((step.pairs, step.ms))
    slopes = []
    for group in groups.values():
        (few, quick), (many, slow) = min(group), max(group)
        if many > few:
            slopes.append((slow - quick) / (many - few))
    return float(f"{max(median(slopes), 0.0):.6g}") if slopes else 0.0
