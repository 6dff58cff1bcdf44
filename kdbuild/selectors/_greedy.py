"""What selectors have in common that take rows one by one and drop those too like a row taken before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kdbuild.records import Row
from kdbuild.selectors import Scene, Selector
from kdbuild.selectors._order import order_of


class Greedy(Selector):
    """Base of selectors that compare each row with those kept before it, and with the rows of pools."""

    by_score: str | None = None
    """Score that decides which of two rows stays, the higher one; absent: the first by id."""
    against: list[str] = []
    """Data sets that earlier phases selected, `<phase>` or `<spec>/<phase>`: none of their rows ever loses to one that is new."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The score that decides who stays."""
        return () if self.by_score is None else (self.by_score,)

    @property
    def pools(self) -> tuple[str, ...]:
        """The data sets that rows are compared with."""
        return tuple(self.against)

    def taken(self, rows: Sequence[Row], scene: Scene) -> Iterator[tuple[int, Row]]:
        """Yield the rows in the order they are taken: those of the pools, each with -1, then `rows` with their positions.

        Raises:
            StageError: a row lacks the score.
        """
        for name in self.against:
            yield from ((-1, row) for row in scene.pools[name])
        yield from ((i, rows[i]) for i in order_of(rows, self.by_score))
