"""The teacher answers with the reasons that lead to its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdbuild.elicitors import Answered, Conversation, Made, Rejected, Scene, _answers
from kdbuild.elicitors._answers import Form
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._rows import dropped, meta_with, require_drawn, reworded, text_of, unasked, variant
from kdbuild.records import Message, Row
from kdbuild.teachers import Ask

_WANTED: dict[Form, str] = {"text": "the answer", "number": "the number", "choice": "the letter of the right option"}


@dataclass(frozen=True)
class _Sample:
    """A rationale and the answer it comes to."""

    rationale: str
    written: str
    label: str
    key: str
    hinted: bool


class Cot(Asking):
    """Ask for a rationale and then the answer, on a line of its own that starts with `marker`.

    Writes `rationale`, `label` (the answer as read) and the turn the student learns. A row of several samples makes a child a sample.
    Its template (named as `style`) may use `marker`, `wanted` (what stands after the marker) and `hint` (the right answer, or empty).
    """

    kind: Literal["cot"] = "cot"
    source: ClassVar[str | None] = (
        "Hsieh et al. 2023 (2305.02301), section 3.1; Zelikman et al. 2022, STaR (2203.14465), algorithm 1: rationalisation; "
        "Huang et al. 2022, LMSI (2210.11610), section 3: the majority's rationales"
    )
    block: ClassVar[str | None] = "gen.cot"
    writes: ClassVar[tuple[str, ...]] = ("answer", "rationale", "label")

    max_new_tokens: int = Field(512, ge=1)
    """Longest rationale and answer, in the teacher's tokens."""
    num_samples: int = Field(1, ge=1, le=256)
    """Answers drawn for each question; more than one needs a temperature above 0."""
    style: Literal["explain", "cot", "syllogism"] = "cot"
    """What is asked for: an explanation of the answer, thinking step by step, or rule, case and conclusion."""
    answers: Form = "text"
    """How the final answer is read: as text, as a number or as the letter of an option."""
    marker: str = Field("Answer:", min_length=1)
    """What the line of the final answer starts with."""
    hint: Literal["none", "gold", "on-failure"] = "none"
    """Whether the teacher is shown the right answer: never, always, or when none of its own samples was right (STaR). The student's
    prompt never holds it."""
    check: Literal["none", "gold"] = "none"
    """`gold` rejects samples whose answer is not the row's right one; with `hint: on-failure` they always are."""
    pick: Literal["all", "first", "majority"] = "all"
    """Which samples are kept, of those that pass the check: all, the first, or those with the answer that most samples have."""
    student_learns: Literal["rationale-and-answer", "answer"] = "rationale-and-answer"
    """What the turn holds that the student learns."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        require_drawn("num_samples", self.num_samples, self.temperature)
        return self

    @property
    def prompts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the one template of its style."""
        return (self.style,)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `prompt`, and `gold` where it is shown or compared with."""
        return ("prompt", "gold") if self.hint != "none" or self._checks else ("prompt",)

    @property
    def asks_once(self) -> bool:  # type: ignore[override]
        """Whether no question depends on an answer."""
        return self.hint != "on-failure"

    @property
    def _checks(self) -> bool:
        return self.check == "gold" or self.hint == "on-failure"

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=self.num_samples * (2 if self.hint == "on-failure" else 1), rows=self.num_samples)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for every sample at once; with `hint: on-failure` once more where none was right."""
        problem = unasked(row)
        if problem is not None:
            return problem
        options = _answers.options_in(row.prompt[-1].content) if self.answers == "choice" else {}
        gold = _answers.gold_of(row.gold, self.answers, self.marker, options) if row.gold else None
        if gold is None and "gold" in self.reads:
            return Rejected("no right answer to show or compare with", text_of(row.prompt))
        kept, rejected = yield from self._round(row, scene, gold, options, hinted=self.hint == "gold")
        if self.hint == "on-failure" and not kept:
            kept, more = yield from self._round(row, scene, gold, options, hinted=True)
            rejected += more
        if self.num_samples == 1:
            return [self._written(row, kept[0])] if kept else rejected[-1]
        made = [self._child(row, scene, sample) for sample in kept]
        return Made(made, dropped(self.kind, row, rejected))

    def _round(
        self, row: Row, scene: Scene, gold: str | None, options: dict[str, str], *, hinted: bool
    ) -> Generator[Sequence[Ask], Sequence[Answered], tuple[list[_Sample], list[Rejected]]]:
        """Ask for the samples; return those kept, and why the others are not."""
        values = {**values_of(row), "marker": self.marker, "wanted": _WANTED[self.answers], "hint": gold if hinted else ""}
        question = reworded(row.prompt, self.render(scene, row.id, values, self.style).strip())
        answered = yield [self.ask(scene, row.id, question, sample=i) for i in range(self.num_samples)]
        read = [self._read(one, options, hinted=hinted) for one in answered]
        samples = [one for one in read if isinstance(one, _Sample)]
        rejected = [one for one in read if isinstance(one, Rejected)]
        if self.pick == "majority":
            samples = self._pass(samples, rejected, self._majority(samples), "not the answer of most samples")
        if self._checks and gold is not None:
            right = [_answers.same(sample.label, gold, self.answers) for sample in samples]
            samples = self._pass(samples, rejected, right, "not the right answer")
        if self.pick == "first":
            samples = self._pass(samples, rejected, [i == 0 for i, _ in enumerate(samples)], "another sample was taken")
        return samples, rejected

    def _read(self, answered: Answered, options: dict[str, str], *, hinted: bool) -> _Sample | Rejected:
        answer = answered.answer
        if not answer.text.strip():
            return Rejected("empty answer")
        final = _answers.split(answer.text, self.marker, self.answers)
        if not answer.ended and (final is None or not final.whole):
            return Rejected("cut at the token limit", answer.text)
        if final is None:
            return Rejected("no line with the answer", answer.text)
        label = _answers.value_of(final.written, self.answers, options)
        if label is None:
            return Rejected(f"no {self.answers} in the line of the answer", answer.text)
        if not final.rationale:
            return Rejected("no rationale before the answer", answer.text)
        return _Sample(final.rationale, final.written, label, answered.key, hinted)

    def _pass(self, samples: list[_Sample], rejected: list[Rejected], passes: Sequence[bool], reason: str) -> list[_Sample]:
        rejected += [Rejected(reason, self._text(one)) for one, good in zip(samples, passes, strict=True) if not good]
        return [one for one, good in zip(samples, passes, strict=True) if good]

    def _majority(self, samples: Sequence[_Sample]) -> list[bool]:
        """Return which samples have the commonest answer; of answers equally common, the one that came first."""
        said = [_answers.normal(one.label) if self.answers == "text" else one.label for one in samples]
        commonest = Counter(said).most_common(1)
        return [one == commonest[0][0] for one in said]

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def _text(self, sample: _Sample) -> str:
        return f"{sample.rationale}\n\n{self.marker} {sample.written}"

    def _learned(self, row: Row, sample: _Sample) -> tuple[Message, ...]:
        text = self._text(sample) if self.student_learns == "rationale-and-answer" else sample.label
        return (*row.prompt, Message("assistant", text, train=True))

    def _written(self, row: Row, sample: _Sample) -> Row:
        meta = meta_with(row, {"hinted": "yes"}) if sample.hinted else row.meta
        made = replace(row, messages=self._learned(row, sample), rationale=sample.rationale, label=sample.label, meta=meta)
        return replace(made, keys=(*row.keys, sample.key))

    def _child(self, row: Row, scene: Scene, sample: _Sample) -> Row:
        made = self._written(row, sample)
        return variant(scene, row, messages=made.messages, rationale=made.rationale, label=made.label, meta=made.meta, keys=made.keys)
