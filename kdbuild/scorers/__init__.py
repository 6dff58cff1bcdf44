"""Scorers: what a row is worth by one measure. They annotate rows and never drop one."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from typing import Any, ClassVar

from pydantic import Field

from kdbuild.elicitors import Answered, Conversation, Conversing, Made, Rejected, Scene, side_by_side
from kdbuild.elicitors._extent import Extent, times
from kdbuild.records import Row
from kdbuild.teachers import Ask, Signal

NUM_DECIMALS = 6
"""Scores are rounded to this, so that low bits of a processor or an engine change no output."""

Scores = Mapping[str, float]
"""Values by name; the name `""` is the scorer's own."""
Scoring = Generator[Sequence[Ask], Sequence[Answered], Scores | Rejected]
"""What `score` returns: it yields questions, is sent their answers, and returns the values, or why there are none."""


class Cost(IntEnum):
    """What a scorer takes. Of scorers that follow each other the cheap ones run first: a row that fails there costs no more."""

    TEXT = 0
    """Reads text."""
    COMPUTE = 1
    """Runs a program, or an embedder."""
    MODEL = 2
    """Asks a model."""


class Scorer(Conversing):
    """Base of every scorer. Pure: a score depends on its own row (where `pooled`, on all rows) and on answers, never on an order.

    A row that has no answer yet but candidates is scored candidate by candidate, each as the answer of the row.
    A row that cannot be scored is set apart with its reason and counts as failed (`accept_failed_frac`).
    """

    family: ClassVar[str] = "scorers"
    rejects_fail: ClassVar[bool] = True
    cost: ClassVar[Cost] = Cost.TEXT
    """What it takes."""
    parts: ClassVar[tuple[str, ...]] = ("",)
    """Names of its values: `""` is `<name>`, `x` is `<name>.x`."""
    by_candidate: ClassVar[bool] = True
    """Whether candidates are scored one by one; else `score` is given the row with all of them."""
    asks_each: ClassVar[int | None] = 1
    """The most questions it asks about a row, or a candidate; None where nothing bounds them."""
    judges: ClassVar[bool] = False
    """Whether it is a model's opinion of answers, whose accuracy on the shipped pairs stands in the report."""

    name: str | None = Field(None, pattern=r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
    """Its name among the row's scores; absent: the kind."""
    carry: bool = False
    """Keep the score in the selected rows: for a later phase, an objective or the order of training. A change of the score then
    changes what is trained on."""

    @property
    def needs(self) -> frozenset[Signal]:
        """Nothing, unless it asks a model."""
        return frozenset()

    @property
    def reads_scores(self) -> tuple[str, ...]:
        """The scores that a row must have, from scorers before it."""
        return ()

    @property
    def label(self) -> str:
        """Its name among the row's scores."""
        return self.name or self.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all its values among the row's scores."""
        return tuple(self._named(part) for part in self.parts)

    def most(self, given: Extent) -> Extent:
        """Return the most questions about rows of this extent: `asks_each` a row or candidate, none where it asks nobody."""
        each = self.asks_each if self.needs else 0
        asks = times(given.candidates, each) if self.by_candidate else each
        # A row with an answer has it scored, and not its candidates.
        return given.each(asks=None if asks is None or each is None else max(asks, each))

    @abstractmethod
    def score(self, row: Row, scene: Scene) -> Scoring:
        """Return the values of one row, asking what must be asked."""

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Return the row with its scores."""
        if self.by_candidate and row.answer is None and row.candidates:
            return (yield from self._score_candidates(row, scene))
        found = yield from self.score(row, scene)
        return found if isinstance(found, Rejected) else self.given(row, found)

    def given(self, row: Row, found: Scores) -> list[Row] | Rejected:
        """Return the row with these values among its scores."""
        if not all(map(math.isfinite, found.values())):
            return Rejected("the score is not a number")
        return [replace(row, scores={**row.scores, **self._rounded(found)})]

    def _score_candidates(self, row: Row, scene: Scene) -> Conversation:
        texts = dict(enumerate(row.candidates))
        found = yield from side_by_side({i: self.score(as_answer(row, one), scene) for i, one in texts.items()})
        rejected = [result for result in found.values() if isinstance(result, Rejected)]
        if len(rejected) == len(found):
            return rejected[0]
        return [replace(row, candidates=tuple(self._candidate(one, found[i]) for i, one in texts.items()))]

    def _candidate(self, candidate: Mapping[str, Any], found: Scores | Rejected) -> dict[str, Any]:
        """Return a candidate with its values; one that could not be scored has none."""
        if isinstance(found, Rejected) or not all(map(math.isfinite, found.values())):
            return {**candidate}
        values = self._rounded(found)
        own = {"score": values[self.label]} if self.label in values else {}
        return {**candidate, "scores": {**candidate.get("scores", {}), **values}, **own}

    def _rounded(self, found: Scores) -> dict[str, float]:
        return {self._named(part): round(float(value), NUM_DECIMALS) for part, value in found.items()}

    def _named(self, part: str) -> str:
        return f"{self.label}.{part}" if part else self.label


def as_answer(row: Row, candidate: Mapping[str, Any]) -> Row:
    """Return the row with a candidate as its answer: with the candidate's scores, where it has any, in place of the row's own."""
    scored = replace(row, scores={**row.scores, **candidate.get("scores", {})})
    return scored.with_answer(candidate["text"], ended=bool(candidate.get("ended", True)), keys=())


class Judging(Scorer):
    """Base of scorers that are a model's opinion of an answer. The report states how often the model is right on shipped pairs of a good
    and a spoilt answer (`scorers/_calibration.py`).
    """

    judges: ClassVar[bool] = True
    cost: ClassVar[Cost] = Cost.MODEL

    min_accuracy: float | None = Field(None, ge=0, le=1)
    """Share of the shipped pairs in which the good answer must get the higher score (an equal score is half); below it the stage
    fails."""


__all__ = ["NUM_DECIMALS", "Conversation", "Cost", "Judging", "Made", "Rejected", "Scene", "Scorer", "Scores", "Scoring", "as_answer"]
