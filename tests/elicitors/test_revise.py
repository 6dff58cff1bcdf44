"""Critique, then revision, in rounds: against principles, a run, one's own judgement, the right answer."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene
from kdbuild.elicitors.revise import Revise
from kdbuild.errors import SpecError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

USER = Message("user", "How do I boil an egg?")
ROW = Row("r1", (USER, Message("assistant", "Boil it, stupid.", train=True)), candidates=({"text": "Boil.", "source": "student"},))
BROKEN = Row(
    "p1",
    (Message("user", "Half of 36?"), Message("assistant", "```python\nanswer = 36 / 0\n```", train=True)),
    program="answer = 36 / 0",
    gold="18",
)


def replies(*texts):
    left = list(texts)
    return lambda ask: left.pop(0)


def said(ask) -> str:
    return ask.messages[-1].content


def test_a_round_is_a_critique_and_a_revision(drive):
    driven = drive(Revise(), [ROW], replies("It insults the reader.", "Boil it for eight minutes."))
    critique, revision = (said(ask) for (ask,) in driven.rounds)
    assert "How do I boil an egg?" in critique
    assert "Boil it, stupid." in critique
    assert "It insults the reader." in revision
    assert "Boil it, stupid." in revision
    (row,) = driven.rows
    assert row.id == "r1"
    assert row.messages == (USER, Message("assistant", "Boil it for eight minutes.", train=True))
    assert row.feedback == "It insults the reader."
    assert row.candidates == ({"text": "Boil.", "source": "student"}, {"text": "Boil it, stupid.", "source": "before", "ended": True})
    assert len(row.keys) == 2


def test_rounds_go_on_from_the_last_answer(drive):
    driven = drive(Revise(max_rounds=2), [ROW], replies("Rude.", "Boil it.", "Short.", "Boil it for eight minutes."))
    assert "Boil it.\n" in said(driven.asks[2])
    assert "stupid" not in said(driven.asks[2])
    (row,) = driven.rows
    assert row.answer == "Boil it for eight minutes."
    assert row.feedback == "Rude.\n\nShort."
    assert row.candidates[-1]["text"] == "Boil it, stupid."
    assert len(row.keys) == 4


def test_the_first_answer_can_be_the_rejected_one(drive):
    (row,) = drive(Revise(first="rejected"), [ROW], replies("Rude.", "Boil it for eight minutes.")).rows
    assert (row.chosen, row.rejected) == ("Boil it for eight minutes.", "Boil it, stupid.")
    assert row.candidates == ROW.candidates


def test_a_cut_revision_is_no_whole_turn(drive):
    (row,) = drive(Revise(), [ROW], replies("Rude.", Answer("Boil it for", False, 3, 512))).rows
    assert not row.messages[-1].ended


def test_only_the_last_turn_is_revised(drive):
    turns = (USER, Message("assistant", "Slowly.", train=True), Message("user", "How long?"), Message("assistant", "Long.", train=True))
    driven = drive(Revise(), [Row("r", turns)], replies("Vague.", "Eight minutes."))
    assert "Question: How long?" in said(driven.asks[0])
    assert [m.content for m in driven.rows[0].messages] == [USER.content, "Slowly.", "How long?", "Eight minutes."]


@pytest.mark.parametrize(("texts", "reason"), [(("",), "empty critique"), (("Bad.", " "), "empty answer")])
def test_what_cannot_be_used_is_rejected(drive, texts, reason):
    (rejected,) = drive(Revise(), [ROW], replies(*texts)).rejected
    assert rejected.reason == reason


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (Revise(), "no answer to revise"),
        (Revise(against="gold"), "no answer to revise"),
    ],
)
def test_a_row_without_an_answer_is_rejected(drive, operator, reason):
    driven = drive(operator, [Row("r", (USER,))], replies())
    assert (driven.asks, driven.rejected[0].reason) == ([], reason)


# --- principles -------------------------------------------------------------------------------------------------------------


def principle_of(ask) -> str:
    return said(ask).partition("by this principle: ")[2].partition("\n")[0]


def test_row_and_round_draw_the_principle(drive):
    operator = Revise(principles=["P one.", "P two.", "P three."], max_rounds=3)
    drawn = {}
    for name in (f"r{i}" for i in range(60)):
        driven = drive(operator, [Row(name, ROW.messages)], lambda ask: "Some text.")
        drawn[name] = [principle_of(ask) for ask in driven.asks[::2]]
        assert drawn[name] == [principle_of(ask) for ask in drive(operator, [Row(name, ROW.messages)], lambda ask: "Some text.").asks[::2]]
    counts = [sum(one.count(text) for one in drawn.values()) for text in ("P one.", "P two.", "P three.")]
    assert sum(counts) == 180
    assert all(35 < count < 85 for count in counts)
    assert any(len(set(one)) > 1 for one in drawn.values())


def test_principles_of_a_file_are_a_dependency(drive, tmp_path):
    (tmp_path / "p.txt").write_text("Be brief.\n")
    operator = Revise(principles="p.txt")
    driven = drive(operator, [ROW], lambda ask: "Some text.", Scene(tmp_path))
    assert principle_of(driven.asks[0]) == "Be brief."
    assert operator.files() == ("p.txt",)
    assert [path.name for path in operator.templates()] == ["critique.j2", "revise.j2"]
    assert [path.name for path in Revise().templates()] == ["critique.j2", "revise.j2", "principles.yaml"]
    with pytest.raises(SpecError, match="not there"):
        drive(Revise(principles="absent.txt"), [ROW], lambda ask: "Some text.", Scene(tmp_path))


def test_principles_without_a_use_are_refused():
    with pytest.raises(ValidationError, match="against: principles"):
        Revise(against="gold", principles=["Be brief."])


# --- reflection ---------------------------------------------------------------------------------------------------------------


def test_reflection_stops_where_nothing_is_to_change(drive):
    driven = drive(Revise(against="reflection", max_rounds=3), [ROW], replies("Too short.", "Boil it well.", "Nothing to improve!"))
    assert len(driven.asks) == 3
    (row,) = driven.rows
    assert row.answer == "Boil it well."
    assert row.feedback == "Too short.\n\nNothing to improve!"


def test_reflection_may_find_the_first_answer_good(drive):
    (row,) = drive(Revise(against="reflection"), [ROW], replies("nothing to improve")).rows
    assert row.answer == "Boil it, stupid."
    assert row.candidates == ROW.candidates
    assert len(row.keys) == 1


# --- the right answer ---------------------------------------------------------------------------------------------------------


SUM = Row("g1", (Message("user", "3 * 6?"), Message("assistant", "It is 9.\nAnswer: 9", train=True)), gold="#### 18")


def test_gold_revises_what_is_wrong(drive):
    driven = drive(Revise(against="gold", answers="number"), [SUM], replies("It added.", "3 * 6 = 18.\nAnswer: 18"))
    assert "Correct answer: #### 18" in said(driven.asks[0])
    assert "18" not in said(driven.asks[1])
    assert driven.rows[0].answer == "3 * 6 = 18.\nAnswer: 18"


def test_gold_leaves_what_is_right(drive):
    right = Row("g2", (SUM.messages[0], Message("assistant", "3 * 6 = 18.\nAnswer: 18.0", train=True)), gold="18")
    driven = drive(Revise(against="gold", answers="number"), [right], replies())
    assert (driven.asks, driven.rows) == ([], [right])


def test_gold_rejects_what_stays_wrong(drive):
    wrong = ("It added.", "Answer: 10")
    driven = drive(Revise(against="gold", answers="number"), [SUM], replies(*wrong))
    assert driven.rejected[0].reason == "still not the right answer"
    assert drive(Revise(against="gold", answers="number", unsolved="keep"), [SUM], replies(*wrong)).rows[0].answer == "Answer: 10"


# --- running ------------------------------------------------------------------------------------------------------------------


def fence(code: str) -> str:
    return f"```python\n{code}\n```"


def test_the_error_is_shown_and_the_program_mended(drive):
    driven = drive(Revise(against="execution"), [BROKEN], replies(fence("answer = 36 / 2")))
    (asked,) = (said(ask) for ask in driven.asks)
    assert "ZeroDivisionError: division by zero" in asked
    assert "answer = 36 / 0" in asked
    (row,) = driven.rows
    assert row.program == "answer = 36 / 2"
    assert row.answer == fence("answer = 36 / 2")
    assert row.feedback.endswith("ZeroDivisionError: division by zero")
    assert row.candidates[-1]["text"] == BROKEN.answer


def test_a_wrong_result_is_an_error_that_does_not_tell_the_right_one(drive):
    texts = (fence("answer = 36 / 3"), fence("answer = 36 // 2"))
    driven = drive(Revise(against="execution", max_rounds=3), [BROKEN], replies(*texts))
    assert "It gives 12.0, which is not the right result." in said(driven.asks[1])
    assert "18" not in said(driven.asks[1])
    assert driven.rows[0].program == "answer = 36 // 2"


def test_a_program_that_works_is_left_alone(drive):
    works = Row("w", BROKEN.messages, program="answer = 18", gold="18.0")
    assert drive(Revise(against="execution"), [works], replies()).rows == [works]


def test_a_program_that_still_fails(drive):
    text = fence("while True: pass")
    operator = Revise(against="execution", cpu_s=1)
    (rejected,) = drive(operator, [BROKEN], replies(text)).rejected
    assert rejected.reason == "still the program took longer than its time"
    (row,) = drive(operator.model_copy(update={"unsolved": "keep"}), [BROKEN], replies(text)).rows
    assert row.feedback.endswith("The program took longer than its time.")
    assert drive(operator, [BROKEN], replies("I cannot.")).rejected[0].reason == "no program in the answer"


def test_each_way_has_its_templates():
    for against, reads in (("principles", ("answer",)), ("gold", ("answer", "gold")), ("execution", ("answer", "program"))):
        operator = Revise(against=against)
        assert operator.reads == reads
        assert all(path.is_file() for path in operator.templates())
