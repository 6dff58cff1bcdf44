"""Equality of normalised text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdbuild.errors import StageError
from kdbuild.records import Message, Row
from kdbuild.selectors import Scene, Verdict
from kdbuild.selectors._text import normal_form
from kdbuild.selectors.exact_dedup import ExactDedup


def row(id: str, *turns: str) -> Row:
    """Turns: `u: ...` for the user's, `s: ...` for the system's, `a: ...` for what is learned."""
    roles = {"u": "user", "s": "system", "a": "assistant"}
    return Row(id, tuple(Message(roles[t[0]], t[3:], train=t[0] == "a") for t in turns))


NO_EMBEDDER = Scene(Path())


def judged(of: str, *rows: Row) -> list[str | None]:
    return [v.because_of for v in ExactDedup(of=of).judge(rows, NO_EMBEDDER)]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("What is a  tree?\n", "what is\ta tree?", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("STRASSE", "stra\u00dfe", True),
        ("x\u00b2", "x2", False),
        ("a tree", "atree", False),
        ("a tree.", "a tree", False),
        ("line\u00a0one", "line one", True),
    ],
)
def test_normal_form(one: str, other: str, equal: bool) -> None:
    assert (normal_form(one) == normal_form(other)) is equal
    assert normal_form(normal_form(one)) == normal_form(one)


def test_what_is_compared() -> None:
    rows = [row("1", "u: Hi", "a: Hello"), row("2", "u: hi ", "a: Bye"), row("3", "u: Hey", "a: hello"), row("4", "u: HI", "a: HELLO")]
    assert judged("prompt", *rows) == [None, "1", None, "1"]
    assert judged("answer", *rows) == [None, None, "1", "1"]
    assert judged("both", *rows) == [None, None, None, "1"]


def test_turns_and_roles_keep_apart() -> None:
    rows = [
        row("1", "s: a b", "a: x"),
        row("2", "u: a b", "a: x"),
        row("3", "u: a", "u: b", "a: x"),
        row("4", "u: a", "a: b", "u: c", "a: x"),
    ]
    assert judged("prompt", *rows) == [None, None, None, None]
    assert judged("both", *rows) == [None, None, None, None]
    assert judged("answer", *rows) == [None, "1", "1", None]


def test_reason() -> None:
    rows = [row("1", "u: q", "a: x"), row("2", "u: q", "a: x")]
    assert ExactDedup().judge(rows, NO_EMBEDDER)[1] == Verdict("same prompt and answer as a kept row", because_of="1")
    assert ExactDedup(of="answer").judge(rows, NO_EMBEDDER)[1].reason == "same answer as a kept row"


def test_the_better_row_stays_and_a_pools_row_before_all() -> None:
    rows = [row("1", "u: q", "a: x"), row("2", "u: Q", "a: x"), row("3", "u: other", "a: x")]
    rows = [replace(r, scores={"rating": score}) for r, score in zip(rows, (1.0, 5.0, 3.0), strict=True)]
    assert [v.because_of for v in ExactDedup(by_score="rating").judge(rows, NO_EMBEDDER)] == ["2", None, None]
    scene = Scene(Path(), pools={"before": [row("9", "u: q", "a: X"), row("0", "u: Q", "a: x")]})
    step = ExactDedup(by_score="rating", against=["before"])
    assert [v.because_of for v in step.judge(rows, scene)] == ["9", "9", None]
    assert (step.reads, step.pools) == (("rating",), ("before",))


def test_a_row_without_the_score_stops_the_stage() -> None:
    with pytest.raises(StageError, match="row 1 has no score `rating`"):
        ExactDedup(by_score="rating").judge([row("1", "u: q", "a: x")], NO_EMBEDDER)
