"""Reading hidden states."""

import pytest

from kdbuild import kinds
from kdbuild.errors import KdbuildError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Reading, Signal

ROW = Row("r1", (Message("user", "Why?"), Message("assistant", "So.", train=True)))


def parse(**fields):
    return kinds.parse("elicitors", {"kind": "hidden", **fields})


def test_the_teacher_reads_the_layers_asked_for(drive):
    operator = parse(layers=[0, -1], attention=True, dtype="float32")
    driven = drive(operator, [ROW], lambda ask: Answer("", True, 9, 0, payload=b"said"))
    (ask,) = driven.asks
    assert ask.reading == Reading("hidden", layers=(0, -1), attention=True, dtype="float32")
    assert ask.messages == ROW.messages
    assert [row.id for row in driven.rows] == ["r1"]
    assert operator.needs == {Signal.HIDDEN}


def test_the_precision_is_part_of_the_question(drive):
    asks = [drive(parse(dtype=d), [ROW], lambda ask: Answer("", True, 9, 0, payload=b"s")).asks[0] for d in ("float16", "float32")]
    assert asks[0].material() != asks[1].material()


@pytest.mark.parametrize("wrong", [{"layers": []}, {"layers": [1, 1]}, {"by": ["a", "b"]}, {"dtype": "int8"}, {"combine": "union"}])
def test_wrong_fields_are_refused(wrong):
    with pytest.raises((KdbuildError, ValueError)):
        parse(**wrong)
