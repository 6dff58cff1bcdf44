"""The teacher writes a program, and running it gives the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdbuild import sandbox
from kdbuild.elicitors import Answered, Conversation, Made, Rejected, Scene, _answers
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._rows import meta_with, require_drawn, reworded, text_of, unasked, variant
from kdbuild.elicitors._running import Running, error_of, fenced, program_in, result_of
from kdbuild.records import Dropped, Message, Row
from kdbuild.sandbox import Outcome, Program


@dataclass(frozen=True)
class _Sample:
    """A program and what came of it."""

    program: str
    label: str | None
    """Its result as it was read; None where it failed."""
    error: str
    """What went wrong, for people; empty where nothing did."""
    reason: str
    key: str


class Pot(Running):
    """Ask for a Python program whose result is the answer (`answer`, `solution()` or what it prints), and run it.

    Writes `program`, `label` (the result as read) and the turn the student learns. A row of several samples makes a child a sample.
    """

    kind: Literal["pot"] = "pot"
    source: ClassVar[str | None] = (
        "Yue et al. 2023, MAmmoTH (2309.05653), section 2; Chen et al. 2022, Program of Thoughts (2211.12588); Gao et al. 2022, PAL "
        "(2211.10435): y = exec(z), z ~ p_T(z | I + x)"
    )
    block: ClassVar[str | None] = "gen.pot"
    asks_once: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = ("answer", "program", "label")

    max_new_tokens: int = Field(512, ge=1)
    """Longest program, in the teacher's tokens."""
    num_samples: int = Field(1, ge=1, le=256)
    """Programs drawn for each question; more than one needs a temperature above 0."""
    answers: Literal["number", "text"] = "number"
    """How the result is read and compared: as a number or as a text."""
    check: Literal["none", "gold"] = "none"
    """`gold` rejects programs whose result is not the row's right answer; numbers are equal within a millionth."""
    on_error: Literal["reject", "keep"] = "reject"
    """What becomes of a program that fails: rejected, or kept with the error in `feedback` and why in `meta["error"]`, for `revise`."""
    student_learns: Literal["program", "answer", "program-and-answer"] = "program"
    """What the turn holds that the student learns."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        require_drawn("num_samples", self.num_samples, self.temperature)
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `prompt`, and `gold` where results are compared with it."""
        return ("prompt", "gold") if self.check == "gold" else ("prompt",)

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=self.num_samples, rows=self.num_samples)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for every sample at once, and run the programs together."""
        problem = unasked(row)
        if problem is not None:
            return problem
        gold = _answers.gold_of(row.gold, self.answers, "Answer:") if row.gold and self.check == "gold" else None
        if gold is None and self.check == "gold":
            return Rejected("no right answer to compare with", text_of(row.prompt))
        question = reworded(row.prompt, self.render(scene, row.id, values_of(row)).strip())
        answered = yield [self.ask(scene, row.id, question, sample=i) for i in range(self.num_samples)]
        read = self._samples(answered, gold)
        kept = [one for one in read if isinstance(one, _Sample)]
        rejected = [one for one in read if isinstance(one, Rejected)]
        if self.num_samples == 1:
            return [replace(row, **self._fields(row, kept[0]))] if kept else rejected[0]
        made = {child.id: child for child in (variant(scene, row, **self._fields(row, sample)) for sample in kept)}
        return Made(list(made.values()), [Dropped(row.id, self.kind, one.reason, text=one.text) for one in rejected])

    def _samples(self, answered: Sequence[Answered], gold: str | None) -> list[_Sample | Rejected]:
        written = [self._program(one) for one in answered]
        outcomes = iter(sandbox.run([Program(text) for text in written if isinstance(text, str)], self.limits))
        return [
            text if isinstance(text, Rejected) else self._read(text, next(outcomes), one.key, gold)
            for text, one in zip(written, answered, strict=True)
        ]

    def _program(self, answered: Answered) -> str | Rejected:
        text = answered.answer.text
        if not text.strip():
            return Rejected("empty answer")
        found = program_in(text)
        # Behind a closed fence nothing more is needed.
        if not answered.answer.ended and "```" not in text.partition("```")[2]:
            return Rejected("cut at the token limit", text)
        return found or Rejected("no program in the answer", text)

    def _read(self, program: str, outcome: Outcome, key: str, gold: str | None) -> _Sample | Rejected:
        result = result_of(outcome)
        label = _answers.value_of(result, self.answers) if result else None
        reason = f"the program {outcome.reason}" if outcome.reason else ""
        if not reason and label is None:
            reason = "the program has no result" if result is None else "no number in the program's result"
        if reason:
            error = error_of(outcome) if outcome.reason else f"T{reason[1:]}."
            failed = _Sample(program, None, error, reason, key)
            return failed if self.on_error == "keep" else Rejected(reason, f"{program}\n\n{error}")
        if gold is not None and not _answers.same(str(label), gold, self.answers):
            return Rejected("not the right answer", f"{program}\n\n{label}")
        return _Sample(program, label, "", "", key)

    def _fields(self, row: Row, sample: _Sample) -> dict[str, Any]:
        """Return the fields of a row that a sample fills."""
        written = fenced(sample.program) if "program" in self.student_learns else None
        result = sample.label if "answer" in self.student_learns else None
        turn = Message("assistant", "\n\n".join(part for part in (written, result) if part), train=True)
        return {
            "messages": (*row.prompt, turn),
            "program": sample.program,
            "label": sample.label,
            "feedback": sample.error or None,
            "meta": meta_with(row, {"error": sample.reason}) if sample.reason else row.meta,
            "keys": (*row.keys, sample.key),
        }
