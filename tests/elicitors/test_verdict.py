"""Verdicts: from log-probabilities of choices, or from what is written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdbuild.elicitors import Answered, Conversation, Rejected, Scene, _verdict
from kdbuild.elicitors._verdict import YES_NO, Judging
from kdbuild.records import Row
from kdbuild.teachers import Answer, Signal

BOTH = {"teacher": frozenset({Signal.TEXT, Signal.CHOICES}), "writer": frozenset({Signal.TEXT})}
SCENE = Scene(Path(), gives=BOTH)


class Asks(Judging):
    kind: str = "asks"
    prompts = ()

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        return []
        yield []


def likely(*probabilities: float) -> Answer:
    return Answer("", True, 1, 0, logprobs=tuple(math.log(p) for p in probabilities))


def test_log_probabilities_are_normalised():
    # exp of them is 0.1 and 0.3: a quarter and three quarters.
    assert _verdict.read(likely(0.1, 0.3), YES_NO) == pytest.approx((0.25, 0.75))
    assert _verdict.softmax((-1000.0, -1000.0)) == (0.5, 0.5)
    assert _verdict.softmax((-900.0, 0.0)) == (0.0, 1.0)


def test_what_is_written_is_all_of_the_verdict():
    assert _verdict.read(Answer('{"verdict": "no"}', True, 1, 5), YES_NO) == (0.0, 1.0)


@pytest.mark.parametrize("text", ["no", '{"verdict": "maybe"}', '{"verdict": "NO"}', "{}", '["no"]', "", '{"verdict": "no"} really'])
def test_what_is_not_an_option_is_rejected(text):
    assert _verdict.read(Answer(text, True, 1, 5), YES_NO) == Rejected("not JSON of the form asked for", text)


def test_what_was_cut_is_rejected():
    assert _verdict.read(Answer('{"verdict": "n', False, 1, 5), YES_NO) == Rejected("cut at the token limit", '{"verdict": "n')


def test_another_number_of_choices_is_rejected():
    assert isinstance(_verdict.read(likely(0.1, 0.2, 0.7), YES_NO), Rejected)


@pytest.mark.parametrize(
    ("reads", "to", "choices"),
    [("auto", "teacher", True), ("auto", "writer", False), ("text", "teacher", False), ("choices", "writer", True)],
)
def test_how_it_is_asked(reads, to, choices):
    ask = _verdict.put(Asks(temperature=0.7, max_new_tokens=9), SCENE, "r", "Good?", YES_NO, reads=reads, to=to)
    assert (ask.to, ask.messages[-1].content) == (to, "Good?")
    if choices:
        # Nothing is drawn and nothing is written, so nothing of that is in the key.
        assert (ask.choices, ask.schema, ask.temperature, ask.max_new_tokens) == (YES_NO, None, 0.0, 1)
    else:
        assert ask.choices == ()
        assert '"enum":["yes","no"]' in (ask.schema or "")
        assert (ask.temperature, ask.max_new_tokens) == (0.7, 9)


def test_what_it_needs():
    assert Asks().needs == {Signal.TEXT}
    assert Asks(verdict="choices").needs == {Signal.CHOICES}


def test_a_panel_is_asked_together_and_averaged():
    panel = Asks(by=["teacher", "writer"], combine="consensus")
    assert panel.combines
    asks = panel.put(SCENE, "r", "Good?", YES_NO)
    assert [(ask.to, bool(ask.choices)) for ask in asks] == [("teacher", True), ("writer", False)]
    answered = [Answered(likely(0.25, 0.75), "k1"), Answered(Answer('{"verdict": "yes"}', True, 1, 5), "k2")]
    assert _verdict.read_all(answered, YES_NO) == pytest.approx((0.625, 0.375))
    assert not Asks(by=["teacher", "writer"]).combines


@pytest.mark.parametrize(
    ("given", "swapped", "first", "agree"),
    [
        ((0.9, 0.1), (0.3, 0.7), 0.8, True),  # both say the same text, by (0.9 + 0.7) / 2
        ((0.9, 0.1), (0.9, 0.1), 0.5, False),  # the place, not the text
        ((0.2, 0.8), (0.6, 0.4), 0.3, True),
        ((0.5, 0.5), (0.5, 0.5), 0.5, True),
        ((0.5, 0.5), (0.4, 0.6), 0.55, False),
    ],
)
def test_a_preference_is_the_mean_of_both_orders(given, swapped, first, agree):
    found, consistent = _verdict.preference(given, swapped)
    assert found == pytest.approx(first)
    assert consistent is agree


def test_a_rating_is_the_expected_value():
    assert _verdict.expected((0.1, 0.0, 0.2, 0.3, 0.4)) == pytest.approx(0.1 + 0.6 + 1.2 + 2.0)
    assert _verdict.expected((0.0, 0.0, 1.0)) == 3.0


@pytest.mark.parametrize("scale", range(2, 11))
def test_no_grade_begins_as_another(scale):
    grades = _verdict.grades(scale)
    assert len(grades) == scale
    assert not [(a, b) for a in grades for b in grades if a != b and b.startswith(a)]
