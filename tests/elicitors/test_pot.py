"""Programs as answers: taken out of the reply, run, compared with the right answer."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbuild.elicitors._running import program_in
from kdbuild.elicitors.pot import Pot
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

ROW = Row("r1", (Message("user", "Tom has 3 bags of 6 apples. How many apples?"),), gold="3 * 6 = 18\n#### 18")


def fence(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\nIt multiplies."


def test_the_program_is_run_and_learned(drive):
    (row,) = drive(Pot(), [ROW], lambda ask: fence("bags = 3\nanswer = bags * 6")).rows
    assert (row.id, row.program, row.label) == ("r1", "bags = 3\nanswer = bags * 6", "18")
    assert row.answer == "```python\nbags = 3\nanswer = bags * 6\n```"
    assert row.prompt == ROW.messages
    assert row.feedback is None
    assert len(row.keys) == 1


@pytest.mark.parametrize(("form", "answer"), [("answer", "18"), ("program-and-answer", "```python\nprint(3 * 6)\n```\n\n18")])
def test_what_the_student_learns(drive, form, answer):
    (row,) = drive(Pot(student_learns=form), [ROW], lambda ask: fence("print(3 * 6)")).rows
    assert row.answer == answer


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("def solution():\n    return 36 / 2", "18"),
        ("print('first')\nprint('There are 18 apples.')", "18"),
        ("answer = None\nprint(18)", "18"),
        ("answer = '1,018'", "1018"),
        ("from fractions import Fraction\nanswer = Fraction(1, 3)", "1/3"),
        ("answer = 0.1 + 0.2", "0.30000000000000004"),
        ("answer = 18\nraise SystemExit", None),
    ],
)
def test_where_the_result_is(drive, code, label):
    driven = drive(Pot(), [ROW], lambda ask: fence(code))
    assert [row.label for row in driven.rows] == ([label] if label else [])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (" \n", "empty answer"),
        ("There are eighteen apples.", "no program in the answer"),
        (Answer("```python\nanswer = 1", False, 3, 512), "cut at the token limit"),
        (fence("answer = 1 / 0"), "the program raised ZeroDivisionError"),
        (fence("answer = = 1"), "the program is not a Python program"),
        (fence("import os\nos.system('ls')"), "the program tried to start another process"),
        (fence("import urllib.request as u\nanswer = u.urlopen('http://example.org').status"), "the program tried to reach the network"),
        (fence("import time\nanswer = time.time_ns()"), "the program gives another result when it is run again"),
        (fence("x = 3"), "the program has no result"),
        (fence("answer = 'many'"), "no number in the program's result"),
    ],
)
def test_what_fails_is_rejected_in_constant_words(drive, reply, reason):
    (rejected,) = drive(Pot(), [ROW], lambda ask: reply).rejected
    assert rejected.reason == reason


def test_the_text_of_a_rejection_holds_program_and_error(drive):
    (rejected,) = drive(Pot(), [ROW], lambda ask: fence("answer = 1 / 0")).rejected
    assert rejected.text.startswith("answer = 1 / 0\n\n")
    assert rejected.text.endswith("ZeroDivisionError: division by zero")


def test_a_failed_program_can_be_kept_for_revision(drive):
    (row,) = drive(Pot(on_error="keep"), [ROW], lambda ask: fence("x = 1\nanswer = x / 0")).rows
    assert row.program == "x = 1\nanswer = x / 0"
    assert row.label is None
    assert row.feedback == 'File "program.py", line 2, in <module>\n    answer = x / 0\nZeroDivisionError: division by zero'
    assert row.meta["error"] == "the program raised ZeroDivisionError"
    (row,) = drive(Pot(on_error="keep"), [ROW], lambda ask: fence("x = 1")).rows
    assert row.feedback == "The program has no result."


@pytest.mark.parametrize(
    ("code", "is_right"),
    [("answer = 18", True), ("answer = 17.9999999999", True), ("answer = 18.1", False), ("answer = '18 apples'", True)],
)
def test_results_are_compared_as_numbers(drive, code, is_right):
    driven = drive(Pot(check="gold"), [ROW], lambda ask: fence(code))
    assert len(driven.rows) == is_right
    assert [one.reason for one in driven.rejected] == ([] if is_right else ["not the right answer"])


def test_results_can_be_texts(drive):
    row = Row("r", (Message("user", "Reverse abc."),), gold="CBA")
    assert drive(Pot(answers="text", check="gold"), [row], lambda ask: fence("answer = 'abc'[::-1]")).rows[0].label == "cba"


def test_a_row_without_the_right_answer_is_not_asked_about(drive):
    driven = drive(Pot(check="gold"), [Row("r", ROW.messages)], lambda ask: fence("answer = 1"))
    assert (driven.asks, driven.rejected[0].reason) == ([], "no right answer to compare with")


def test_each_sample_makes_a_child(drive):
    replies = (fence("answer = 18"), fence("answer = 9"), "no", fence("answer = 6 + 12"), fence("answer = 18"))
    driven = drive(Pot(num_samples=5, temperature=0.8, check="gold"), [ROW], lambda ask: replies[ask.sample])
    assert [ask.sample for ask in driven.asks] == [0, 1, 2, 3, 4]
    assert [row.program for row in driven.rows] == ["answer = 18", "answer = 6 + 12"]
    assert all(row.parents == ("r1",) and len(row.keys) == 1 for row in driven.rows)
    assert [one.reason for one in driven.dropped] == ["not the right answer", "no program in the answer"]
    with pytest.raises(ValidationError, match="temperature above 0"):
        Pot(num_samples=2)


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("```py\nx = 1\n```\n```\noutput\n```", "x = 1"),
        ("Output:\n```\n1\n```\n```Python\nx = 1\n```", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("Text\n```python\nif x:\n    y = '`'\n", "if x:\n    y = '`'"),
        ("x = 1\nprint(x)", "x = 1\nprint(x)"),
        ("# A program\nprint(1)", "# A program\nprint(1)"),
        ("import math\nprint(math.pi)", "import math\nprint(math.pi)"),
        ("print(3 * 6)", "print(3 * 6)"),
        ("a, b = 1, 2", "a, b = 1, 2"),
        ("42", None),
        ("The answer is 42.", None),
        ("For 3 bags we multiply.", None),
        ("```python\n```", None),
        ("", None),
    ],
)
def test_programs_are_found(reply, program):
    assert program_in(reply) == program
