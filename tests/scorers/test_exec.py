"""Programs against tests, and calls of tools, in the real sandbox."""

from __future__ import annotations

import json

import pytest

from kdbuild.records import Message, Row
from kdbuild.scorers import Scene
from kdbuild.scorers.exec import Exec

TESTS = json.dumps(["assert square(2) == 4", "assert square(3) == 9", "assert square(1) == 2"])


def block(code: str) -> str:
    return f"Here it is:\n\n```python\n{code}\n```"


def row(text: str | None, id: str = "r", tests: str | None = TESTS, **fields) -> Row:
    turns = (Message("user", "Square it."), *((Message("assistant", text, train=True),) if text is not None else ()))
    meta = {**({"tests": tests} if tests is not None else {}), **fields.pop("meta", {})}
    return Row(id, turns, meta=meta, **fields)


def values(score, scorer: Exec, given: Row) -> tuple[float, float]:
    (found,) = score(scorer, [given]).rows.values()
    return found.scores["exec"], found.scores["exec.passed"]


SQUARE = block("def square(x):\n    return x * x")


def test_the_share_of_tests_and_whether_it_is_all(score):
    assert values(score, Exec(), row(SQUARE)) == (0.0, 0.666667)
    assert values(score, Exec(), row(SQUARE, tests=json.dumps(["assert square(2) == 4"]))) == (1.0, 1.0)
    assert values(score, Exec(), row(SQUARE, tests="assert square(2) == 4\nassert square(-1) == 1")) == (1.0, 1.0)


def test_tests_as_humaneval_writes_them(score):
    check = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(5) == {}\n"
    meta = {"entry_point": "square"}
    assert values(score, Exec(), row(SQUARE, tests=check.format(25), meta=meta)) == (1.0, 1.0)
    assert values(score, Exec(), row(SQUARE, tests=check.format(26), meta=meta)) == (0.0, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "I would multiply it by itself.",
        block("def square(x) return x"),
        block("raise ValueError('no')"),
        block("import sys\nsys.exit(0)"),
        block("def square(x):\n    import sys\n    sys.exit(0)"),
        block("import socket\nsocket.create_connection(('127.0.0.1', 80))"),
        block("passed = True\nanswer = 'passed:111'\nclass AssertionError(Exception): pass"),
    ],
)
def test_programs_that_fail_are_wrong(score, text):
    assert values(score, Exec(), row(text)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("while True:\n    pass", "took longer than its time"),
        ("x = 'a' * 10**10", "used more than its memory"),
        ("print('x' * 10**6)", "printed"),
    ],
)
def test_what_is_stopped_says_nothing_unless_the_spec_says_so(score, code, reason):
    driven = score(Exec(cpu_s=1), [row(block(code))])
    assert driven.rows == {}
    assert driven.reasons["r"].startswith(f"the program {reason}")
    assert values(score, Exec(cpu_s=1, timeout="wrong"), row(block(code))) == (0.0, 0.0)


def test_what_comes_out_otherwise_each_time_says_nothing(score):
    driven = score(Exec(against="gold"), [row(block("import time\nanswer = time.time_ns()"), gold="4")])
    assert driven.reasons == {"r": "the program gives another result when it is run again"}


def test_the_result_against_the_right_answer(score):
    scorer = Exec(against="gold")
    assert values(score, scorer, row(block("print(2 + 2)"), gold="#### 4")) == (1.0, 1.0)
    assert values(score, scorer, row(block("answer = 4.0000000001"), gold="4")) == (1.0, 1.0)
    assert values(score, scorer, row(block("answer = 5"), gold="4")) == (0.0, 0.0)
    assert values(score, scorer, row(block("answer = 'Oak'"), gold="the oak")) == (1.0, 1.0)
    assert values(score, scorer, row(block("x = 4"), gold="4")) == (0.0, 0.0)
    assert score(scorer, [row(block("x = 4"))]).reasons == {"r": "no right answer to compare with"}


def test_that_it_runs(score):
    scorer = Exec(run="program", against="nothing")
    assert values(score, scorer, row("text", program="x = 1")) == (1.0, 1.0)
    assert values(score, scorer, row("text", program="x = y")) == (0.0, 0.0)
    assert score(scorer, [row("text")]).reasons == {"r": "no program to run"}


def test_rows_without_tests_are_set_apart(score):
    for tests in (None, " ", "[]"):
        assert score(Exec(), [row(SQUARE, tests=tests)]).reasons == {"r": "no tests to run"}
    assert values(score, Exec(tests="unit"), row(SQUARE, tests=None, meta={"unit": "assert square(2) == 4"})) == (1.0, 1.0)
    assert Exec(tests="unit").reads == ("answer|candidates", "meta.unit")


def test_candidates_are_run_each(score):
    given = row(None, candidates=({"text": SQUARE}, {"text": "none"}, {"text": block("while True: pass")}))
    (found,) = score(Exec(cpu_s=1), [given]).rows.values()
    assert [one.get("scores") for one in found.candidates] == [
        {"exec": 0.0, "exec.passed": 0.666667},
        {"exec": 0.0, "exec.passed": 0.0},
        None,
    ]


TOOL = {
    "name": "mean",
    "parameters": '{"type":"object","properties":{"data":{"type":"array"}},"required":["data"]}',
    "callable": "statistics:mean",
}


def step(action: str, args: str) -> dict[str, str]:
    return {"thought": "", "action": action, "args": args, "observation": ""}


def test_calls_are_made_again(score):
    scorer = Exec(run="calls")
    right, end = step("mean", '{"data":[1,2]}'), step("finish", '{"answer":"1"}')
    assert values(score, scorer, row("1", tool=TOOL, trajectory=(right, end))) == (1.0, 1.0)
    wrong = (step("mean", '{"data":[]}'), step("mean", "{}"), step("median", '{"data":[1]}'))
    assert values(score, scorer, row("1", tool=TOOL, trajectory=(*wrong, right))) == (0.0, 0.25)
    assert score(scorer, [row("1", tool=TOOL, trajectory=(end,))]).reasons == {"r": "no calls to make"}
    assert score(scorer, [row("1", trajectory=(right,))]).reasons == {"r": "the row's tool cannot be called"}


def test_tools_of_the_spec(score, tmp_path):
    (tmp_path / "calc.py").write_text('def half(x: float) -> float:\n    """Halve."""\n    return x / 2\n')
    scorer = Exec(run="calls", tools=[{"callable": "calc.py:half"}])
    assert scorer.files() == ("calc.py",)
    assert scorer.reads == ("trajectory",)
    driven = score(scorer, [row("1", trajectory=(step("half", '{"x":3}'),))], scene=Scene(tmp_path))
    assert driven.values("exec") == [1.0]


def test_many_rows_at_once_are_each_their_own(score):
    tests = json.dumps(["assert square(2) == 4"])
    rows = [row(block(f"def square(x):\n    return x * x + {i % 2}"), f"r{i}", tests) for i in range(12)]
    found = {name: scored.scores["exec"] for name, scored in score(Exec(), rows).rows.items()}
    assert found == {f"r{i}": float(i % 2 == 0) for i in range(12)}
