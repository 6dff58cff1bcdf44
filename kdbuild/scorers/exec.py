"""Whether a row's program passes its tests, or its calls of tools succeed, in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild import sandbox
from kdbuild.elicitors import Rejected, Scene, _tools
from kdbuild.elicitors._running import Limited, program_in
from kdbuild.elicitors._tools import ToolUse
from kdbuild.records import Row
from kdbuild.sandbox import Outcome
from kdbuild.scorers import Scores, _likelihood, _runs
from kdbuild.scorers._pooled import Pooled

_STOPPED = (sandbox.TIME, sandbox.MEMORY, sandbox.DISK, sandbox.OUTPUT, sandbox.CRASHED, sandbox.ENDED, sandbox.UNSTEADY)
"""Why a run says nothing of the program: it was stopped at a limit, or it does not come out the same twice."""


class Exec(Limited, Pooled):
    """1 where a program passes every test (or gives the right result, or runs without an error), else 0; `passed` is the share passed.

    With `run: calls` it is the row's calls of tools that are made again: 1 where all succeed, `passed` the share. A run that is stopped at
    a limit, or that comes out otherwise when it is repeated, says nothing: the row is set apart.
    """

    kind: Literal["exec"] = "exec"
    source: ClassVar[str | None] = (
        "Chen et al. 2021 (2107.03374), section 2.1: functional correctness, 1[tests(z) pass]; Qin et al. 2023, ToolLLM (2307.16789): calls"
    )
    block: ClassVar[str | None] = "score.exec"
    parts: ClassVar[tuple[str, ...]] = ("", "passed")

    run: Literal["answer", "program", "calls"] = "answer"
    """What is run: the program in the answer (its block fenced as Python), the row's `program`, or the calls of its `trajectory`."""
    against: Literal["tests", "gold", "nothing"] = "tests"
    """What a program is held against: the row's tests, its right answer (`gold`: what the program gives or prints last), or nothing but
    that it runs."""
    tests: str = Field("tests", min_length=1)
    """Field of the row's `meta` that holds the tests: a Python text, or a JSON list of texts each of which is one. A test fails by
    raising an error (`assert f(2) == 4`). One that defines `check(candidate)` has it called with the function that `meta.entry_point`
    names."""
    tools: list[ToolUse] = []
    """With `run: calls`: the tools; absent: the row's own."""
    timeout: Literal["apart", "wrong"] = "apart"
    """What becomes of a row whose run is stopped at a limit (time, memory, output), crashes, or comes out otherwise when repeated: set
    apart with the reason, or taken as failed."""

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what is run, and what it is held against."""
        if self.run == "calls":
            return ("trajectory", *([] if self.tools else ["tool"]))
        held = {"tests": [f"meta.{self.tests}"], "gold": ["gold"], "nothing": []}[self.against]
        return ("answer|candidates" if self.run == "answer" else "program", *held)

    @property
    def by_candidate(self) -> bool:  # type: ignore[override]
        """Whether there may be several programs."""
        return self.run == "answer"

    def files(self) -> tuple[str, ...]:
        """Return the project's files of tools."""
        return tuple(use.file for use in self.tools if use.file is not None)

    def values(self, rows: Sequence[Row], scene: Scene) -> list[Scores | Rejected]:
        """Run what all rows hold, several at once, and return what came of each."""
        plans = [self._plan(row, scene) for row in rows]
        outcomes = iter(sandbox.run([job for plan in plans if not isinstance(plan, Rejected) for job in plan.jobs], self.limits))
        return [plan if isinstance(plan, Rejected) else self._read(plan, [next(outcomes) for _ in plan.jobs]) for plan in plans]

    def _read(self, plan: _runs.Plan, outcomes: Sequence[Outcome]) -> Scores | Rejected:
        stopped = next((outcome for outcome in outcomes if outcome.reason in _STOPPED), None)
        if stopped is not None and self.timeout == "apart":
            return Rejected(f"the {'call' if self.run == 'calls' else 'program'} {stopped.reason}", stopped.stderr)
        passed = plan.passed(outcomes)
        return {"": float(all(passed)), "passed": sum(passed) / len(passed)}

    def _plan(self, row: Row, scene: Scene) -> _runs.Plan | Rejected:
        """Return what is to be run, or why nothing can be."""
        if self.run == "calls":
            tools = _tools.of_spec(self.tools, scene.root, self.limits) if self.tools else _tools.of_row(row)
            return tools if isinstance(tools, Rejected) else _runs.calls(row.trajectory, tools)
        text = row.program if self.run == "program" else _likelihood.answer_of(row)
        if not (text or "").strip():
            return _likelihood.NO_ANSWER if self.run == "answer" else Rejected("no program to run")
        program = program_in(text or "") if self.run == "answer" else text
        if self.against == "gold":
            return _runs.with_gold(program, row.gold)
        return _runs.with_tests(program, row, self.tests) if self.against == "tests" else _runs.alone(program)
