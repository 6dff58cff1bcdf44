"""Rationales with a final answer that is read, checked and picked."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene
from kdbuild.elicitors.cot import Cot
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

ROW = Row("r1", (Message("user", "Tom has 3 bags of 6 apples. How many apples?"),), gold="3 * 6 = 18\n#### 18")
RIGHT = "Each bag has 6 apples.\n3 * 6 = 18.\nAnswer: 18 apples"
WRONG = "3 + 6 is 9.\nAnswer: 9"


def samples(*texts: str):
    return lambda ask: texts[ask.sample]


def test_rationale_label_and_turn(drive):
    (row,) = drive(Cot(answers="number"), [ROW], lambda ask: RIGHT).rows
    assert row.id == "r1"
    assert row.rationale == "Each bag has 6 apples.\n3 * 6 = 18."
    assert row.label == "18"
    assert row.prompt == ROW.messages
    assert row.answer == "Each bag has 6 apples.\n3 * 6 = 18.\n\nAnswer: 18 apples"
    assert len(row.keys) == 1


def test_the_answer_alone_can_be_learned(drive):
    (row,) = drive(Cot(answers="number", student_learns="answer"), [ROW], lambda ask: RIGHT).rows
    assert (row.answer, row.rationale) == ("18", "Each bag has 6 apples.\n3 * 6 = 18.")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n", "empty answer"),
        ("It is 18.", "no line with the answer"),
        ("Because.\nAnswer: many", "no number in the line of the answer"),
        ("Answer: 18", "no rationale before the answer"),
        (Answer("First 3 * 6", False, 3, 512), "cut at the token limit"),
        (Answer("So 18.\nAnswer: 1", False, 3, 512), "cut at the token limit"),
    ],
)
def test_what_cannot_be_read_is_rejected(drive, text, reason):
    (rejected,) = drive(Cot(answers="number"), [ROW], lambda ask: text).rejected
    assert rejected.reason == reason


def test_a_cut_after_the_line_of_the_answer_costs_nothing(drive):
    (row,) = drive(Cot(answers="number"), [ROW], lambda ask: Answer("So 18.\nAnswer: 18\nAlso, the", False, 3, 512)).rows
    assert row.label == "18"
    assert row.messages[-1].ended


def test_check_rejects_what_is_not_gold(drive):
    cot = Cot(answers="number", check="gold")
    assert drive(cot, [ROW], lambda ask: RIGHT).rows
    assert [one.reason for one in drive(cot, [ROW], lambda ask: WRONG).rejected] == ["not the right answer"]
    bare = Row("r2", ROW.messages)
    assert [one.reason for one in drive(cot, [bare], lambda ask: RIGHT).rejected] == ["no right answer to show or compare with"]


def test_samples_are_children_and_equal_ones_are_one(drive):
    cot = Cot(answers="number", num_samples=3, temperature=0.7)
    driven = drive(cot, [ROW], samples(RIGHT, WRONG, "nothing"))
    assert [ask.sample for ask in driven.asks] == [0, 1, 2]
    assert len({ask.seed for ask in driven.asks}) == 3
    assert [row.label for row in driven.rows] == ["18", "9"]
    assert all(row.parents == ("r1",) and row.roots == ("r1",) and row.gold == ROW.gold for row in driven.rows)
    assert [(one.id, one.reason) for one in driven.dropped] == [("r1", "no line with the answer")]
    one, two = drive(cot.model_copy(update={"num_samples": 2}), [ROW], samples(RIGHT, RIGHT)).rows
    assert one.id == two.id


def test_the_majority_is_of_values_not_of_texts(drive):
    cot = Cot(answers="number", num_samples=4, temperature=0.7, pick="majority")
    texts = ("a.\nAnswer: 9", "b.\nAnswer: 1,000", "c.\nAnswer: $1000.00", "d.\nAnswer: 7")
    driven = drive(cot, [ROW], samples(*texts))
    assert [(row.rationale, row.label) for row in driven.rows] == [("b.", "1000"), ("c.", "1000")]
    assert [one.reason for one in driven.dropped] == ["not the answer of most samples"] * 2


def test_the_first_right_sample(drive):
    cot = Cot(answers="number", num_samples=3, temperature=0.7, pick="first", check="gold")
    driven = drive(cot, [ROW], samples(WRONG, RIGHT, "Six and six and six.\nAnswer: 18"))
    (row,) = driven.rows
    assert row.rationale.startswith("Each bag")
    assert sorted(one.reason for one in driven.dropped) == ["another sample was taken", "not the right answer"]


def test_a_hint_is_for_the_teacher_only(drive):
    driven = drive(Cot(answers="number", hint="gold"), [Row("r", ROW.messages, gold="18")], lambda ask: RIGHT)
    assert "The correct answer is 18." in driven.asks[0].messages[-1].content
    assert driven.rows[0].prompt == ROW.messages
    assert driven.rows[0].meta == {"hinted": "yes"}
    plain = drive(Cot(answers="number"), [Row("r", ROW.messages, gold="18")], lambda ask: RIGHT)
    assert "correct answer is" not in plain.asks[0].messages[-1].content


def test_on_failure_only_wrong_rows_see_the_answer(drive):
    cot = Cot(answers="number", hint="on-failure")
    assert not cot.asks_once
    right = drive(cot, [ROW], lambda ask: RIGHT)
    assert len(right.asks) == 1
    assert right.rows[0].meta == {}
    asked = drive(cot, [ROW], lambda ask: RIGHT if "correct answer" in ask.messages[-1].content else WRONG)
    assert [len(asks) for asks in asked.rounds] == [1, 1]
    assert (asked.rows[0].label, asked.rows[0].meta, len(asked.rows[0].keys)) == ("18", {"hinted": "yes"}, 1)
    assert [one.reason for one in drive(cot, [ROW], lambda ask: WRONG).rejected] == ["not the right answer"]


def test_choices_are_checked_by_letter_or_text(drive):
    row = Row("c", (Message("user", "Capital of France?\nA) Rome\nB) Paris\nC) Bonn"),), gold="Paris")
    cot = Cot(answers="choice", check="gold")
    for said in ("B", "(b)", "B) Paris", "Paris.", "**B**", "option B"):
        (made,) = drive(cot, [row], lambda ask, said=said: f"It lies on the Seine.\nAnswer: {said}").rows
        assert made.label == "B", said
    for said, reason in (("A", "not the right answer"), ("D", "no choice in the line of the answer")):
        assert drive(cot, [row], lambda ask, said=said: f"Well.\nAnswer: {said}").rejected[0].reason == reason


def test_texts_are_compared_by_their_words(drive):
    row = Row("t", (Message("user", "Who wrote Emma?"),), gold="Jane Austen")
    cot = Cot(check="gold", style="explain")
    (made,) = drive(cot, [row], lambda ask: "It is a novel of 1815.\n**Answer:** jane austen.").rows
    assert made.label == "jane austen."
    assert drive(cot, [row], lambda ask: "It is a novel.\nAnswer: Mary Shelley").rejected


def test_earlier_turns_and_an_answer_known_before(drive):
    turns = (Message("system", "Be exact."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "2 + 2?"))
    row = Row("m", (*turns, Message("assistant", "5", train=True)))
    driven = drive(Cot(answers="number"), [row], lambda ask: "Two and two.\nAnswer: 4")
    assert driven.asks[0].messages[:3] == turns[:3]
    assert driven.rows[0].prompt == turns
    assert driven.rows[0].answer.endswith("Answer: 4")


@pytest.mark.parametrize("style", ["explain", "cot", "syllogism"])
def test_a_style_is_a_template_and_can_be_replaced(drive, tmp_path, style):
    asked = drive(Cot(style=style, marker="So:"), [ROW], lambda ask: "x").asks[0].messages[-1].content
    assert asked.startswith(ROW.messages[0].content)
    assert "So:" in asked
    (tmp_path / "t.j2").write_text("{{ prompt }} | {{ marker }} | {{ wanted }} | {{ hint }}")
    own = Cot(style=style, template="t.j2", answers="number")
    assert own.files() == ("t.j2",)
    assert own.templates() == ()
    asked = drive(own, [ROW], lambda ask: "x", Scene(tmp_path)).asks[0].messages[-1].content
    assert asked == f"{ROW.messages[0].content} | Answer: | the number |"


def test_several_samples_need_a_temperature():
    with pytest.raises(ValidationError, match="needs a temperature above 0"):
        Cot(num_samples=2)
    assert Cot(num_samples=2, temperature=0.5).reads == ("prompt",)
    assert Cot(hint="on-failure").reads == ("prompt", "gold")
