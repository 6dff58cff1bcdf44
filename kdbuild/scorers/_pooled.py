"""Scorers that compute the values of all rows together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from kdbuild.elicitors import Conversation, Made, Rejected, Scene
from kdbuild.records import Dropped, Row
from kdbuild.scorers import Cost, Scorer, Scores, Scoring, as_answer


class Pooled(Scorer):
    """Base of scorers that ask nobody, and see all rows of one side of the held-out split at once."""

    asks_once: ClassVar[bool] = True
    pooled: ClassVar[bool] = True
    cost: ClassVar[Cost] = Cost.COMPUTE

    @abstractmethod
    def values(self, rows: Sequence[Row], scene: Scene) -> list[Scores | Rejected]:
        """Return the values of each row; a candidate comes as the answer of its row, under the row's id."""

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Return the values of a row by itself."""
        return self.values([row], scene)[0]
        yield []  # a conversation without questions

    def gather(self, rows: Sequence[Row], scene: Scene) -> Conversation:
        """Score all rows, and the candidates of those without an answer."""
        texts = [self._texts(row) for row in rows]
        found = iter(self.values([one for some in texts for one in some], scene))
        made = Made([])
        for row, some in zip(rows, texts, strict=True):
            result = self._joined(row, [next(found) for _ in some])
            if isinstance(result, Rejected):
                made.dropped.append(Dropped(row.id, self.kind, result.reason, text=result.text))
            else:
                made.rows.append(result)
        return made
        yield []  # a conversation without questions

    def _is_split(self, row: Row) -> bool:
        return self.by_candidate and row.answer is None and bool(row.candidates)

    def _texts(self, row: Row) -> list[Row]:
        return [as_answer(row, one) for one in row.candidates] if self._is_split(row) else [row]

    def _joined(self, row: Row, found: Sequence[Scores | Rejected]) -> Row | Rejected:
        if self._is_split(row):
            rejected = [one for one in found if isinstance(one, Rejected)]
            if len(rejected) == len(found):
                return rejected[0]
            return replace(row, candidates=tuple(map(self._candidate, row.candidates, found)))
        (own,) = found
        result = own if isinstance(own, Rejected) else self.given(row, own)
        return result if isinstance(result, Rejected) else result[0]
