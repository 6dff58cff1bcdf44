"""What is run for a row, and which of its tests that passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdbuild import canonical
from kdbuild.elicitors import Rejected, _answers
from kdbuild.elicitors._running import result_of
from kdbuild.elicitors._tools import FINISH, Tool, Wanted, wanted_in
from kdbuild.records import Row
from kdbuild.sandbox import Call, Job, Outcome, Program

_NO_TESTS = Rejected("no tests to run")
_NO_CALLS = Rejected("no calls to make")
_ENTRY_POINT = "entry_point"

# Appended to the program. Its names are digests of the program and the tests: no program can hold its own and pretend to have passed.
_RUN_TESTS = """


def {name}():
    flags = ""
    for text in {tests}:
        try:
            exec(compile(text, "test.py", "exec"), globals())
            flags += "1"
        except Exception:
            flags += "0"
    return "{name}:" + flags
"""
_CALL_CHECK = "\ncheck({entry_point})\n"


@dataclass(frozen=True)
class Plan:
    """Jobs, and how to read from their outcomes which tests they pass (at least one)."""

    jobs: Sequence[Job]
    passed: Callable[[Sequence[Outcome]], list[bool]]


_FAILED = Plan((), lambda outcomes: [False])
"""That of an answer without a program."""


def alone(program: str | None) -> Plan:
    """Return the plan of a program that need only run."""
    if program is None:
        return _FAILED
    return Plan((Program(program, ()),), lambda outcomes: [outcomes[0].reason is None])


def with_gold(program: str | None, gold: str | None) -> Plan | Rejected:
    """Return the plan of a program whose result is to be the right answer: equal numbers, else the same words."""
    if not (gold or "").strip():
        return Rejected("no right answer to compare with")
    form: _answers.Form = "number" if _answers.number_in(gold or "") is not None else "text"
    right = _answers.gold_of(gold or "", form, "Answer:")
    if right is None:
        return Rejected("the right answer cannot be read")

    def passed(outcomes: Sequence[Outcome]) -> list[bool]:
        result = result_of(outcomes[0]) if outcomes[0].reason is None else None
        said = _answers.value_of(result, form) if result else None
        return [said is not None and _answers.same(said, right, form)]

    return _FAILED if program is None else Plan((Program(program),), passed)


def with_tests(program: str | None, row: Row, name: str) -> Plan | Rejected:
    """Return the plan of a program that is to pass the tests which the row's meta holds under `name`."""
    tests = tests_in(row.meta, name)
    if not tests:
        return _NO_TESTS
    if program is None:
        return Plan((), lambda outcomes: [False] * len(tests))
    token = f"passed_{canonical.digest([program, tests])[:32]}"

    def passed(outcomes: Sequence[Outcome]) -> list[bool]:
        said, _, flags = (outcomes[0].value or "").partition(":")
        is_told = outcomes[0].reason is None and said == token and len(flags) == len(tests)
        return [flag == "1" for flag in flags] if is_told else [False] * len(tests)

    return Plan((Program(program + _RUN_TESTS.format(name=token, tests=repr(tests)), (token,)),), passed)


def tests_in(meta: Mapping[str, str], name: str) -> list[str]:
    """Return the tests: a JSON list of texts, or one text; with the call of `check` where that is how they are written (HumanEval)."""
    text = meta.get(name, "").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = [text]
    tests = [str(test) for test in (found if isinstance(found, list) else [text]) if str(test).strip()]
    entry_point = meta.get(_ENTRY_POINT, "").strip()
    if entry_point.isidentifier():
        return [test + _CALL_CHECK.format(entry_point=entry_point) if "def check(" in test else test for test in tests]
    return tests


def calls(steps: Sequence[Mapping[str, str]], tools: Sequence[Tool]) -> Plan | Rejected:
    """Return the plan of a trajectory's calls, each made again; one of no known tool, or without its arguments, fails."""
    made = [step for step in steps if step.get("action") and step["action"] != FINISH]
    if not made:
        return _NO_CALLS
    wanted = [_wanted(step, tools) for step in made]
    jobs = [_job(call, tools) for call in wanted if call is not None]

    def passed(outcomes: Sequence[Outcome]) -> list[bool]:
        left = iter(outcomes)
        return [call is not None and next(left).reason is None for call in wanted]

    return Plan(jobs, passed)


def _wanted(step: Mapping[str, str], tools: Sequence[Tool]) -> Wanted | None:
    try:
        arguments = json.loads(step.get("args") or "{}")
    except (ValueError, RecursionError):
        return None
    return wanted_in({"name": step["action"], "arguments": arguments}, tools)


def _job(call: Wanted, tools: Sequence[Tool]) -> Call:
    return next(tool for tool in tools if tool.name == call.name).job(call.arguments)
