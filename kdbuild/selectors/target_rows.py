"""Keep as many rows as are wanted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild import canonical
from kdbuild.errors import StageError
from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._order import order_of


class TargetRows(Selector):
    """Keeps so many rows: those with the highest score, or, without a score, rows drawn by their ids.

    With `balance` each value of a field of `meta` gets the same number of rows as far as it has them; what the small ones lack goes to the
    others, and what cannot be shared out evenly to the best rows.
    """

    block: ClassVar[str | None] = "select.keep"

    kind: Literal["target-rows"] = "target-rows"
    num_rows: int = Field(ge=1, examples=[2])
    """How many training rows are kept."""
    by_score: str | None = None
    """Score by which the best are kept."""
    balance: str | None = Field(None, min_length=1)
    """Field of `meta` whose values get equally many rows."""
    too_few: Literal["error", "warning", "accept"] = "error"
    """What happens where there are fewer: the stage fails, or all are kept, with a warning or without."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The score by which the best are kept."""
        return () if self.by_score is None else (self.by_score,)

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row.

        Raises:
            StageError: there are too few rows, or one lacks the score or the field.
        """
        if rows and len(rows) < self.num_rows and self.too_few != "accept":
            said = f"`target-rows` wants {self.num_rows} rows, and {len(rows)} are left"
            if self.too_few == "error":
                raise StageError(said, hint="ask for more rows, loosen the selectors before it, or say `too_few: warning`")
            print(f"warning: {said}; all are kept", file=sys.stderr, flush=True)
            scene.facts["num_too_few"] = self.num_rows - len(rows)
        ranked = self._ranked(rows)
        kept = set((self._balanced(rows, ranked) if self.balance else ranked)[: self.num_rows])
        reason = "more rows than wanted" + (f" of this `{self.balance}`" if self.balance else "")
        return [
            KEEP if i in kept else drop(reason, score=row.scores[self.by_score] if self.by_score else None) for i, row in enumerate(rows)
        ]

    def _ranked(self, rows: Sequence[Row]) -> list[int]:
        if self.by_score is not None:
            return order_of(rows, self.by_score)
        return sorted(range(len(rows)), key=lambda i: (canonical.fraction("target-rows", rows[i].id), rows[i].id))

    def _balanced(self, rows: Sequence[Row], ranked: Sequence[int]) -> list[int]:
        """Return the positions so that every value's best come first, then every value's second, and so on."""
        seen: Counter[str] = Counter()
        rank = []
        for i in ranked:
            value = rows[i].meta.get(self.balance or "")
            if value is None:
                raise StageError(
                    f"row {rows[i].id} has no `meta.{self.balance}`; its fields: {', '.join(sorted(rows[i].meta)) or 'none'}",
                    hint="`balance` shares the rows out over a field of `meta` that every row has",
                )
            rank.append(seen[value])
            seen[value] += 1
        # `sorted` keeps the order of equals: the better row first.
        return [i for _, i in sorted(zip(rank, ranked, strict=True), key=lambda pair: pair[0])]
