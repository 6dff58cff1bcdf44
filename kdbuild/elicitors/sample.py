"""Answers drawn from a model, usually the student, as candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdbuild.elicitors import Answered, Conversation, Rejected, Scene
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent, plus
from kdbuild.elicitors._rows import candidate, require_drawn, reworded, text_of, unasked
from kdbuild.records import Message, Row

_UNCONDITIONAL = Message("user", "")


class Sample(Asking):
    """Draw answers to each prompt: what the student itself would say, for a judge, a pair or an on-policy objective.

    Writes `candidates` (text, source, logprob, ended). Those of several actors stand together in one row, in the order of `by`. Its
    template writes the last turn, as that of `label` does.
    """

    kind: Literal["sample"] = "sample"
    source: ClassVar[str | None] = (
        "Agarwal et al. 2024, GKD (2306.13649), section 3; Gu et al. 2024, MiniLLM (2306.08543); Xu et al. 2024 (2402.13116), Eq. 7 and 8"
    )
    block: ClassVar[str | None] = "gen.sample"
    asks_once: ClassVar[bool] = True
    default_actor: ClassVar[str] = "student"
    combines: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = ("candidates",)

    num_samples: int = Field(4, ge=1, le=1024)
    """Answers drawn for each prompt, from each actor; more than one needs a temperature above 0."""
    temperature: float = Field(1.0, ge=0)
    """Above 0 tokens are drawn, seeded by the row's id and the sample's number; 1 is the model's own distribution."""
    prompt: str | None = None
    """What is asked where a row has no prompt (seeds of kind `none`), an empty text for an empty turn; absent: such a row is rejected."""
    extend: bool = False
    """Whether candidates that a row has already stay before the new ones; else the new ones replace them and their ranking."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        require_drawn("num_samples", self.num_samples, self.temperature)
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `prompt`, unless one is given for rows without."""
        return ("prompt",) if self.prompt is None else ()

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        num_new = self.num_samples * len(self.actors)
        return given.each(asks=num_new, candidates=plus(given.candidates, num_new) if self.extend else num_new)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for every sample of every actor at once."""
        asked = self._asked(row)
        if asked is None:
            return unasked(row) or Rejected("no question: the last turn is not the user's", text_of(row.prompt))
        row = asked
        prompt = row.prompt or (_UNCONDITIONAL,)
        question = reworded(prompt, self.render(scene, row.id, values_of(row)))
        drawn = [(actor, i) for actor in self.actors for i in range(self.num_samples)]
        answered = yield [self.ask(scene, row.id, question, sample=i, to=actor) for actor, i in drawn]
        return self._row(row, [actor for actor, _ in drawn], answered)

    def _asked(self, row: Row) -> Row | None:
        """Return the row with the prompt it is asked under, or None where there is none."""
        if unasked(row) is None:
            return row
        if self.prompt is None or row.prompt:
            return None
        return replace(row, messages=(Message("user", self.prompt),)) if self.prompt else row

    def _row(self, row: Row, actors: Sequence[str], answered: Sequence[Answered]) -> list[Row] | Rejected:
        drawn = [(actor, one) for actor, one in zip(actors, answered, strict=True) if one.answer.text.strip()]
        if not drawn:
            return Rejected("empty answer", text_of(row.prompt))
        candidates = tuple(candidate(one, actor) for actor, one in drawn)
        keys = (*row.keys, *(one.key for _, one in drawn))
        if self.extend:
            return [replace(row, candidates=(*row.candidates, *candidates), keys=keys)]
        return [replace(row, candidates=candidates, ranking=(), keys=keys)]
