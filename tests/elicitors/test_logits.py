"""Reading an answer: what is asked, and that the row goes on as it was."""

from dataclasses import replace

import pytest

from kdbuild import kinds
from kdbuild.elicitors import Scene
from kdbuild.errors import KdbuildError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Operation, Reading, Signal

TURNS = (Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So.", train=True, ended=False))
ROW = Row("r1", TURNS, keys=("k0",))
SAID = Answer("", True, 9, 0, payload=b"said")


def parse(**fields):
    return kinds.parse("elicitors", {"kind": "logits", **fields})


def test_the_teacher_reads_the_row_once_and_the_row_goes_on(drive):
    driven = drive(parse(k=8), [ROW], lambda ask: SAID)
    (ask,) = driven.asks
    assert ask.operation is Operation.READ
    assert ask.reading == Reading("top-k", 8)
    assert ask.messages == ROW.messages
    assert ask.to == "teacher"
    (row,) = driven.rows
    assert replace(row, keys=("k0",)) == ROW
    assert row.keys[0] == "k0"
    assert len(row.keys) == 2


def test_several_teachers_read_the_same_row(drive):
    operator = parse(by=["a", "b"], form="sampled", k=12, fuse="min-cross-entropy")
    driven = drive(operator, [ROW], lambda ask: SAID)
    assert [[ask.to for ask in asks] for asks in driven.rounds] == [["a", "b"]]
    assert {ask.reading for ask in driven.asks} == {Reading("sampled", 12)}
    assert len(driven.rows[0].keys) == 3
    assert operator.fusion == "min-cross-entropy"
    assert parse(fuse="min-cross-entropy").fusion is None


def test_the_scene_says_who_one_teacher_is(drive):
    driven = drive(parse(), [ROW], lambda ask: SAID, Scene(None, actor="judge"))
    assert driven.asks[0].to == "judge"


def test_what_it_needs_is_what_the_form_is():
    assert parse().needs == {Signal.TOP_K}
    assert parse(form="sampled").needs == parse(form="full").needs == {Signal.LOGITS}


def test_a_row_without_an_answer_is_rejected(drive):
    driven = drive(parse(), [Row("r2", (Message("user", "Why?"),))], lambda ask: SAID)
    assert [one.reason for one in driven.rejected] == ["no answer to read"]
    assert not driven.asks


def test_an_answer_without_signals_is_rejected(drive):
    driven = drive(parse(), [ROW], lambda ask: Answer("", True, 9, 0))
    assert [one.reason for one in driven.rejected] == ["no signals in the answer"]


def test_whole_distributions_have_no_k():
    assert parse(form="full", k=5).reading == parse(form="full", k=64).reading == Reading("full")


@pytest.mark.parametrize("wrong", [{"k": 0}, {"form": "top"}, {"combine": "consensus", "by": ["a", "b"]}, {"fuse": "sum"}])
def test_wrong_fields_are_refused(wrong):
    with pytest.raises((KdbuildError, ValueError)):
        parse(**wrong)
