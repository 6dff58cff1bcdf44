"""How much the answers to one question agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from kdbuild.elicitors import Conversation, Rejected, _answers
from kdbuild.elicitors._agreement import agreement, agreement_with
from kdbuild.elicitors._answers import Form
from kdbuild.elicitors._words import words
from kdbuild.records import Row
from kdbuild.scorers import Scene, Scorer, Scoring, _likelihood

_NO_CANDIDATES = Rejected("no candidates to compare")
_CONSISTENCY = "order_consistency"
"""The score that the operator `rank` leaves."""


class Agree(Scorer):
    """What the candidates of a row say of each other.

    `answers`: a candidate's value is the share of all candidates with the same final answer; the row's is that of its answer or, while it
    has none, of the answer that most have. `texts`: a candidate's value is its mean ROUGE-L with the others; the row's that of its
    answer, or the highest. `orders`: how often a judge said the same in both orders, as `rank` found.
    """

    kind: Literal["agree"] = "agree"
    source: ClassVar[str | None] = (
        "Huang et al. 2022, LMSI (2210.11610), section 3.1: y* = argmax_y sum_i 1[y_i = y]; Lee et al. 2023, Ensemble-Instruct "
        "(2310.13961), section 3.3: mean ROUGE-L with the others"
    )
    block: ClassVar[str | None] = "score.agree"
    by_candidate: ClassVar[bool] = False

    of: Literal["answers", "texts", "orders"] = "answers"
    """What is compared: final answers, whole texts, or a judge's two orders."""
    answers: Form = "text"
    """How final answers are read and compared: as words, as numbers, or as the letter of an option."""
    marker: str = Field("Answer:", min_length=1)
    """What the line of the final answer starts with."""

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what is compared."""
        return ("scores",) if self.of == "orders" else ("candidates",)

    @property
    def reads_scores(self) -> tuple[str, ...]:
        """Return what a judge's two orders left."""
        return (_CONSISTENCY,) if self.of == "orders" else ()

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Return the value of the row's answer, or the best of its candidates'."""
        if self.of == "orders":
            found = row.scores.get(_CONSISTENCY)
            return Rejected("no judge's two orders to compare") if found is None else {"": found}
        if not row.candidates:
            return _NO_CANDIDATES
        texts = [str(one["text"]) for one in row.candidates]
        answer = _likelihood.answer_of(row)
        return {"": max(self._each(row, texts)) if answer is None else self._of_answer(row, answer, texts)}
        yield  # asks nobody

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Return the row with its scores and, while it has no answer, with those of its candidates."""
        result = yield from super().elicit(row, scene)
        if isinstance(result, list) and self.of != "orders" and row.answer is None:
            values = self._each(row, [str(one["text"]) for one in row.candidates])
            candidates = tuple(self._candidate(one, {"": value}) for one, value in zip(row.candidates, values, strict=True))
            return [replace(made, candidates=candidates) for made in result]
        return result

    def _each(self, row: Row, texts: Sequence[str]) -> list[float]:
        """Return the value of each candidate."""
        if self.of == "texts":
            return agreement([words(text) for text in texts])
        said = [self._said(row, text) for text in texts]
        return [self._share(one, said) for one in said]

    def _of_answer(self, row: Row, answer: str, texts: Sequence[str]) -> float:
        if self.of == "answers":
            return self._share(self._said(row, answer), [self._said(row, text) for text in texts])
        others = list(texts)
        if answer in others:  # it was taken from them, and is not compared with itself
            others.remove(answer)
        return agreement_with(words(answer), [words(text) for text in others])

    def _share(self, answer: str | None, said: Sequence[str | None]) -> float:
        """Return the share of candidates that say the same; an answer that cannot be read is nobody's."""
        same = [answer is not None and other is not None and _answers.same(answer, other, self.answers) for other in said]
        return sum(same) / len(same)

    def _said(self, row: Row, text: str) -> str | None:
        options: dict[str, Any] = _answers.options_in(_likelihood.prompt_of(row) or "") if self.answers == "choice" else {}
        return _answers.said_in(text, self.answers, self.marker, options)
