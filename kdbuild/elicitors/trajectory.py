"""The teacher solves a task by calling tools, or puts calls of tools into a text."""

from __future__ import annotations

import pathlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import (
    Answered,
    Conversation,
    Fault,
    Made,
    Rejected,
    Result,
    Scene,
    _answers,
    _callables,
    _insertion,
    _tools,
    _verdict,
)
from kdbuild.elicitors._answers import Form
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._insertion import NONE, Place
from kdbuild.elicitors._rows import require_drawn, reworded, text_of, unasked, variant, with_system
from kdbuild.elicitors._running import Running
from kdbuild.elicitors._steps import Path, Step, read, schema, text
from kdbuild.elicitors._tools import FINISHING, Tool, ToolUse
from kdbuild.records import Dropped, Message, Row
from kdbuild.teachers import Ask, Signal

_PROMPTS = {"react": ("step", "tools"), "tree": ("step", "tools", "judge"), "insert": ("insert",)}
_Talk = Generator[Sequence[Ask], Sequence[Answered], Result]


class Trajectory(Running):
    """Let the teacher think and call tools until it knows the answer (`react`, `tree`), or put calls into each row's answer (`insert`).

    Tools are `tools`, else each row's own (seeds of kind `api`). They are called in the sandbox: without network, each call in a process
    of its own. A call that fails is told as `error: ...`. Writes `trajectory` and the turns the student learns: one a call, its result
    as a turn of role `tool` that is not learned, and the answer. `insert` writes the answer with `[name(arguments) -> result]` in it.
    """

    kind: Literal["trajectory"] = "trajectory"
    source: ClassVar[str | None] = (
        "Yao et al. 2022, ReAct (2210.03629); Chen et al. 2023, FireAct (2310.05915); Qin et al. 2023, ToolLLM (2307.16789), section 2.3: "
        "depth-first search; Schick et al. 2023, Toolformer (2302.04761), section 2: sampling and executing calls"
    )
    block: ClassVar[str | None] = "gen.trajectory"
    writes: ClassVar[tuple[str, ...]] = ("answer", "trajectory")

    max_new_tokens: int = Field(512, ge=1)
    """Longest step, in the teacher's tokens."""
    mode: Literal["react", "tree", "insert"] = "react"
    """One step after the other; a depth-first search over several proposals a step; or calls inside a text."""
    tools: list[ToolUse] = []
    """Functions that may be called; none: each row's own `tool`."""
    max_steps: int = Field(6, ge=1, le=64)
    """Calls before the answer; after these, nothing but the answer is asked for."""
    num_proposals: int = Field(1, ge=1, le=64)
    """Proposals for each step (`tree`), or calls for each place (`insert`); more than one needs a temperature above 0."""
    max_nodes: int = Field(24, ge=1, le=4096)
    """Proposals of a whole `tree`; without an answer by then the row is rejected."""
    verdict: _verdict.Reads = "auto"
    """How the teacher's judgement of a proposal (`tree`) is read: from how likely yes is, from text, or as it can."""
    num_places: int = Field(4, ge=1, le=256)
    """Places of a text where a call is asked for (`insert`), drawn by the digest of the row's id among the beginnings of its words."""
    rows: Literal["each", "together"] = "each"
    """`insert`: a row for each call, to be filtered by what it gains, or one row with all calls (the first for each place)."""
    answers: Form = "text"
    """How the answer is read, to compare it with the right one."""
    check: Literal["none", "gold"] = "none"
    """`gold` rejects trajectories whose answer is not the row's right one."""
    student_sees_tools: bool = True
    """Whether the student's row tells of the tools, in its system turn."""
    max_thought_chars: int = Field(200, ge=1)
    """Longest thought."""
    max_argument_chars: int = Field(80, ge=1)
    """Longest text among the arguments of a call."""
    max_answer_chars: int = Field(240, ge=1)
    """Longest answer."""
    max_observation_chars: int = Field(500, ge=1)
    """What is kept of the result of a call."""

    @model_validator(mode="after")
    def _proposals_differ(self) -> Self:
        require_drawn("num_proposals", self.num_proposals, self.temperature)
        if self.mode == "tree" and self.num_proposals < 2:
            raise PydanticCustomError(
                "tree", "`mode: tree` chooses between proposals: add `num_proposals: 2` or more, and a temperature above 0"
            )
        if self.mode == "insert" and self.check == "gold":
            raise PydanticCustomError("insert", "`mode: insert` keeps the answer of a row, so there is nothing to check; remove `check`")
        return self

    @property
    def prompts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the templates of its mode."""
        return _PROMPTS[self.mode]

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the task or the text, and what else it is given."""
        first = "answer" if self.mode == "insert" else "prompt"
        return (first, *(() if self.tools else ("tool",)), *(("gold",) if self.check == "gold" else ()))

    @property
    def asks_once(self) -> bool:  # type: ignore[override]
        """Whether no question depends on an answer."""
        return self.mode == "insert"

    @property
    def needs(self) -> frozenset[Signal]:
        """Text, and choices where the spec insists on them."""
        judged = self.mode == "tree" and self.verdict == "choices"
        return frozenset({Signal.TEXT, Signal.CHOICES} if judged else {Signal.TEXT})

    def files(self) -> tuple[str, ...]:
        """Return the project's templates and files of tools."""
        return (*super().files(), *dict.fromkeys(tool.file for tool in self.tools if tool.file is not None))

    def faults(self, root: pathlib.Path) -> Iterator[Fault]:
        """Yield what is wrong with the project's templates, and the tools that are not there."""
        yield from super().faults(root)
        for i, tool in enumerate(self.tools):
            yield from _callables.faults(root, ("tools", i, "callable"), tool.callable)

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        if self.mode == "insert":
            num_calls = self.num_places * self.num_proposals
            return given.each(asks=num_calls, rows=1 if self.rows == "together" else num_calls)
        return given.each(asks=2 * self.max_nodes if self.mode == "tree" else self.max_steps + 1)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask step by step, or for all places at once."""
        tools = _tools.of_spec(self.tools, scene.root, self.limits) if self.tools else _tools.of_row(row)
        if isinstance(tools, Rejected):
            return tools
        if self.mode == "insert":
            return (yield from self._insert(row, scene, tools))
        problem = unasked(row)
        if problem is not None:
            return problem
        if self.check == "gold" and not row.gold:
            return Rejected("no right answer to compare with", text_of(row.prompt))
        return (yield from (self._tree(row, scene, tools) if self.mode == "tree" else self._react(row, scene, tools)))

    # --- steps -----------------------------------------------------------------------------------------------------------------

    def _react(self, row: Row, scene: Scene, tools: Sequence[Tool]) -> _Talk:
        path = Path()
        keys: list[str] = []
        while not path.is_finished:
            (answered,) = yield [self._ask(row, scene, tools, path)]
            step = read(answered.answer, self._allowed(tools, path))
            if isinstance(step, Rejected):
                return Rejected(step.reason, f"{text(path)}\n\n{step.text}".strip())
            keys.append(answered.key)
            path = path.then(self._taken(step, tools))
        return self._result(row, scene, tools, path, keys)

    def _tree(self, row: Row, scene: Scene, tools: Sequence[Tool]) -> _Talk:
        """Go down the best proposal first; from a dead end, back to the next best before it."""
        waiting, num_nodes = [Path()], 0
        keys: list[str] = []
        last = Rejected("no answer within its nodes")
        while waiting:
            path = waiting.pop()
            if path.is_finished:
                return self._result(row, scene, tools, path, keys)
            count = min(self.num_proposals, self.max_nodes - num_nodes)
            if count == 0:
                return Rejected("no answer within its nodes", text(path))
            num_nodes += count
            answered = yield [self._ask(row, scene, tools, path, sample=i) for i in range(count)]
            keys += [one.key for one in answered]
            proposed = [read(one.answer, self._allowed(tools, path)) for one in answered]
            last = next((one for one in proposed if isinstance(one, Rejected)), last)
            steps = {(one.action, one.args): one for one in reversed(proposed) if isinstance(one, Step)}
            paths = [path.then(self._taken(step, tools)) for step in reversed(steps.values())]
            waiting += yield from self._worst_first(row, scene, paths, keys)
        return last

    def _worst_first(
        self, row: Row, scene: Scene, paths: list[Path], keys: list[str]
    ) -> Generator[Sequence[Ask], Sequence[Answered], list[Path]]:
        """Return paths in the order of how likely the teacher finds it that their last step helps; one that it cannot judge helps not."""
        if len(paths) < 2:
            return paths
        questions = [self.render(scene, row.id, {**values_of(row), "steps": path.shown}, "judge").strip() for path in paths]
        answered = yield [_verdict.put(self, scene, row.id, one, _verdict.YES_NO, reads=self.verdict) for one in questions]
        keys += [one.key for one in answered]
        verdicts = [_verdict.read(one.answer, _verdict.YES_NO) for one in answered]
        scores = [0.0 if isinstance(one, Rejected) else round(one[0], _verdict.NUM_DECIMALS) for one in verdicts]
        order = sorted(range(len(paths)), key=lambda i: (scores[i], -i))
        return [paths[i] for i in order]

    def _allowed(self, tools: Sequence[Tool], path: Path) -> list[Tool]:
        return [*(tools if len(path.steps) < self.max_steps else ()), FINISHING]

    def _ask(self, row: Row, scene: Scene, tools: Sequence[Tool], path: Path, sample: int = 0) -> Ask:
        allowed = self._allowed(tools, path)
        values = {**values_of(row), "tools": _tools.shown(allowed), "steps": path.shown}
        question = reworded(row.prompt, self.render(scene, row.id, values, "step").strip())
        limits = {"": self.max_argument_chars, FINISHING.name: self.max_answer_chars}
        return self.ask(scene, row.id, question, sample=sample, schema=schema(allowed, self.max_thought_chars, limits))

    def _taken(self, step: Step, tools: Sequence[Tool]) -> Step:
        """Return a step with the result of its call."""
        tool = next((one for one in tools if one.name == step.action), None)
        if tool is None:  # it ends here
            return step
        outcome = tool.call(step.arguments, self.limits)
        return replace(step, observation=_tools.observation(outcome, self.max_observation_chars))

    def _result(self, row: Row, scene: Scene, tools: Sequence[Tool], path: Path, keys: Sequence[str]) -> Result:
        answer = path.answer
        if not answer:
            return Rejected("empty answer", text(path))
        if self.check == "gold" and not self._is_right(row, answer):
            return Rejected("not the right answer", text(path))
        messages = path.conversation(row.prompt)
        if self.student_sees_tools:
            told = self.render(scene, row.id, {**values_of(row), "tools": _tools.shown(tools)}, "tools").strip()
            messages = with_system(messages, told)
        return [replace(row, messages=messages, trajectory=tuple(path.shown), keys=(*row.keys, *keys))]

    def _is_right(self, row: Row, answer: str) -> bool:
        options = _answers.options_in(row.prompt[-1].content) if self.answers == "choice" else {}
        said = _answers.value_of(answer, self.answers, options)
        gold = _answers.gold_of(row.gold or "", self.answers, "Answer:", options)
        return said is not None and gold is not None and _answers.same(said, gold, self.answers)

    # --- calls in a text ---------------------------------------------------------------------------------------------------------

    def _insert(self, row: Row, scene: Scene, tools: Sequence[Tool]) -> _Talk:
        whole = row.answer
        offsets = _insertion.offsets(whole or "", row.id, self.num_places)
        if not whole or not offsets:
            return Rejected("no text to put calls into", text_of(row.prompt))
        asked = [(offset, i) for offset in offsets for i in range(self.num_proposals)]
        answered = yield [self._ask_place(row, scene, tools, whole, offset, i) for offset, i in asked]
        found = [self._place(one, offset, tools) for (offset, _), one in zip(asked, answered, strict=True)]
        places = list({(one.offset, one.call): one for one in found if isinstance(one, Place)}.values())
        dropped = [Dropped(row.id, self.kind, one.reason, text=one.text) for one in found if isinstance(one, Rejected)]
        if not places and len(dropped) == 1:
            return Rejected(dropped[0].reason, dropped[0].text)
        if self.rows == "together":
            first = {one.offset: one for one in reversed(places)}
            return Made([replace(row, **self._inserted(row, whole, list(first.values())))] if first else [], dropped)
        return Made([variant(scene, row, **self._inserted(row, whole, [one])) for one in places], dropped)

    def _ask_place(self, row: Row, scene: Scene, tools: Sequence[Tool], whole: str, offset: int, sample: int) -> Ask:
        allowed = [*tools, NONE]
        values = {**values_of(row), "tools": _tools.shown(allowed), "before": whole[:offset], "after": whole[offset:]}
        question = self.render(scene, row.id, values, "insert").strip()
        form = schema(allowed, None, {"": self.max_argument_chars})
        return self.ask(scene, row.id, question, sample=sample, schema=form)

    def _place(self, answered: Answered, offset: int, tools: Sequence[Tool]) -> Place | Rejected:
        step = read(answered.answer, [*tools, NONE])
        if isinstance(step, Rejected):
            return step
        if step.action == NONE.name:
            return Rejected("no call wanted")
        tool = next(one for one in tools if one.name == step.action)
        outcome = tool.call(step.arguments, self.limits)
        if outcome.reason is not None:
            return Rejected(f"the tool {outcome.reason}", _insertion.call_text(step, ""))
        return Place(offset, replace(step, observation=_tools.observation(outcome, self.max_observation_chars)), answered.key)

    def _inserted(self, row: Row, whole: str, places: Sequence[Place]) -> dict[str, Any]:
        """Return the fields of a row whose last learned turn has calls in it."""
        ordered = sorted(places, key=lambda one: one.offset)
        last = max(i for i, message in enumerate(row.messages) if message.train)
        turn: Message = replace(row.messages[last], content=_insertion.inserted(whole, ordered))
        return {
            "messages": (*row.messages[:last], turn, *row.messages[last + 1 :]),
            "trajectory": tuple(one.step.shown for one in ordered),
            "keys": (*row.keys, *(one.key for one in ordered)),
        }
