"""A better and a worse answer to one question, by two ways of asking or by two models."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Conversation, Rejected, Scene
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._replies import same_words
from kdbuild.elicitors._rows import candidate, reworded, text_of, unasked, with_system
from kdbuild.records import Row
from kdbuild.teachers import Ask

_BETTER = "Give a helpful, correct and complete answer."
_WORSE = "Give an unhelpful answer that is wrong or leaves out what matters."


class Contrast(Asking):
    """Ask each question twice, so that one answer is better by construction: no judge is needed.

    Writes `candidates` (better, worse), `ranking` (0, 1), `chosen`, `rejected` and the better one as the turn the student learns. Its
    template writes the last turn from `prompt` and `affix` (empty where the contrast is a system message).
    """

    kind: Literal["contrast"] = "contrast"
    source: ClassVar[str | None] = (
        "Yang et al. 2024, RLCD (2307.12950), section 3; Kim et al. 2023, ALMOST (2305.13735), section 2.1: larger above smaller model"
    )
    block: ClassVar[str | None] = "gen.contrast"
    asks_once: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = ("answer", "candidates", "ranking", "chosen", "rejected")

    positive: str | None = Field(None, min_length=1)
    """What is said for the better answer; absent: to be helpful, correct and complete, or nothing where another model gives the worse."""
    negative: str | None = Field(None, min_length=1)
    """What is said for the worse answer; absent: to be unhelpful, or the same where another model gives the worse."""
    place: Literal["system", "affix"] = "affix"
    """Whether it is said in the system message or after the question."""
    worse_by: str | None = None
    """Who gives the worse answer: a smaller model, or the student; absent: the same model."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        better, worse = self._texts
        if better == worse and self.worse_by is None:
            raise PydanticCustomError("contrast_same", "`positive` and `negative` are the same and no `worse_by` is given: nothing differs")
        return self

    @property
    def others(self) -> tuple[str, ...]:
        """Return who gives the worse answer, where that is another model."""
        return () if self.worse_by is None else (self.worse_by,)

    @property
    def _texts(self) -> tuple[str, str]:
        if self.worse_by is None:
            return self.positive or _BETTER, self.negative or _WORSE
        return self.positive or "", self.negative or self.positive or ""

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=2, candidates=2)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask both questions at once."""
        problem = unasked(row)
        if problem is not None:
            return problem
        whom = (scene.actor, self.worse_by or scene.actor)
        answered = yield [self._ask(row, scene, said, to) for said, to in zip(self._texts, whom, strict=True)]
        better, worse = (one.answer for one in answered)
        if not better.text.strip() or not worse.text.strip():
            return Rejected("empty answer", text_of(row.prompt))
        if same_words(better.text, worse.text):
            return Rejected("both answers are the same", better.text)
        made = replace(
            row,
            messages=row.prompt,
            candidates=tuple(candidate(one, to) for one, to in zip(answered, whom, strict=True)),
            ranking=(0, 1),
            chosen=better.text,
            rejected=worse.text,
        )
        return [made.with_answer(better.text, ended=better.ended, keys=[one.key for one in answered])]

    def _ask(self, row: Row, scene: Scene, said: str, to: str) -> Ask:
        affix = said if self.place == "affix" else ""
        prompt = reworded(row.prompt, self.render(scene, row.id, {**values_of(row), "affix": affix}))
        return self.ask(scene, row.id, with_system(prompt, said) if said and not affix else prompt, to=to)
