"""What a capture list does to the batches that an engine admits, and the smallest change that repairs it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scheduler.catalog.dispatch.engines import EngineRules
from scheduler.catalog.dispatch.table import SPEED, DispatchTable, Kind, Settings, kind_ranges

MOST_ADDED = 100_000
MOST_PADDING = 2
Range = tuple[int, int, Kind]


@dataclass(frozen=True, slots=True)
class Audit:
    """One list under one engine's rules; all ranges are inclusive.

    `wanted` is the kind of graph that every decode batch should take in this mode; `falls_off` are the
    decode batches that take a slower one. `unreached_*` are graphs (tokens) that no step takes. `added`
    are the fewest sizes that repair the decode batches (in the list's own unit; none of them is padded to
    more than twice its size then), None where none can.
    """

    rules: EngineRules
    settings: Settings
    table: DispatchTable
    wanted: Kind
    falls_off: tuple[Range, ...]
    prompts: tuple[Range, ...]
    unreached_full: tuple[int, ...]
    unreached_piecewise: tuple[int, ...]
    added: tuple[int, ...] | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The list that was audited, ascending."""
        return tuple(sorted(set(self.settings.sizes or ())))

    @property
    def repaired(self) -> tuple[int, ...]:
        """The list with the added sizes in it."""
        return tuple(sorted({*self.sizes, *(self.added or ())}))

    @property
    def slowest(self) -> Kind:
        """The slowest kind that any decode batch takes."""
        return max((route.kind for route in self.table.decode), key=SPEED.__getitem__)


def audit(rules: EngineRules, settings: Settings) -> Audit:
    """Return what the list does; without sizes it is the engine's default list."""
    if settings.mode != "none" and settings.sizes is None:
        settings = replace(settings, sizes=rules.default_sizes(settings))
    table = rules.table(settings)
    budget = settings.max_num_batched_tokens
    prompts = [table.mixed_route(tokens) for tokens in range(1, budget + 1)]
    taken = {(route.kind, route.tokens) for route in (*table.decode, *prompts)}
    wanted = _wanted(settings)
    return Audit(
        rules,
        settings,
        table,
        wanted,
        _falls_off(table, wanted),
        tuple(kind_ranges(prompts)),
        tuple(size for size in table.full if ("FULL", size) not in taken),
        tuple(size for size in table.piecewise if ("PIECEWISE", size) not in taken),
        _repair(rules, settings, wanted),
    )


def _wanted(settings: Settings) -> Kind:
    if settings.mode == "none":
        return "NONE"
    return "PIECEWISE" if settings.mode == "piecewise" else "FULL"


def _falls_off(table: DispatchTable, wanted: Kind) -> tuple[Range, ...]:
    return tuple(part for part in table.decode_ranges() if SPEED[part[2]] > SPEED[wanted])


def _repair(rules: EngineRules, settings: Settings, wanted: Kind) -> tuple[int, ...] | None:
    """Return the fewest sizes to add so that every decode batch takes the wanted kind, None where none do.

    A size serves the batches below it down to the next size that serves any; so the last batch of every
    range that falls off repairs that range. No repaired batch is padded to more than twice its size.
    """
    unit = settings.width if rules.sizes_are_tokens else 1
    added: set[int] = set()
    table = rules.table(settings)
    while falls_off := _falls_off(table, wanted):
        first, last, _ = falls_off[-1]
        wider = {batch * unit for batch in _halvings(first, last)} - added
        if not settings.padding:
            wider = {batch * unit for first, last, _ in falls_off for batch in range(first, last + 1)} - added
        if not wider or len(added) > MOST_ADDED:
            return None
        added |= wider
        table = rules.table(replace(settings, sizes=(*(settings.sizes or ()), *sorted(added))))
    return tuple(sorted(added))


def _halvings(first: int, last: int) -> list[int]:
    """Return `last` and its halves (multiples of 8 above 16) down to twice `first`."""
    batches = [last]
    while batches[-1] > MOST_PADDING * first:
        half = -(-batches[-1] // MOST_PADDING)
        batches.append(half if half < 16 else -(-half // 8) * 8)
    return batches


def slower_batches(before: DispatchTable, after: DispatchTable) -> list[tuple[int, int, Kind]]:
    """Return the decode batches that take a slower kind of graph after than before: (first, last, kind)."""
    ranges: list[tuple[int, int, Kind]] = []
    for batch, (old, new) in enumerate(zip(before.decode, after.decode, strict=False), 1):
        if SPEED[new.kind] <= SPEED[old.kind]:
            continue
        if ranges and ranges[-1][1:] == (batch - 1, new.kind):
            ranges[-1] = (ranges[-1][0], batch, new.kind)
        else:
            ranges.append((batch, batch, new.kind))
    return ranges
