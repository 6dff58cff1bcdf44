"""New rows of topics, labels and what else there is to know about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdbuild.elicitors import Scene
from kdbuild.elicitors.curate import Curate
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

TOPIC = Row("t", meta={"kind": "topic", "value": "tides", "level": "school"})


def reply(**fields):
    return lambda ask: json.dumps(fields)


@pytest.mark.parametrize("emit", ["instruction", "goal"])
def test_a_prompt_about_a_topic(drive, emit):
    driven = drive(Curate(emit=emit), [TOPIC], lambda ask: ' Question: "Why are there two tides a day?" ')
    (row,), (ask,) = driven.rows, driven.asks
    assert row.messages == (Message("user", "Why are there two tides a day?"),)
    assert (row.parents, row.roots, row.meta, row.keys) == (("t",), ("t",), TOPIC.meta, row.keys)
    assert len(row.keys) == 1
    assert 'the topic "tides".\nlevel: school\nReply' in ask.messages[-1].content
    assert (ask.schema, ask.stop) == (None, ("\n\n",))


def test_a_pair_is_learned(drive):
    driven = drive(Curate(emit="pair"), [TOPIC], reply(question="What pulls the sea?", answer="The moon."))
    assert driven.rows[0].messages == (Message("user", "What pulls the sea?"), Message("assistant", "The moon.", train=True))
    assert Curate(emit="pair").writes == ("answer", "meta")


def test_a_sample_has_its_label(drive):
    label = Row("l", meta={"kind": "label", "value": "negative", "task": "film review"})
    driven = drive(Curate(emit="sample"), [label], lambda ask: "I left after ten minutes.")
    (row,) = driven.rows
    assert (row.prompt[-1].content, row.label, row.gold, row.answer) == ("I left after ten minutes.", "negative", "negative", None)
    assert "task: film review" in driven.asks[0].messages[-1].content


def test_a_passage_is_the_answer_to_a_short_instruction(drive):
    driven = drive(Curate(emit="passage"), [TOPIC], lambda ask: Answer("The moon pulls.\n\nSo it", False, 9, 256))
    (row,), (ask,) = driven.rows, driven.asks
    assert row.messages == (Message("user", "Explain tides."), Message("assistant", "The moon pulls.\n\nSo it", train=True, ended=False))
    assert ask.schema is None


def test_several_rows_are_asked_at_once_each_a_sample_of_its_own(drive):
    texts = iter(["Why?", "How?", "Why?"])
    driven = drive(Curate(per_row=3), [TOPIC], lambda ask: next(texts))
    assert [len(asks) for asks in driven.rounds] == [3]
    assert len({ask.seed for ask in driven.asks}) == 3
    assert [row.prompt[0].content for row in driven.rows] == ["Why?", "How?"]
    (dropped,) = driven.dropped
    assert (dropped.reason, dropped.because_of, dropped.text) == ("said before", driven.rows[0].id, "Why?")
    assert dropped.id != driven.rows[0].id


def test_personas_are_drawn_by_row_and_number_and_one_more_changes_few(drive):
    rows = [Row(f"t{i}", meta={"value": "tides"}) for i in range(40)]
    personas = ["a sailor", "a child", "a teacher"]

    def asked(personas):
        driven = drive(Curate(personas=personas, per_row=2), rows, lambda ask: "Why are there tides?")
        return [ask.messages[-1].content for ask in driven.asks]

    before, after = asked(personas), asked([*personas, "a poet"])
    assert {next(p for p in personas if p in text) for text in before} == set(personas)
    assert all(one == other or "a poet" in other for one, other in zip(before, after, strict=True))
    assert 5 < sum("a poet" in text for text in after) < 40


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("Why?", True, 3, 3), "not JSON of the form asked for"),
        (Answer('{"question": "Wh', False, 3, 3), "cut at the token limit"),
        (Answer('{"question": "Why?", "answer": "  "}', True, 3, 3), "an empty text in the answer"),
        (Answer('{"question": "x", "answer": "y"}' * 2, True, 3, 3), "not JSON of the form asked for"),
    ],
)
def test_an_answer_of_another_form_is_rejected(drive, answer, reason):
    driven = drive(Curate(emit="pair"), [TOPIC], lambda ask: answer)
    assert ([one.reason for one in driven.rejected], driven.rows) == ([reason], [])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("Why are", False, 3, 3), "cut at the token limit"),
        (Answer("Why " * 90, True, 3, 3), "longer than `max_prompt_chars`"),
        (Answer(' "" ', True, 3, 3), "empty answer"),
        (Answer("Task: ", True, 3, 3), "empty answer"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_rejected(drive, answer, reason):
    driven = drive(Curate(), [TOPIC], lambda ask: answer)
    assert ([one.reason for one in driven.rejected], driven.rows) == ([reason], [])


def test_of_several_bad_answers_each_is_listed(drive):
    driven = drive(Curate(emit="pair", per_row=2), [TOPIC], lambda ask: "no")
    assert [dropped.reason for dropped in driven.dropped] == ["not JSON of the form asked for"] * 2
    assert len({dropped.id for dropped in driven.dropped}) == 2


def test_an_empty_passage_or_a_row_without_a_value_is_rejected(drive):
    assert [one.reason for one in drive(Curate(emit="passage"), [TOPIC], lambda ask: " \n").rejected] == ["empty answer"]
    driven = drive(Curate(), [Row("x", meta={"kind": "topic"})], reply())
    assert ([one.reason for one in driven.rejected], driven.asks) == (["no `value` in its meta"], [])


def test_templates_are_those_of_what_is_made(drive, tmp_path):
    assert {path.stem for path in Curate(emit="passage").templates()} == {"passage", "passage-prompt"}
    assert {path.stem for path in Curate(emit="goal").templates()} == {"goal"}
    (tmp_path / "own.j2").write_text("Ask of {{ meta.value }} ({{ meta.kind }}) as {{ persona }}.")
    operator = Curate(template="own.j2", personas=["a child"])
    driven = drive(operator, [TOPIC], lambda ask: "Why?", Scene(tmp_path))
    assert driven.asks[0].messages[-1].content == "Ask of tides (topic) as a child."
    assert (operator.files(), operator.templates()) == (("own.j2",), ())


def test_the_forms_fit_the_default_limit():
    operator = Curate(emit="pair")
    assert (operator.max_prompt_chars + operator.max_answer_chars) / 2 < operator.max_new_tokens
    schema = json.loads(next(operator.elicit(TOPIC, Scene(Path())))[0].schema)
    assert {name: one["maxLength"] for name, one in schema["properties"].items()} == {"question": 300, "answer": 200}
    assert list(schema["properties"]) == ["question", "answer"]  # a question is written before its answer
