"""Thresholds, the best so many, quantiles, best of n, and conditions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdbuild.errors import StageError
from kdbuild.records import Message, Row
from kdbuild.selectors import KEEP, Scene, Verdict
from kdbuild.selectors.keep import Keep

SCENE = Scene(Path())


def rows(**values: float) -> list[Row]:
    return [Row(id, (Message("user", id),), scores={"rating": value, "ifd": -value}) for id, value in sorted(values.items())]


FIVE = rows(a=1, b=5, c=3, d=3, e=2)


def kept(given: list[Row], **fields: object) -> str:
    return "".join(r.id for r, v in zip(given, Keep(**fields).judge(given, SCENE), strict=True) if v.reason is None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"min": 3}, "bcd"),
        ({"max": 3}, "acde"),
        ({"min": 2, "max": 3}, "cde"),
        ({"min": 9}, ""),
        ({"top_k": 2}, "bc"),
        ({"top_k": 9}, "abcde"),
        ({"quantile": 0.5}, "bcd"),
        ({"quantile": 0.75}, "bcd"),
        ({"quantile": 0.8}, "b"),
        ({"quantile": 1}, "b"),
        ({"quantile": 0}, "abcde"),
    ],
)
def test_by_score(fields: dict[str, float], expected: str) -> None:
    """Sorted 1 2 3 3 5: the quantiles 0.5 and 0.75 are 3, and 0.8 is 3.4."""
    assert kept(FIVE, score="rating", **fields) == expected


def test_an_expression_is_a_score() -> None:
    assert kept(FIVE, score="-rating", top_k=2) == "ae"
    assert kept(FIVE, score="abs(rating - 3)", max=0) == "cd"


def test_conditions() -> None:
    assert kept(FIVE, where="rating > 2 and ifd > -4") == "cd"
    assert kept(FIVE, where="rating >= quantile(rating, 0.8) or rating == 1") == "ab"
    verdicts = Keep(where="rating > 2 and ifd > -4 and rating - ifd > 0").judge(FIVE, SCENE)
    assert verdicts[0] == Verdict("rating: condition not met", score=1)
    assert verdicts[1] == Verdict("ifd: condition not met", score=-5)
    assert verdicts[2] == KEEP


def test_reasons_and_scores_do_not_know_the_limit() -> None:
    assert Keep(score="rating", min=2.5).judge(FIVE, SCENE) == Keep(score="rating", min=3).judge(FIVE, SCENE)
    assert Keep(score="rating", min=2.5).judge(FIVE, SCENE)[0] == Verdict("rating: too low", score=1)
    assert Keep(score="rating", max=3).judge(FIVE, SCENE)[1] == Verdict("rating: too high", score=5)
    assert Keep(score="rating", top_k=1).judge(FIVE, SCENE)[2] == Verdict("rating: not among the highest", score=3)


def test_the_best_of_siblings() -> None:
    families = {"a": ("p",), "b": ("p",), "c": ("q",), "d": (), "e": ()}
    given = [replace(row, parents=families[row.id]) for row in FIVE]
    assert kept(given, score="rating", best_of="siblings") == "bcde"
    assert kept(given, score="rating", best_of="siblings", num_best=2) == "abcde"
    same = [replace(row, parents=("p",)) for row in FIVE]
    assert kept(same, score="rating", best_of="siblings", num_best=2) == "bc"


def candidate(text: str, value: float | None, **more: object) -> dict[str, object]:
    return {"text": text, **({"scores": {"rating": value, "rating.part": 1.0}} if value is not None else {}), **more}


def test_the_best_candidate_becomes_the_answer() -> None:
    row = Row("a", (Message("user", "q"),), scores={"old": 1.0})
    row = replace(row, candidates=(candidate("x", 1.0), candidate("y", 4.0, ended=False), candidate("z", 4.0), candidate("none", None)))
    step = Keep(score="rating", best_of="candidates")
    (verdict,) = step.judge([row], SCENE)
    assert step.completes
    assert not Keep(score="rating", best_of="siblings").completes
    assert verdict.reason is None
    assert verdict.row is not None
    assert verdict.row.messages == (Message("user", "q"), Message("assistant", "y", train=True, ended=False))
    assert verdict.row.scores == {"old": 1.0, "rating": 4.0, "rating.part": 1.0}
    assert verdict.row.candidates == row.candidates


def test_candidates_have_what_an_operator_gave_them() -> None:
    row = Row("a", (Message("user", "q"),), candidates=({"text": "x", "score": 1.0}, {"text": "y", "score": 2.0, "logprob": -9.0}))
    for score, best in (("score", "y"), ("logprob", "y"), ("-score", "x")):
        (verdict,) = Keep(score=score, best_of="candidates").judge([row], SCENE)
        assert verdict.row is not None
        assert verdict.row.answer == best


def test_rows_that_have_an_answer_or_nothing_to_choose_pass() -> None:
    answered = Row("a", (Message("user", "q"), Message("assistant", "x", train=True)), candidates=(candidate("y", 1.0),))
    bare = Row("b", (Message("user", "q"),))
    assert Keep(score="rating", best_of="candidates").judge([answered, bare], SCENE) == [KEEP, KEEP]


def test_a_row_without_the_score_stops_the_stage() -> None:
    lacking = [*FIVE, Row("f", (Message("user", "f"),))]
    for step in (Keep(score="rating", top_k=1), Keep(where="ifd < 9 or rating > 1")):
        with pytest.raises(StageError, match="row f has no score"):
            step.judge(lacking, SCENE)
    with pytest.raises(StageError, match="no candidate of row a has the score `rating`"):
        Keep(score="rating", best_of="candidates").judge([Row("a", candidates=(candidate("x", None),))], SCENE)


@pytest.mark.parametrize("text", ["1 / (rating - 3) > 0", "log(rating - 3) > 0", "exp(rating * 1000) > 0"])
def test_an_expression_without_a_value_names_the_row(text: str) -> None:
    with pytest.raises(StageError, match=r"no value for row [a-e]:"):
        Keep(where=text).judge(FIVE, SCENE)


def test_scores_that_are_no_numbers_stop_the_stage() -> None:
    with pytest.raises(StageError, match="no value for row x"):
        Keep(where="rating > 1").judge(rows(x=float("nan")), SCENE)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "either a condition"),
        ({"where": "a > 1", "score": "a"}, "either a condition"),
        ({"score": "a"}, "does not say what is kept"),
        ({"score": "a", "min": 1, "top_k": 2}, "are two rules"),
        ({"where": "a > 1", "top_k": 2}, "decides alone"),
        ({"score": "a > 1", "top_k": 2}, "`score` is a number"),
        ({"where": "a"}, "`where` is a condition"),
        ({"where": "a > 1 and b >"}, "at character 13"),
        ({"score": "a", "min": 2, "max": 1}, "nothing would be kept"),
        ({"score": "a", "top_k": 2, "num_best": 2}, "goes with `best_of: siblings`"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Keep(**fields)


def test_what_it_reads_comes_from_the_expression() -> None:
    assert Keep(where="ifd < 1 and rules.length > quantile(rating, 0.5)").reads == ("ifd", "rules.length", "rating")


def test_no_rows_and_equal_rows() -> None:
    assert Keep(where="rating >= mean(rating)").judge([], SCENE) == []
    assert Keep(score="rating", quantile=0.5).judge([], SCENE) == []
    equal = rows(a=0.1, b=0.1, c=0.1)
    assert kept(equal, score="rating", quantile=0.9) == "abc"
    assert kept(equal, where="rating >= mean(rating)") == "abc"
    assert kept(equal, score="rating", top_k=2) == "ab"
