"""As many rows as are wanted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kdbuild.errors import StageError
from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene
from kdbuild.selectors.target_rows import TargetRows

SCENE = Scene(Path())
ROWS = [Row(f"r{i}", scores={"rating": float(i % 7)}, meta={"topic": "x" if i < 2 else "yz"[i % 2]}) for i in range(10)]


def kept(given: list[Row] = ROWS, **fields: object) -> list[Row]:
    return [r for r, v in zip(given, TargetRows(**fields).judge(given, SCENE), strict=True) if v.reason is None]


def test_the_best_stay() -> None:
    """Ratings 0 1 2 3 4 5 6 0 1 2; of the equal ones the first by id."""
    assert [r.id for r in kept(num_rows=6, by_score="rating")] == ["r2", "r3", "r4", "r5", "r6", "r9"]
    assert [r.id for r in kept(num_rows=5, by_score="rating")] == ["r2", "r3", "r4", "r5", "r6"]


def test_drawn_by_id_fewer_are_a_part_of_more() -> None:
    few, more = kept(num_rows=3), kept(num_rows=7)
    assert (len(few), len(more)) == (3, 7)
    assert {r.id for r in few} < {r.id for r in more}
    without = [r for r in ROWS if r.id != few[0].id]
    assert {r.id for r in few[1:]} < {r.id for r in kept(without, num_rows=3)}


@pytest.mark.parametrize(("num_rows", "counts"), [(3, (1, 1, 1)), (6, (2, 2, 2)), (8, (2, 3, 3))])
def test_balanced_by_hand(num_rows: int, counts: tuple[int, ...]) -> None:
    """x has 2 rows, y and z have 4 each."""
    assert Counter(r.meta["topic"] for r in kept(num_rows=num_rows, balance="topic")) == dict(zip("xyz", counts, strict=True))


def test_balanced_keeps_the_best_of_each() -> None:
    """y: r2 (2), r4 (4), r6 (6), r8 (1); z: r3 (3), r5 (5), r7 (0), r9 (2)."""
    assert [r.id for r in kept(num_rows=3, balance="topic", by_score="rating")] == ["r1", "r5", "r6"]
    assert [r.id for r in kept(num_rows=4, balance="topic", by_score="rating")] == ["r1", "r4", "r5", "r6"]


def test_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageError, match="wants 11 rows, and 10 are left"):
        kept(num_rows=11)
    scene = Scene(Path())
    assert TargetRows(num_rows=11, too_few="warning").judge(ROWS, scene) == [KEEP] * 10
    assert scene.facts == {"num_too_few": 1}  # select.json says so too
    assert "wants 11 rows, and 10 are left" in capsys.readouterr().err
    assert TargetRows(num_rows=11, too_few="accept").judge(ROWS, SCENE) == [KEEP] * 10
    assert capsys.readouterr().err == ""


def test_a_row_without_the_field_stops_the_stage() -> None:
    with pytest.raises(StageError, match=r"row r\d has no `meta\.cluster`"):
        kept(num_rows=3, balance="cluster")
    with pytest.raises(StageError, match="has no score `other`"):
        kept(num_rows=3, by_score="other")
