"""How much may come of some rows at most: what an operator can promise before any answer is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdbuild.records import Row


@dataclass(frozen=True)
class Extent:
    """The most there can be; None where nothing bounds it."""

    rows: int | None = None
    """Rows."""
    candidates: int | None = None
    """Candidates of one of these rows."""
    asks: int | None = None
    """Questions asked to make these rows."""

    @staticmethod
    def of(rows: Sequence[Row]) -> Extent:
        """Return that of rows which are there."""
        return Extent(len(rows), max((len(row.candidates) for row in rows), default=0), 0)

    def each(self, *, asks: int | None, rows: int | None = 1, candidates: int | None = None) -> Extent:
        """Return what comes of so many questions about each row, and so many rows of each; they keep its candidates, or get as many."""
        return Extent(times(self.rows, rows), self.candidates if candidates is None else candidates, times(self.rows, asks))

    def and_(self, other: Extent) -> Extent:
        """Return that of both together."""
        several = None if self.candidates is None or other.candidates is None else max(self.candidates, other.candidates)
        return Extent(plus(self.rows, other.rows), several, plus(self.asks, other.asks))


NOTHING = Extent(0, 0, 0)


def plus(one: int | None, other: int | None) -> int | None:
    """Return the sum; without a bound where one has none."""
    return None if one is None or other is None else one + other


def times(one: int | None, other: int | None) -> int | None:
    """Return the product; 0 times what has no bound is 0."""
    if 0 in (one, other):
        return 0
    return None if one is None or other is None else one * other
