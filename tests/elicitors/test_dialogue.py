"""Two roles that talk."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbuild.elicitors.dialogue import Dialogue
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

ROW = Row("r", (Message("user", "How do bees find flowers?"),))
TOPIC = Row("t", meta={"value": "school uniforms"})


def in_turn(*texts):
    said = iter(texts)
    return lambda ask: next(said)


def said(row) -> list[tuple[str, str, bool]]:
    return [(m.role, m.content, m.train) for m in row.messages]


def test_self_chat_goes_on_from_the_rows_question(drive):
    driven = drive(Dialogue(num_turns=4), [ROW], in_turn("By scent and colour.", "User: And at night?", "Most bees rest at night."))
    (row,) = driven.rows
    assert row.id == "r"
    assert said(row) == [
        ("user", "How do bees find flowers?", False),
        ("assistant", "By scent and colour.", True),
        ("user", "And at night?", False),
        ("assistant", "Most bees rest at night.", True),
    ]
    assert (row.meta["stopped"], len(row.keys)) == ("turns", 3)
    assert [len(asks) for asks in driven.rounds] == [1, 1, 1]
    assert not Dialogue().asks_once


def test_the_second_role_sees_a_chat_and_the_first_a_text(drive):
    second, first, _ = drive(Dialogue(), [ROW], in_turn("By scent.", "At night?", "They rest.")).asks
    assert [m.role for m in second.messages] == ["system", "user"]
    assert second.messages[0].content.startswith("You are Assistant")
    (message,) = first.messages
    assert "User: How do bees find flowers?\nAssistant: By scent.\n" in message.content
    assert "next message of User" in message.content
    assert first.stop == ("\nUser:", "\nAssistant:")


def test_a_debate_on_a_topic_from_both_sides(drive):
    texts = ("They save money.", "They hide who one is.", "Equality matters more.", "Choice matters more.")
    both = drive(Dialogue(mode="debate", trains="both"), [TOPIC], in_turn(*texts))
    against, favour = both.rows
    assert said(against) == [(("user", "assistant")[i % 2], text, bool(i % 2)) for i, text in enumerate(texts)]
    assert said(favour) == [
        ("user", "school uniforms", False),
        ("assistant", texts[0], True),
        ("user", texts[1], False),
        ("assistant", texts[2], True),
    ]
    assert all(row.parents == ("t",) and row.roots == ("t",) for row in both.rows)
    assert len({row.id for row in both.rows}) == 2
    assert "school uniforms" in both.asks[0].messages[0].content
    (one,) = drive(Dialogue(mode="debate", trains="first"), [TOPIC], in_turn(*texts)).rows
    assert one == favour


def test_the_prompt_is_the_topic_of_a_role_play(drive):
    driven = drive(Dialogue(mode="role-play", num_turns=2, keep_system=True), [ROW], in_turn("List three senses.", "Scent, sight, touch."))
    assert "How do bees find flowers?" in driven.asks[0].messages[0].content
    (row,) = driven.rows
    assert row.messages[0].content.startswith("You are Specialist: a specialist")
    assert [m.content for m in row.messages[1:]] == ["List three senses.", "Scent, sight, touch."]


def test_roles_of_ones_own_with_models_of_their_own(drive):
    roles = [{"name": "Patient", "says": "has {topic}", "by": "small"}, {"name": "Doctor", "says": "treats {topic}"}]
    operator = Dialogue(roles=roles, num_turns=3)
    assert operator.others == ("small",)
    driven = drive(operator, [Row("d", meta={"value": "a cold"})], in_turn("I cough.", "Since when?", "A week."))
    assert [ask.to for ask in driven.asks] == ["small", "teacher", "small"]
    assert "Patient has a cold." in driven.asks[0].messages[0].content
    assert [m.content for m in driven.rows[0].messages] == ["I cough.", "Since when?"]


@pytest.mark.parametrize(
    ("texts", "num_messages", "stopped"),
    [
        (("By scent.", "DONE"), 2, "stop word"),
        (("By scent.", "Thank you! DONE", "x"), 2, "stop word"),
        (("By scent.", "  "), 2, "empty turn"),
        (("By scent.", "How do bees find flowers"), 2, "repeated turn"),
        (("By scent.", "And?", "By scent!"), 2, "repeated turn"),
        (("By scent.", "And?", "I'm sorry, I cannot help."), 2, "refusal"),
        (("By scent.", "And?", Answer("Then they", False, 9, 256)), 4, "cut"),
        (("By scent.", Answer("And when", False, 9, 256)), 2, "cut"),
        (("By scent.\nUser: And?\nAssistant: x", "DONE"), 2, "stop word"),
    ],
)
def test_when_a_talk_stops(drive, texts, num_messages, stopped):
    (row,) = drive(Dialogue(num_turns=8), [ROW], in_turn(*texts)).rows
    assert len(row.messages) == num_messages
    assert row.messages[-1].train
    assert row.meta["stopped"] == stopped
    assert row.messages[1].content == "By scent."
    assert row.messages[-1].ended == (num_messages == 2)


@pytest.mark.parametrize(
    ("operator", "row", "texts", "reason"),
    [
        (Dialogue(), ROW, ("",), "stopped too early: empty turn"),
        (Dialogue(min_turns=4), ROW, ("By scent.", "DONE"), "stopped too early: stop word"),
        (Dialogue(), TOPIC, (), "no question: the last turn is not the user's"),
        (Dialogue(mode="debate"), Row("e"), (), "no topic to talk about"),
    ],
)
def test_what_is_no_talk(drive, operator, row, texts, reason):
    assert [one.reason for one in drive(operator, [row], in_turn(*texts)).rejected] == [reason]


def test_earlier_turns_are_shown_and_not_learned(drive):
    turns = (Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "A tree?"))
    driven = drive(Dialogue(num_turns=4), [Row("m", turns)], in_turn("An oak."))
    assert [(m.role, m.train) for m in driven.rows[0].messages] == [(m.role, False) for m in turns] + [("assistant", True)]
    assert driven.rows[0].prompt == turns
    assert driven.asks[0].messages[0].content.endswith("Be kind.")
    assert [m.content for m in driven.asks[0].messages[1:]] == ["Hi", "Hello", "A tree?"]


def test_specs_that_cannot_be():
    with pytest.raises(ValidationError, match="needs `opening: topic`"):
        Dialogue(trains="both")
    with pytest.raises(ValidationError, match="no talk could pass"):
        Dialogue(min_turns=9)
    with pytest.raises(ValidationError):
        Dialogue(roles=[{"name": "A", "says": "b"}])
