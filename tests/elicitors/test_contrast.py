"""A better and a worse answer."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbuild.elicitors.contrast import Contrast
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

ROW = Row("r", (Message("user", "Is tea healthy?"),))


def by_question(ask):
    return "Perhaps." if "unhelpful" in ask.messages[-1].content else "Yes, in moderation: it holds antioxidants."


def test_two_ways_of_asking_one_model(drive):
    driven = drive(Contrast(), [ROW], by_question)
    assert [len(asks) for asks in driven.rounds] == [2]
    assert driven.asks[0].messages[0].content == "Is tea healthy?\n\n(Give a helpful, correct and complete answer.)"
    (row,) = driven.rows
    assert row.id == "r"
    assert (row.chosen, row.rejected, row.ranking) == ("Yes, in moderation: it holds antioxidants.", "Perhaps.", (0, 1))
    assert [one["text"] for one in row.candidates] == [row.chosen, row.rejected]
    assert (row.answer, row.prompt, len(row.keys)) == (row.chosen, ROW.messages, 2)


def test_in_the_system_message(drive):
    asks = drive(Contrast(positive="Be kind.", negative="Be rude.", place="system"), [ROW], lambda ask: ask.messages[0].content).asks
    assert [ask.messages for ask in asks] == [(Message("system", text), *ROW.messages) for text in ("Be kind.", "Be rude.")]


def test_a_smaller_model_gives_the_worse(drive):
    operator = Contrast(worse_by="small")
    assert operator.others == ("small",)
    driven = drive(operator, [ROW], lambda ask: Answer(f"It is, says {ask.to}.", ask.to != "small", 3, 5, logprob=-1.5))
    assert [(ask.to, ask.messages) for ask in driven.asks] == [("teacher", ROW.messages), ("small", ROW.messages)]
    (row,) = driven.rows
    assert row.candidates[1] == {"text": "It is, says small.", "source": "small", "logprob": -1.5, "ended": False}
    assert row.rejected == "It is, says small."
    both = drive(Contrast(worse_by="small", positive="Be kind."), [ROW], by_question).asks
    assert [ask.messages[0].content for ask in both] == ["Is tea healthy?\n\n(Be kind.)"] * 2


@pytest.mark.parametrize(("said", "reason"), [("Yes!", "both answers are the same"), (" ", "empty answer")])
def test_nothing_to_tell_apart(drive, said, reason):
    assert [one.reason for one in drive(Contrast(), [ROW], lambda ask: said).rejected] == [reason]


def test_a_contrast_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="nothing differs"):
        Contrast(positive="Be kind.", negative="Be kind.")
