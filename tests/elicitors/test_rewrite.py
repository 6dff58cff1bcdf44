"""The same in other words."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbuild.elicitors.rewrite import Rewrite
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

ROW = Row(
    "r1",
    (Message("system", "Be exact."), Message("user", "How tall is it?"), Message("assistant", "About 3 m.", train=True)),
    gold="3 m",
    label="height",
    context=({"doc_id": "d1", "text": "It is three metres tall.", "score": None}, {"doc_id": "d2", "text": "A tree.", "score": 0.5}),
)


def test_a_rewritten_prompt_is_a_child_that_keeps_the_label(drive):
    driven = drive(Rewrite(), [ROW], lambda ask: "Sure, here is it:\n\n“What is its height?”")
    (child,) = driven.rows
    assert "How tall is it?" in driven.asks[0].messages[0].content
    assert [m.content for m in child.messages] == ["Be exact.", "What is its height?", "About 3 m."]
    assert (child.parents, child.roots, child.label, child.gold) == (("r1",), ("r1",), "height", "3 m")
    assert child.meta == {"rewritten": "paraphrase"}
    assert child.id != "r1"


def test_a_rewritten_answer_replaces_the_trained_turn(drive):
    (row,) = drive(Rewrite(field="answer", mode="formalise"), [ROW], lambda ask: "It measures 3 m.").rows
    assert (row.id, row.answer, row.prompt) == ("r1", "It measures 3 m.", ROW.prompt)
    assert Rewrite(field="answer").writes == ("answer",)
    assert Rewrite(field="answer").reads == ("answer",)


def test_every_passage_is_rewritten(drive):
    driven = drive(
        Rewrite(field="context", mode="simplify"), [ROW], lambda ask: "Tall!" if "metres" in ask.messages[0].content else "Wood."
    )
    (row,) = driven.rows
    assert [(one["doc_id"], one["text"], one["score"]) for one in row.context] == [("d1", "Tall!", None), ("d2", "Wood.", 0.5)]
    assert len(driven.asks) == 2
    assert len(row.keys) == 2


def test_variants_are_samples_and_bad_ones_are_listed(drive):
    texts = ["One way?", "How tall is it", "", "I'm sorry, but I can't."]
    driven = drive(Rewrite(num_variants=4, temperature=1.0), [ROW], lambda ask: texts[ask.sample])
    assert [ask.sample for ask in driven.asks] == [0, 1, 2, 3]
    assert [row.messages[1].content for row in driven.rows] == ["One way?"]
    assert [one.reason for one in driven.dropped] == ["the same as before", "empty answer", "refusal"]
    assert [one.id for one in driven.dropped] == ["r1", "r1/2", "r1/3"]
    answers = drive(Rewrite(field="answer", num_variants=2, temperature=1.0), [ROW], lambda ask: texts[0] + str(ask.sample))
    assert len({row.id for row in answers.rows} - {"r1"}) == 2


def test_the_row_can_stay(drive):
    rows = drive(Rewrite(keep_original=True), [ROW], lambda ask: "What height?").rows
    assert rows[0] == ROW
    assert rows[1].parents == ("r1",)
    driven = drive(Rewrite(keep_original=True), [ROW], lambda ask: "")
    assert driven.rows == [ROW]
    assert [one.reason for one in driven.dropped] == ["empty answer"]


def test_code_is_taken_out_of_its_block(drive):
    row = Row("c", (Message("user", "Write it."), Message("assistant", "def f(x):return x", train=True)))
    said = "Here you go:\n```python\ndef same(value):\n    return value\n```\nIt is cleaner."
    (made,) = drive(Rewrite(field="answer", mode="clean-code"), [row], lambda ask: said).rows
    assert made.answer == "def same(value):\n    return value"


def test_language_and_own_instruction(drive):
    asked = drive(Rewrite(mode="translate", language="French"), [ROW], lambda ask: "Quelle hauteur ?").asks[0]
    assert "into French" in asked.messages[0].content
    own = drive(Rewrite(instruction="Turn it into a riddle."), [ROW], lambda ask: "I grow. How far?")
    assert "Turn it into a riddle." in own.asks[0].messages[0].content
    assert own.rows[0].meta == {"rewritten": "instruction"}


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (Row("x", (Message("user", "Hi"),)), "answer", "no answer to rewrite"),
        (Row("x", (Message("user", "Hi"),)), "context", "no context to rewrite"),
        (Row("x"), "prompt", "no question: the last turn is not the user's"),
    ],
)
def test_nothing_to_rewrite(drive, row, field, reason):
    assert [one.reason for one in drive(Rewrite(field=field), [row], lambda ask: "x").rejected] == [reason]


def test_a_cut_rewriting_is_no_rewriting(drive):
    assert drive(Rewrite(), [ROW], lambda ask: Answer("What is", False, 3, 2)).rejected[0].reason == "cut at the token limit"


@pytest.mark.parametrize("fields", [{"num_variants": 2}, {"mode": "translate"}, {"language": "French"}])
def test_specs_that_cannot_be(fields):
    with pytest.raises(ValidationError, match=r"temperature above 0|go together"):
        Rewrite(**fields)
