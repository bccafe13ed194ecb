"""Which request sits in which row of the batch: decoding rows first, without holes, prefilling rows after."""

from __future__ import annotations

from typing import NamedTuple


class Move(NamedTuple):
    """What must happen to the rows' contents: copy `source` over `target`, or exchange the two."""

    source: int
    target: int
    exchange: bool


class BatchRows:
    """The order of the batch. Rows 0…decoding−1 decode; the rest are admitted and still prefilling."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.decoding = 0
        self._slots: list[int] = []
        self._row_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def row(self, slot: int) -> int:
        """Return the row of an admitted slot; raises KeyError."""
        return self._row_of[slot]

    def slot(self, row: int) -> int:
        """Return the slot in a row."""
        return self._slots[row]

    def add(self, slot: int) -> int:
        """Add a slot as the last prefilling row and return its row."""
        if slot in self._row_of:
            raise ValueError(f"slot {slot} is taken")
        if len(self._slots) == self.most:
            raise ValueError(f"all {self.most} rows are taken")
        self._row_of[slot] = len(self._slots)
        self._slots.append(slot)
        return self._row_of[slot]

    def start_decoding(self, slot: int) -> list[Move]:
        """Make a prefilling row the last decoding row; return what that moves."""
        row, target = self._row_of[slot], self.decoding
        if row < target:
            raise ValueError(f"slot {slot} decodes already")
        self.decoding += 1
        if row == target:
            return []
        other = self._slots[target]
        self._slots[row], self._slots[target] = other, slot
        self._row_of[slot], self._row_of[other] = target, row
        return [Move(row, target, True)]

    def remove(self, slot: int) -> list[Move]:
        """Take a slot out and close the hole; return the moves that closes it, in order."""
        hole = self._row_of.pop(slot)
        moves = []
        if hole < self.decoding:
            self.decoding -= 1
            moves += self._fill(hole, self.decoding)
            hole = self.decoding
        moves += self._fill(hole, len(self._slots) - 1)
        self._slots.pop()
        return moves

    def _fill(self, hole: int, source: int) -> list[Move]:
        if hole == source:
            return []
        self._slots[hole] = self._slots[source]
        self._row_of[self._slots[hole]] = hole
        return [Move(source, hole, False)]
