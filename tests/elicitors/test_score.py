"""A judge rates answers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene
from kdbuild.elicitors.score import Score, steps_of
from kdbuild.errors import SpecError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Ask, Signal
from kdbuild.teachers.fake import Fake

USER = Message("user", "Name a tree.")
ROW = Row("r", (USER, Message("assistant", "An oak.", train=True)), gold="A fir.", keys=("before",))
JUDGED = Row(
    "r",
    (USER, Message("assistant", "An oak.", train=True)),
    candidates=({"text": "A rose.", "source": "other"}, {"text": "A fir?", "source": "student"}),
    feedback="earlier",
)


def text_of(ask: Ask) -> str:
    return ask.messages[-1].content


def grade(value: int):
    return lambda ask: json.dumps({"verdict": str(value)})


def test_a_rating_is_the_expected_value(drive):
    shares = (0.1, 0.0625, 0.2, 0.25, 0.3875)
    driven = drive(Score(), [ROW], lambda ask: Answer("", True, 1, 0, logprobs=tuple(map(math.log, shares))))
    (ask,) = driven.asks
    assert ask.choices == ("1", "2", "3", "4", "5")
    assert text_of(ask) == (
        "User: Name a tree.\n\nAnswer:\nAn oak.\n\n"
        "Rate the overall quality of the answer from 1 (worst) to 5 (best). Reply with the number only."
    )
    # 0.1 + 0.125 + 0.6 + 1.0 + 1.9375
    (row,) = driven.rows
    assert row.scores == {"overall": pytest.approx(3.7625)}
    assert len(row.keys) == 2


def test_aspects_and_their_mean(drive):
    grades = {"honesty": 4, "clarity (how easy it is to read)": 1}

    def reply(ask: Ask) -> str:
        return json.dumps({"verdict": str(next(grade for name, grade in grades.items() if name.split()[0] in text_of(ask)))})

    driven = drive(Score(aspects={"honesty": "", "clarity": "how easy it is to read"}, verdict="text"), [ROW], reply)
    assert [[name in text_of(ask) for name in grades] for ask in driven.asks] == [[True, False], [False, True]]
    assert driven.rows[0].scores == {"honesty": 4.0, "clarity": 1.0, "overall": 2.5}


def test_an_overall_that_is_asked_for_is_no_mean(drive):
    driven = drive(
        Score(aspects=["honesty", "overall"], verdict="text"), [ROW], lambda ask: grade(5 if "quality" in text_of(ask) else 1)(ask)
    )
    assert driven.rows[0].scores == {"honesty": 1.0, "overall": 5.0}


def test_a_scale_of_ten_ends_with_a_full_stop(drive):
    driven = drive(Score(scale=10, verdict="text"), [ROW], lambda ask: '{"verdict": "10."}')
    assert driven.rows[0].scores == {"overall": 10.0}
    assert "to 10 (best). Reply with the number and a full stop only." in text_of(driven.asks[0])


def test_candidates(drive):
    driven = drive(
        Score(of="candidates", aspects=["truth", "style"], verdict="text"),
        [JUDGED],
        lambda ask: grade(2 * ("fir" in text_of(ask)) + 1 + ("truth" in text_of(ask)))(ask),
    )
    (row,) = driven.rows
    assert [one["score"] for one in row.candidates] == [1.5, 3.5]
    assert row.scores == {"truth": 3.0, "style": 2.0, "overall": 2.5}
    assert row.answer == "An oak."


def test_steps(drive):
    row = Row("r", (USER, Message("assistant", "Take 2.\nAdd 3.\n\nSo 6.", train=True)))

    def reply(ask: Ask) -> str:
        return grade(1 if "Next step:\nSo 6." in text_of(ask) else 4)(ask)

    driven = drive(Score(level="steps", verdict="text"), [row], reply)
    assert "Steps before:\n(none)\n\nNext step:\nTake 2.\n" in text_of(driven.asks[0])
    assert "Steps before:\nTake 2.\nAdd 3.\n\nNext step:\nSo 6.\n" in text_of(driven.asks[2])
    assert driven.rows[0].scores == {"overall step 1": 4.0, "overall step 2": 4.0, "overall step 3": 1.0, "overall": 3.0}
    too_long = drive(Score(level="steps", verdict="text", max_steps=2), [row], reply)
    assert [rejected.reason for rejected in too_long.rejected] == ["more steps than `max_steps`"]


def test_what_a_step_is():
    assert steps_of("Take 2. Add 3!  So 3.5 it is?") == ["Take 2.", "Add 3!", "So 3.5 it is?"]
    assert steps_of(" one \n\n two. three ") == ["one", "two. three"]
    assert steps_of(" \n ") == []


def test_a_critique_comes_before_the_rating(drive):
    driven = drive(Score(critique=True, verdict="text"), [ROW], lambda ask: "  It is short. " if ask.schema is None else '{"verdict": "3"}')
    (critique,), (rating,) = driven.rounds
    assert text_of(critique).endswith("say what is good and what is wrong about this answer's overall quality.")
    assert "Critique:\nIt is short.\n" in text_of(rating)
    (row,) = driven.rows
    assert (row.feedback, row.scores, len(row.keys)) == ("It is short.", {"overall": 3.0}, 3)
    assert "feedback" in Score(critique=True).writes
    assert not Score(critique=True).asks_once
    empty = drive(Score(critique=True), [ROW], lambda ask: " ")
    assert [rejected.reason for rejected in empty.rejected] == ["empty critique"]


def test_critiques_of_candidates(drive):
    driven = drive(
        Score(of="candidates", critique=True, verdict="text"),
        [JUDGED],
        lambda ask: re.search(r"Answer:\n(.*)", text_of(ask)).group(1) if ask.schema is None else '{"verdict": "3"}',
    )
    assert driven.rows[0].feedback == "Candidate 1: A rose.\n\nCandidate 2: A fir?"
    assert [re.search(r"Critique:\n(.*)", text_of(ask)).group(1) for ask in driven.rounds[1]] == ["A rose.", "A fir?"]


def test_without_a_critique_feedback_stays(drive):
    assert drive(Score(verdict="text"), [JUDGED], grade(2)).rows[0].feedback == "earlier"


def test_the_gap_is_measured_in_both_orders(drive):
    def reply(ask: Ask) -> str:
        first, second = re.search(r"Answer A:\n(.*)\n\nAnswer B:\n(.*)\n", text_of(ask)).groups()
        rated = "A" if "of answer A" in text_of(ask) else "B"
        worth = {"An oak.": 4, "A fir?": 2}[first if rated == "A" else second]
        return grade(worth + (rated == "A"))(ask)  # it likes what comes first

    driven = drive(Score(of="gap", verdict="text"), [JUDGED], reply)
    assert len(driven.asks) == 4
    (row,) = driven.rows
    assert row.scores == {"overall": 4.5, "gap": 2.0}
    assert [one.get("score") for one in row.candidates] == [None, 2.5]
    lone = drive(Score(of="gap", rival="nobody", verdict="text"), [JUDGED], reply)
    assert [rejected.reason for rejected in lone.rejected] == ["no candidate of the rival to compare with"]


def test_reference_and_rubric(drive, tmp_path):
    (tmp_path / "rubric.txt").write_text("5: names a tree.\n", encoding="utf-8")
    scene = Scene(tmp_path, gives={"teacher": frozenset({Signal.TEXT})})
    score = Score(reference="gold", rubric_file="rubric.txt")
    assert score.files() == ("rubric.txt",)
    assert score.reads == ("prompt", "answer", "gold")
    (ask,) = drive(score, [ROW], grade(3), scene).asks
    assert "Reference answer:\nA fir.\n\nAnswer:\nAn oak.\n\nRubric:\n5: names a tree.\n\nRate" in text_of(ask)
    assert "A fir." not in text_of(drive(Score(), [ROW], grade(3), scene).asks[0])
    assert [rejected.reason for rejected in drive(score, [JUDGED], grade(3), scene).rejected] == ["no gold answer to show"]
    with pytest.raises(SpecError, match="not inside the project"):
        drive(Score(rubric_file="../secret"), [ROW], grade(3), scene)


def test_a_panel_is_averaged(drive):
    scene = Scene(Path(), actor="a", gives={})
    driven = drive(Score(by=["a", "b"], combine="consensus"), [ROW], lambda ask: grade(5 if ask.to == "a" else 2)(ask), scene)
    assert driven.rows[0].scores == {"overall": 3.5}


@pytest.mark.parametrize(
    ("score", "row", "reason"),
    [
        (Score(), Row("r", (USER,)), "no answer to rate"),
        (Score(of="candidates"), ROW, "no candidates to rate"),
        (Score(verdict="text"), ROW, "not JSON of the form asked for"),
    ],
)
def test_what_cannot_be_rated_is_rejected(drive, score, row, reason):
    assert [rejected.reason for rejected in drive(score, [row], lambda ask: '{"verdict": "6"}').rejected] == [reason]


@pytest.mark.parametrize(
    "fields",
    [
        {"aspects": ["a", "a"]},
        {"aspects": [" "]},
        {"of": "gap", "critique": True},
        {"of": "gap", "level": "steps"},
        {"rubric": "a", "rubric_file": "b"},
        {"aspects": []},
        {"scale": 11},
    ],
)
def test_fields_that_do_not_fit(fields):
    with pytest.raises(ValidationError):
        Score(**fields)


def test_with_the_fake_teacher(drive):
    with Fake().open(Path(), None) as session:
        first, again = (drive(Score(max_new_tokens=64), [ROW], lambda ask: next(session.generate([ask]))[1]) for _ in range(2))
    assert first == again
    (row,) = first.rows
    assert 1 <= row.scores["overall"] <= 5
