"""What every elicitor promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbuild import kinds
from kdbuild.elicitors import Answered, Elicitor, Rejected, Scene
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

ROW = Row("r1", (Message("user", "Name a tree."),))


@pytest.fixture(params=kinds.available("elicitors"))
def elicitor(request: pytest.FixtureRequest) -> Elicitor:
    cls = kinds.load("elicitors", request.param)
    required = {name: field.examples[0] for name, field in cls.model_fields.items() if field.is_required() and field.examples}
    return cls.model_validate({"kind": request.param, **required})


def talk(elicitor: Elicitor, row: Row, text: str) -> tuple[list[list], list[Row] | Rejected]:
    """Answer every question with `text`; return the questions and what came of them."""
    conversation, rounds, answers = elicitor.elicit(row, Scene(Path())), [], None
    try:
        while True:
            asks = list(next(conversation) if answers is None else conversation.send(answers))
            rounds.append(asks)
            answers = [Answered(Answer(text, True, 3, 4), f"{i:064x}") for i, _ in enumerate(asks)]
    except StopIteration as end:
        return rounds, end.value


def test_the_same_row_asks_the_same(elicitor):
    first, second = talk(elicitor, ROW, "An oak."), talk(elicitor, ROW, "An oak.")
    assert first == second
    rounds, _ = first
    assert rounds
    assert all(ask.row == "r1" for asks in rounds for ask in asks)


def test_rows_made_carry_keys_and_their_seed(elicitor):
    _, rows = talk(elicitor, ROW, "An oak.")
    assert rows
    assert all(row.keys for row in rows)
    assert all("r1" in (row.id, *row.roots) for row in rows)
    assert len({row.id for row in rows}) == len(rows)


def test_empty_answers_are_rejected_with_a_reason(elicitor):
    _, result = talk(elicitor, ROW, " ")
    assert isinstance(result, Rejected)
    assert result.reason


def test_asks_once_is_true(elicitor):
    rounds, _ = talk(elicitor, ROW, "An oak.")
    assert not elicitor.asks_once or len(rounds) == 1


def test_packaged_templates_are_there(elicitor):
    assert all(path.is_file() for path in elicitor.templates())


def test_identity_reads_back(elicitor):
    assert kinds.parse("elicitors", elicitor.identity()) == elicitor
