"""Whether an answer follows from the row's passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Answered, Rejected, Scene
from kdbuild.records import Row
from kdbuild.scorers import Judging, Scoring, _classified, _entailment, _likelihood
from kdbuild.scorers._entailment import Signs, sentences_of
from kdbuild.scorers._likelihood import NO_ANSWER
from kdbuild.scorers._without import with_context
from kdbuild.teachers import Signal


class Entail(Judging):
    """The probability that an answer follows from the passages of its row (`context`).

    `how: nli` asks an NLI model or another cross-encoder (`by:` a teacher of kind `classifier`) for each sentence of the answer whether a
    passage entails it; the passage that does so best counts. Of a model with a single output its logistic is the probability.

    `how: pmi` does without one: how much likelier the passages make the answer for the teacher, how near its sentences are to theirs, and
    whether its names and numbers stand there, make one value; these three are `.pmi`, `.cosine` and `.agreement`. The weights were fitted
    with SmolLM2-135M-Instruct and MiniLM on 48 pairs of a good and a spoilt answer. The good one gets the higher value in 90 % of pairs
    left out of the fit, and in 56 % of the 16 shipped pairs with a passage, where answers also break off or give a wrong sum.
    An NLI model knows better; use it where there is one.
    """

    kind: Literal["entail"] = "entail"
    source: ClassVar[str | None] = (
        "Roit et al. 2023 (2306.00186), section 3: textual entailment as a reward; Laban et al. 2022, SummaC (2111.09525), section 4: "
        "by sentences; the weighted signs are our own"
    )
    block: ClassVar[str | None] = "score.entail"
    asks_once: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("answer|candidates", "context")

    how: Literal["nli", "pmi"] = "pmi"
    """By a classifier, or by the likelihoods of an ordinary teacher and an embedder."""
    over: Literal["min", "mean"] | None = None
    """Of `nli`: the value of the sentence that follows least (`min`, the default), or the mean of all."""
    entailment: str | None = Field(None, min_length=1)
    """Of `nli`: the model's label for what follows; absent: `entailment`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.how == "pmi" and (self.over is not None or self.entailment is not None):
            raise PydanticCustomError("entail_how", "`over` and `entailment` are for `how: nli`")
        return self

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Its value and, where it is made of signs, these."""
        return ("", "pmi", "cosine", "agreement") if self.how == "pmi" else ("",)

    @property
    def needs(self) -> frozenset[Signal]:
        """Scores of labels, or likelihoods."""
        return frozenset({Signal.SCORES if self.how == "nli" else Signal.LIKELIHOOD})

    @property
    def needs_embedder(self) -> bool:  # type: ignore[override]
        """Whether it compares meanings."""
        return self.how == "pmi"

    @property
    def asks_each(self) -> int | None:  # type: ignore[override]
        """One for every sentence and passage, of which there may be any number; or with and without the passages."""
        return None if self.how == "nli" else 2

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Ask for everything at once."""
        if _likelihood.answer_of(row) is None:
            return NO_ANSWER
        if not _likelihood.passages(row):
            return Rejected("no passage to follow from")
        return (yield from self._by_classifier(row, scene) if self.how == "nli" else self._by_signs(row, scene))

    # --- by a classifier ---------------------------------------------------------------------------------------------------------

    def _by_classifier(self, row: Row, scene: Scene) -> Scoring:
        passages = [text for one in row.context if (text := str(one.get("text") or "").strip())]
        sentences = sentences_of(row.answer or "")
        answered = yield [_classified.pair(scene, row.id, passage, sentence) for sentence in sentences for passage in passages]
        found = [self._probability(one) for one in answered]
        best, width = [], len(passages)
        for i in range(0, len(found), width):
            values = [one for one in found[i : i + width] if not isinstance(one, Rejected)]
            if len(values) < width:
                return next(one for one in found if isinstance(one, Rejected))
            best.append(max(values))
        return {"": _likelihood.mean(best) if self.over == "mean" else min(best)}

    def _probability(self, answered: Answered) -> float | Rejected:
        output = _classified.output_of(answered)
        if output is None:
            return _classified.expectation(answered, {self.entailment or "entailment": 1.0}, self.kind)
        return output if isinstance(output, Rejected) else _entailment.logistic(output)

    # --- by signs ----------------------------------------------------------------------------------------------------------------

    def _by_signs(self, row: Row, scene: Scene) -> Scoring:
        answer = row.answer or ""
        weighed = _likelihood.read_all((yield [_likelihood.ask(scene, row.id, answer, turns) for turns in with_context(row)]))
        if isinstance(weighed, Rejected):
            return weighed
        signs = Signs(
            _entailment.pmi_of(*(one.per_token for one in weighed)),
            _cosine(sentences_of(answer), sentences_of(_likelihood.passages(row)), scene),
            _entailment.agreement_of(answer, [_likelihood.passages(row), *(turn.content for turn in row.prompt)]),
        )
        return {"": _entailment.probability(signs), **asdict(signs)}


def _cosine(answer: Sequence[str], passages: Sequence[str], scene: Scene) -> float:
    vectors = scene.embedder.embed([*answer, *passages])
    return _entailment.cosine_of(vectors[: len(answer)], vectors[len(answer) :])
