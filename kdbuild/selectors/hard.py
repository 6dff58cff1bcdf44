"""Keep what the student fails at, or does worse than the teacher."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.errors import StageError
from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._expression import mean
from kdbuild.selectors._order import score_of

NUM_DECIMALS = 6


class Hard(Selector):
    """Keeps rows on which the student trails: by the gap `teacher - student` between two scores of the row.

    With a number for `teacher` the gap is the student's error: what a perfect answer scores, less what the student's does. With `per`,
    the mean gap of the rows that share a value of a field of `meta` (a category, or what `cluster` wrote) decides for all of them.
    """

    source: ClassVar[str | None] = "Jiang et al. 2023, Lion (2305.12870), section 3.2; He et al. 2023, TDG (2305.14128), by cluster"
    block: ClassVar[str | None] = "select.hard"

    kind: Literal["hard"] = "hard"
    student: str = Field(min_length=1, examples=["quality"])
    """Score of the student's answer."""
    teacher: float | str = 1.0
    """Score of the teacher's answer, or what a perfect answer scores: 1 for right or wrong, 10 for a rating up to ten, 0 for a loss."""
    min_gap: float = Field(examples=[0.5])
    """Smallest gap that is kept."""
    lower_is_better: bool = False
    """Whether the scores are losses: the gap is then `student - teacher`."""
    per: str | None = Field(None, min_length=1)
    """Field of `meta` whose values are kept or dropped as a whole."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The two scores."""
        return (self.student, self.teacher) if isinstance(self.teacher, str) else (self.student,)

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; the gap is the score of what is dropped.

        Raises:
            StageError: a row lacks a score or the field.
        """
        gaps = [self._gap(row) for row in rows]
        reason = "the student does well here"
        if self.per is not None:
            gaps = self._shared(rows, gaps)
            reason = f"the student does well on this `{self.per}`"
        return [KEEP if gap >= self.min_gap else drop(reason, score=gap) for gap in gaps]

    def _gap(self, row: Row) -> float:
        best = score_of(row, self.teacher) if isinstance(self.teacher, str) else self.teacher
        gap = best - score_of(row, self.student)
        return round(-gap if self.lower_is_better else gap, NUM_DECIMALS)

    def _shared(self, rows: Sequence[Row], gaps: Sequence[float]) -> list[float]:
        """Return for each row the mean gap of its value of `per`."""
        by_value: dict[str, list[float]] = defaultdict(list)
        values = [self._value(row) for row in rows]
        for value, gap in zip(values, gaps, strict=True):
            by_value[value].append(gap)
        means = {value: round(mean(found), NUM_DECIMALS) for value, found in by_value.items()}
        return [means[value] for value in values]

    def _value(self, row: Row) -> str:
        try:
            return row.meta[self.per or ""]
        except KeyError:
            has = ", ".join(sorted(row.meta)) or "none"
            raise StageError(f"row {row.id} has no `meta.{self.per}`; its fields: {has}", hint="`per` is a field of every row") from None
