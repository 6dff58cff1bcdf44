"""Where the student trails."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbuild.errors import StageError
from kdbuild.records import Row
from kdbuild.selectors import Scene, Verdict
from kdbuild.selectors.hard import Hard

SCENE = Scene(Path())


def row(id: str, student: float, teacher: float, topic: str = "x") -> Row:
    return Row(id, scores={"student": student, "teacher": teacher}, meta={"topic": topic})


ROWS = [row("a", 2, 9), row("b", 8, 9), row("c", 9, 4, "y"), row("d", 5, 8, "y")]


def kept(**fields: object) -> str:
    return "".join(r.id for r, v in zip(ROWS, Hard(student="student", **fields).judge(ROWS, SCENE), strict=True) if v.reason is None)


def test_the_gap_to_the_teacher_by_hand() -> None:
    """Gaps 7, 1, -5, 3."""
    assert kept(teacher="teacher", min_gap=3) == "ad"
    assert kept(teacher="teacher", min_gap=-5) == "abcd"
    assert Hard(student="student", teacher="teacher", min_gap=3).judge(ROWS, SCENE)[2] == Verdict("the student does well here", score=-5)
    assert Hard(student="student", teacher="teacher", min_gap=3).reads == ("student", "teacher")


def test_the_error_of_the_student_alone() -> None:
    """Errors against 10: 8, 2, 1, 5."""
    assert kept(teacher=10, min_gap=5) == "ad"
    assert Hard(student="student", min_gap=0.5).reads == ("student",)


def test_losses() -> None:
    """Losses above 4 of the student: 2, 8, 9, 5."""
    assert kept(teacher=0, min_gap=5, lower_is_better=True) == "bcd"
    assert kept(teacher="teacher", min_gap=1, lower_is_better=True) == "c"


def test_by_topic() -> None:
    """Mean gaps: x 4, y -1."""
    assert kept(teacher="teacher", min_gap=4, per="topic") == "ab"
    verdict = Hard(student="student", teacher="teacher", min_gap=4, per="topic").judge(ROWS, SCENE)[3]
    assert verdict == Verdict("the student does well on this `topic`", score=-1)


def test_what_is_missing_stops_the_stage() -> None:
    with pytest.raises(StageError, match="row a has no score `other`"):
        Hard(student="other", min_gap=1).judge(ROWS, SCENE)
    with pytest.raises(StageError, match=r"row a has no `meta\.cluster`; its fields: topic"):
        Hard(student="student", min_gap=1, per="cluster").judge(ROWS, SCENE)
