"""The teacher says what is wrong with an answer, and writes a better one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import sandbox
from kdbuild.elicitors import Answered, Conversation, Rejected, Scene, _answers, _bank
from kdbuild.elicitors._answers import Form
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._extent import Extent, plus
from kdbuild.elicitors._replies import unwrapped
from kdbuild.elicitors._rows import text_of
from kdbuild.elicitors._running import Running, error_of, fenced, program_in, result_of
from kdbuild.records import Message, Row
from kdbuild.sandbox import Program
from kdbuild.teachers import Ask

_PROMPTS = {
    "principles": ("critique", "revise"),
    "reflection": ("reflect", "revise"),
    "gold": ("compare", "revise"),
    "execution": ("debug",),
}
_BANK = "principles.yaml"
_Rounds = Generator[Sequence[Ask], Sequence[Answered], Rejected | None]


@dataclass
class _Draft:
    """An answer on its way through the rounds."""

    row: Row
    turn: int
    """Which turn of the row it is."""
    text: str
    ended: bool
    program: str | None = None
    feedback: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def values(self, **more: str) -> dict[str, Any]:
        """Return what a template may use."""
        before = [m.content for m in self.row.messages[: self.turn] if m.role == "user"]
        return {**values_of(self.row), "prompt": before[-1] if before else "", "answer": self.text, "program": self.program or "", **more}


class Revise(Running):
    """Criticise each row's answer and write it anew, in rounds; the last one is the turn the student learns.

    Writes `feedback` (what was said of it, round by round) and the new answer; the first one stays, as `first` says. A row whose answer
    needs nothing goes on as it is.
    """

    kind: Literal["revise"] = "revise"
    source: ClassVar[str | None] = (
        "Bai et al. 2022, Constitutional AI (2212.08073), section 3.1: principles; Chen et al. 2023, Self-Debug (2304.05128) and Chen et "
        "al. 2023, PERsD (2310.18628): execution; Ye et al. 2023, SelFee: reflection; f ~ p_T(f | x, y, c), y' ~ p_T(y' | x, y, f)"
    )
    block: ClassVar[str | None] = "gen.revise"

    max_new_tokens: int = Field(512, ge=1)
    """Longest revised answer, and longest critique, in the teacher's tokens."""
    against: Literal["principles", "execution", "reflection", "gold"] = "principles"
    """What an answer is held against: a principle; running its program; the teacher's own judgement; the row's right answer."""
    max_rounds: int = Field(1, ge=1, le=16)
    """Critiques and revisions, at most; a round that finds nothing to change is the last."""
    principles: list[str] | str | None = None
    """Texts, or a file of the project (YAML, or one a line), of which the digest of row and round draws one; absent: six shipped ones."""
    done: str = Field("Nothing to improve.", min_length=1)
    """What a critique of `against: reflection` says where there is nothing to change."""
    answers: Form = "text"
    """How an answer is read, to compare it with the right one (after `marker`, where it has one)."""
    marker: str = Field("Answer:", min_length=1)
    """What the line of the final answer starts with."""
    first: Literal["candidates", "rejected"] = "candidates"
    """Where the answer before goes: among `candidates` (source `before`), or to `rejected` with the new one as `chosen`."""
    unsolved: Literal["reject", "keep"] = "reject"
    """What becomes of a row whose last program still fails, or whose last answer is still not the right one."""

    @model_validator(mode="after")
    def _principles_are_used(self) -> Self:
        if self.principles is not None and (self.against != "principles" or not self.principles):
            raise PydanticCustomError("principles", "`principles` are texts, or a file, for `against: principles`")
        return self

    @property
    def prompts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the templates that what it is held against needs."""
        return _PROMPTS[self.against]

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `answer`, and what it is held against."""
        return {"execution": ("answer", "program"), "gold": ("answer", "gold")}.get(self.against, ("answer",))

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the answer, what was said of the one before, and where that one goes."""
        before = ("candidates",) if self.first == "candidates" else ("chosen", "rejected")
        return ("answer", "feedback", *before)

    def files(self) -> tuple[str, ...]:
        """Return the project's templates and its file of principles."""
        return (*super().files(), *([self.principles] if isinstance(self.principles, str) else []))

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged templates, and the packaged principles where those are used."""
        shipped = self.against == "principles" and self.principles is None
        return (*super().templates(), *([self._shipped()] if shipped else []))

    def _shipped(self) -> Path:
        return self._packaged(self.prompts[0]).with_name(_BANK)

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=self.max_rounds * len(self.prompts), candidates=plus(given.candidates, 1))

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Go through the rounds."""
        turns = [i for i, message in enumerate(row.messages) if message.train]
        if not turns or not row.messages[turns[-1]].content.strip():
            return Rejected("no answer to revise", text_of(row.prompt))
        if self.against == "gold" and not row.gold:
            return Rejected("no right answer to compare with", text_of(row.prompt))
        if self.against == "execution" and not row.program:
            return Rejected("no program to run", text_of(row.prompt))
        last = row.messages[turns[-1]]
        draft = _Draft(row, turns[-1], last.content, last.ended, row.program)
        problem = yield from (self._debug(draft, scene) if self.against == "execution" else self._rewrite(draft, scene))
        if problem is not None:
            return problem
        return [self._row(draft) if draft.keys else row]

    # --- answers -------------------------------------------------------------------------------------------------------------

    def _rewrite(self, draft: _Draft, scene: Scene) -> _Rounds:
        for n in range(self.max_rounds):
            if self._is_right(draft):
                return None
            (answered,) = yield [self.ask(scene, draft.row.id, self._critique(draft, scene, n))]
            critique = answered.answer.text.strip()
            if not critique:
                return Rejected("empty critique", draft.text)
            draft.keys.append(answered.key)
            draft.feedback.append(critique)
            if self.against == "reflection" and _begins_with(critique, self.done):
                return None
            question = self.render(scene, draft.row.id, draft.values(feedback=critique), "revise").strip()
            (answered,) = yield [self.ask(scene, draft.row.id, question)]
            text = answered.answer.text.strip()
            # An answer read by its marker must keep it; else what is said around the text goes.
            draft.text, draft.ended = text if self.against == "gold" else unwrapped(text), answered.answer.ended
            draft.keys.append(answered.key)
            if not draft.text:
                return Rejected("empty answer", critique)
        wrong = self.against == "gold" and self.unsolved == "reject" and not self._is_right(draft)
        return Rejected("still not the right answer", draft.text) if wrong else None

    def _critique(self, draft: _Draft, scene: Scene, n: int) -> str:
        more = {"done": self.done}
        if self.against == "principles":
            bank = self._principles(scene)
            (name,) = _bank.drawn(bank, 1, draft.row.id, f"principle {n + 1}")
            more["principle"] = bank[name]
        return self.render(scene, draft.row.id, draft.values(**more), self.prompts[0]).strip()

    def _principles(self, scene: Scene) -> dict[str, str]:
        if isinstance(self.principles, str):
            return _bank.of_project(scene.root, self.principles)
        return _bank.shipped(self._shipped()) if self.principles is None else _bank.of_list(self.principles)

    def _is_right(self, draft: _Draft) -> bool:
        """Return whether the answer is known to be the right one."""
        if self.against != "gold":
            return False
        options = _answers.options_in(draft.values()["prompt"]) if self.answers == "choice" else {}
        final = _answers.split(draft.text, self.marker, self.answers)
        said = _answers.value_of(draft.text if final is None else final.written, self.answers, options)
        gold = _answers.gold_of(draft.row.gold or "", self.answers, self.marker, options)
        return said is not None and gold is not None and _answers.same(said, gold, self.answers)

    # --- programs --------------------------------------------------------------------------------------------------------------

    def _debug(self, draft: _Draft, scene: Scene) -> _Rounds:
        for _ in range(self.max_rounds):
            problem = self._run(draft)
            if problem is None:
                return None
            draft.feedback.append(problem[1])
            question = self.render(scene, draft.row.id, draft.values(feedback=problem[1]), "debug").strip()
            (answered,) = yield [self.ask(scene, draft.row.id, question)]
            draft.keys.append(answered.key)
            program = program_in(answered.answer.text)
            if program is None:
                return Rejected("no program in the answer", answered.answer.text)
            draft.program, draft.text, draft.ended = program, fenced(program), True
        problem = self._run(draft)
        if problem is None or self.unsolved == "keep":
            draft.feedback += [problem[1]] if problem else []
            return None
        return Rejected(f"still {problem[0]}", f"{draft.program}\n\n{problem[1]}")

    def _run(self, draft: _Draft) -> tuple[str, str] | None:
        """Return why the program does not do, in constant words and as the teacher is told it; None where it does."""
        (outcome,) = sandbox.run([Program(draft.program or "")], self.limits)
        if outcome.reason is not None:
            return f"the program {outcome.reason}", error_of(outcome)
        result, gold = result_of(outcome), draft.row.gold
        if result is None:
            return "the program has no result", "It gives no result."
        if gold is None:
            return None
        form: Form = "number" if _answers.number_in(gold) is not None else "text"
        said, right = _answers.value_of(result, form), _answers.gold_of(gold, form, self.marker)
        if said is not None and right is not None and _answers.same(said, right, form):
            return None
        return "the program gives another result", f"It gives {result}, which is not the right result."

    # --- the row -----------------------------------------------------------------------------------------------------------------

    def _row(self, draft: _Draft) -> Row:
        row, before = draft.row, draft.row.messages[draft.turn]
        turn = Message("assistant", draft.text, train=True, ended=draft.ended)
        made = replace(
            row,
            messages=(*row.messages[: draft.turn], turn, *row.messages[draft.turn + 1 :]),
            program=draft.program,
            feedback="\n\n".join(draft.feedback),
            keys=(*row.keys, *draft.keys),
        )
        if draft.text == before.content:
            return made
        if self.first == "rejected":
            return replace(made, chosen=draft.text, rejected=before.content)
        first = {"text": before.content, "source": "before", "ended": before.ended}
        return replace(made, candidates=(*row.candidates, first), ranking=())


def _begins_with(text: str, words: str) -> bool:
    return _answers.normal(text).startswith(_answers.normal(words))
