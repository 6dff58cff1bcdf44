"""A teacher's rating."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kdbuild.elicitors.score import Score
from kdbuild.records import Message, Row
from kdbuild.scorers import Scene
from kdbuild.scorers.rating import Rating
from kdbuild.teachers import Answer, Ask, Signal

ROW = Row("r", (Message("user", "Name a tree."), Message("assistant", "An oak.", train=True)), gold="A fir.")
SHARES = (0.1, 0.0625, 0.2, 0.25, 0.3875)


def shares(ask: Ask) -> Answer:
    return Answer("", True, 1, 0, logprobs=tuple(map(math.log, SHARES)))


def written(grade: int):
    return lambda ask: json.dumps({"verdict": str(grade)})


def test_the_expected_rating_where_the_teacher_says_how_likely_each_is(score):
    driven = score(Rating(), [ROW], shares)
    # 0.1 + 0.125 + 0.6 + 1.0 + 1.9375
    assert driven.values("rating") == [3.7625]
    assert driven.asks[0].choices == ("1", "2", "3", "4", "5")


def test_the_written_rating_where_it_does_not(score):
    scene = Scene(Path(), gives={"teacher": frozenset({Signal.TEXT})})
    driven = score(Rating(name="worth"), [ROW], written(4), scene)
    assert driven.values("worth") == [4.0]
    assert driven.asks[0].schema is not None
    assert score(Rating(verdict="text"), [ROW], lambda ask: "four").reasons == {"r": "not JSON of the form asked for"}


def test_it_asks_what_the_operator_asks(score):
    rating = Rating(aspects={"clarity": "how easy to read"}, rubric="5 is best.", reference="gold")
    operator = Score(aspects={"clarity": "how easy to read"}, rubric="5 is best.", reference="gold")
    (asked,) = next(operator.elicit(ROW, Scene(Path(), gives={"teacher": frozenset(Signal)})))
    assert score(rating, [ROW], shares).asks == [asked]


def test_aspects_have_values_of_their_own(score):
    scorer = Rating(aspects=["honesty", "clarity"], verdict="text")
    assert scorer.names == ("rating", "rating.honesty", "rating.clarity")
    driven = score(scorer, [ROW], lambda ask: written(4 if "honesty" in ask.messages[-1].content else 1)(ask))
    assert driven.rows["r"].scores == {"rating": 2.5, "rating.honesty": 4.0, "rating.clarity": 1.0}
    assert len(driven.rounds) == 1
    of_all = Rating(aspects=["honesty", "overall"], verdict="text")
    driven = score(of_all, [ROW], lambda ask: written(4 if "honesty" in ask.messages[-1].content else 1)(ask))
    assert driven.rows["r"].scores["rating"] == 1.0


def test_a_panel_is_averaged(score):
    scene = Scene(Path(), actor="one", gives={"one": frozenset(Signal), "two": frozenset({Signal.TEXT})})
    driven = score(Rating(by=["one", "two"]), [ROW], lambda ask: shares(ask) if ask.to == "one" else written(5)(ask), scene)
    assert [ask.to for ask in driven.asks] == ["one", "two"]
    assert driven.values("rating") == [pytest.approx((3.7625 + 5) / 2)]


def test_what_cannot_be_rated_is_said(score):
    assert score(Rating(), [Row("r", ROW.messages[:1])], shares).reasons == {"r": "no answer to rate"}
    assert score(Rating(reference="gold"), [Row("r", ROW.messages)], shares).reasons == {"r": "no gold answer to show"}


def test_the_operator_s_template_is_part_of_it():
    (template,) = Rating().templates()
    assert template.is_file()
    assert template in Score().templates()
