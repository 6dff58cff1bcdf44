"""The score of a trained model: a reward model, a verifier, a critic, a reranker or a quality classifier."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Rejected, Scene
from kdbuild.records import Message, Row
from kdbuild.scorers import Judging, Scoring, _classified
from kdbuild.scorers._likelihood import NO_ANSWER, NO_PROMPT, before_answer, passages, prompt_of
from kdbuild.teachers import Ask, Signal

Part = Literal["prompt", "answer", "context", "rationale"]


class Model(Judging):
    """What a classifier (`by:` a teacher of kind `classifier`) says: its raw output where it has a single one, as reward models do, else
    what its labels are `worth`, by their probabilities.

    `shown: chat` is the whole conversation by the model's chat template, as a reward model reads it; `pair` is two parts of the row, as a
    reranker or another cross-encoder does; `text` is one text.
    """

    kind: Literal["model"] = "model"
    source: ClassVar[str | None] = (
        "Ouyang et al. 2022 (2203.02155), section 3.5: a reward model's scalar r(x, y); Nogueira and Cho 2019 (1901.04085): a reranker; "
        "Gunasekar et al. 2023 (2306.11644), section 2.1: a quality classifier"
    )
    block: ClassVar[str | None] = "score.model"
    asks_once: ClassVar[bool] = True

    shown: Literal["chat", "pair", "text"] = "chat"
    """What the model is shown of a row."""
    of: list[Part] | None = Field(None, min_length=1)
    """Parts of the row that it is shown: two for `pair` (absent: prompt and answer; `[prompt, context]` scores passages), some for
    `text` (absent: the answer), none for `chat`."""
    worth: str | dict[str, float] | None = Field(None, min_length=1, examples=["entailment"])
    """Label whose probability is the score, or what each label is worth: `{good: 1}`, `{"1 star": 1, "2 stars": 2}`. Not for a model with a
    single output."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wrong = {"chat": self.of is not None, "pair": len(self._parts) != 2, "text": False}[self.shown]
        if wrong:
            raise PydanticCustomError("model_of", "`of` names two parts for `shown: pair`, and none for `shown: chat`")
        return self

    @property
    def _parts(self) -> list[Part]:
        return self.of or {"chat": [], "pair": ["prompt", "answer"], "text": ["answer"]}[self.shown]  # type: ignore[return-value]

    @property
    def needs(self) -> frozenset[Signal]:
        """Scores of labels."""
        return frozenset({Signal.SCORES})

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what the model is shown."""
        return tuple("answer|candidates" if part == "answer" else part for part in self._parts or ["prompt", "answer"])

    @property
    def by_candidate(self) -> bool:  # type: ignore[override]
        """Whether there may be several texts."""
        return self.shown == "chat" or "answer" in self._parts

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Ask once."""
        asked = self._ask(row, scene)
        if isinstance(asked, Rejected):
            return asked
        (answered,) = yield [asked]
        output = _classified.output_of(answered)
        if output is None:
            if self.worth is None:
                raise _classified.no_label(answered, self.kind, "worth")
            worth = {self.worth: 1.0} if isinstance(self.worth, str) else self.worth
            return {"": _classified.expectation(answered, worth, self.kind)}
        return output if isinstance(output, Rejected) else {"": output}

    def _ask(self, row: Row, scene: Scene) -> Ask | Rejected:
        if self.shown == "chat":
            if not (row.answer or "").strip():
                return NO_ANSWER
            turns = before_answer(row)
            if not any(turn.role == "user" for turn in turns):
                return NO_PROMPT
            return _classified.ask(scene, row.id, "chat", (*turns, Message("assistant", row.answer or "")))
        texts = [_text(row, part) for part in self._parts]
        lacking = next((part for part, text in zip(self._parts, texts, strict=True) if not text.strip()), None)
        if lacking is not None:
            return Rejected(f"no {lacking} to score")
        if self.shown == "pair":
            return _classified.pair(scene, row.id, *texts)
        return _classified.ask(scene, row.id, "text", (Message("user", "\n\n".join(texts)),))


def _text(row: Row, part: Part) -> str:
    return {"prompt": prompt_of(row), "answer": row.answer, "context": passages(row), "rationale": row.rationale}[part] or ""
