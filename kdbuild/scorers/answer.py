"""Whether an answer comes to the right one."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.elicitors import Rejected, _answers
from kdbuild.elicitors._answers import Form
from kdbuild.elicitors._words import words
from kdbuild.records import Row
from kdbuild.scorers import Scene, Scorer, Scoring, _likelihood, _symbolic

_NO_GOLD = Rejected("no right answer to compare with")
_UNREADABLE = Rejected("the right answer cannot be read")


class Answer(Scorer):
    r"""1 where the final answer of a text is the row's right one (`gold`), else 0, also where no final answer can be read.

    The final answer stands after `marker`, else in the last `\boxed{}`; else it is the whole text or, of numbers, the last one.
    """

    kind: Literal["answer"] = "answer"
    source: ClassVar[str | None] = (
        "Zelikman et al. 2022, STaR (2203.14465), section 3.1: 1[ans(y) = y*]; Rajpurkar et al. 2016 (1606.05250), section 6.1: F1 of words"
    )
    block: ClassVar[str | None] = "score.answer"

    answers: Literal["text", "number", "choice", "span", "formula"] = "text"
    """How answers are read and compared: the same words (case, punctuation and articles aside); numbers within a millionth, also as
    fractions and with units; the letter of an option, by letter or text; `span`, whether the right answer's words stand together in the
    answer; `formula`, equal expressions of mathematics."""
    marker: str = Field("Answer:", min_length=1)
    """What the line of the final answer starts with."""
    of: Literal["answer", "label"] = "answer"
    """What is compared: the answer, or the row's `label` (what its program gave)."""

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what is compared."""
        return ("answer|candidates", "gold") if self.of == "answer" else ("label", "gold")

    @property
    def by_candidate(self) -> bool:  # type: ignore[override]
        """Whether there may be several answers."""
        return self.of == "answer"

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return its own value, whether an answer could be read and, of spans, the F1 of the words."""
        return ("", "read", *(["f1"] if self.answers == "span" else []))

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Compare with the row's right answer."""
        text = _likelihood.answer_of(row) if self.of == "answer" else row.label
        if text is None:
            return _likelihood.NO_ANSWER if self.of == "answer" else Rejected("no label to score")
        if not (row.gold or "").strip():
            return _NO_GOLD
        if self.answers == "span":
            return self._span(text, row.gold or "")
        return self._formula(text, row.gold or "") if self.answers == "formula" else self._compared(row, text, self.answers)
        yield  # asks nobody

    def _compared(self, row: Row, text: str, form: Form) -> dict[str, float] | Rejected:
        options = _answers.options_in(_likelihood.prompt_of(row) or "") if form == "choice" else {}
        gold = _answers.gold_of(row.gold or "", form, self.marker, options)
        if gold is None:
            return _UNREADABLE
        said = _answers.said_in(text, form, self.marker, options)
        return {"": float(said is not None and _answers.same(said, gold, form)), "read": float(said is not None)}

    def _formula(self, text: str, gold: str) -> dict[str, float] | Rejected:
        right = self._written(gold)
        if not right.strip():
            return _UNREADABLE
        said = self._written(text)
        return {"": float(_symbolic.are_equal(said, right)), "read": float(_symbolic.is_readable(said))}

    def _span(self, text: str, gold: str) -> dict[str, float] | Rejected:
        right, said = _answers.normal(self._written(gold)).split(), _answers.normal(self._written(text)).split()
        if not right:
            return _UNREADABLE
        return {"": float(f" {' '.join(right)} " in f" {' '.join(said)} "), "read": float(bool(words(text))), "f1": _f1(said, right)}

    def _written(self, text: str) -> str:
        found = _answers.written_in(text, self.marker, "text")
        return text if found is None else found


def _f1(said: list[str], right: list[str]) -> float:
    """Return the harmonic mean of precision and recall of words, counted as often as they stand there."""
    num_common = sum((Counter(said) & Counter(right)).values())
    return 2 * num_common / (len(said) + len(right))
