"""Queries, questions, instructions, tasks, calls, summaries and dialogues of documents."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene
from kdbuild.elicitors.doc2x import Doc2x
from kdbuild.errors import SpecError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

TEXT = "The Nile is 6,650 km long. It ends in the Mediterranean Sea."
DOC = Row("d", context=({"doc_id": "d", "text": TEXT, "score": None},), meta={"document": "rivers.md"})
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
        "model_config": {"type": "boolean"},
        "spots": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["city", "days", "unit", "model_config", "spots"],
}
TOOL = {"name": "forecast", "description": "Weather to come.", "parameters": json.dumps(PARAMETERS)}


def reply(**fields):
    return lambda ask: json.dumps(fields)


def user(text):
    return Message("user", text)


def learned(text, ended=True):
    return Message("assistant", text, train=True, ended=ended)


# --- what is made ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("emit", ["query", "task"])
def test_a_prompt_alone(drive, emit):
    (row,) = drive(Doc2x(emit=emit), [DOC], lambda ask: "length of the Nile").rows
    assert (row.messages, row.context, row.parents, row.answer) == ((user("length of the Nile"),), DOC.context, ("d",), None)


def test_a_question_comes_with_its_answer(drive):
    driven = drive(Doc2x(), [DOC], reply(question="How long is the Nile?", answer="6,650 km"))
    (row,) = driven.rows
    assert row.messages == (user("How long is the Nile?"), learned("6,650 km"))
    assert (row.gold, row.context, row.meta) == ("6,650 km", DOC.context, {})
    said = driven.asks[0].messages[-1].content
    assert TEXT in said
    assert "rivers.md" not in said


def test_an_extractive_answer_stands_in_the_document(drive):
    operator = Doc2x(extractive=True)
    assert len(drive(operator, [DOC], reply(question="Where?", answer="in the  mediterranean sea.")).rows) == 1
    driven = drive(operator, [DOC], reply(question="How long?", answer="6,651 km"))
    assert [one.reason for one in driven.rejected] == ["an answer that is not in the document"]


def test_a_document_is_the_answer_to_its_instruction(drive):
    (row,) = drive(Doc2x(emit="instruction"), [DOC], lambda ask: "Tell me about the Nile.").rows
    assert row.messages == (user("Tell me about the Nile."), learned(TEXT))


def test_a_summary_is_learned_under_the_document(drive):
    driven = drive(Doc2x(emit="summary"), [DOC], lambda ask: Answer(" A long river, ", False, 3, 5))
    assert driven.rows[0].messages == (
        user(f"Summarise this text in one or two sentences:\n\n{TEXT}"),
        learned("A long river,", ended=False),
    )
    assert driven.asks[0].schema is None


def test_a_dialogue_learns_every_answer(drive):
    turns = [{"user": "How long is it?", "assistant": "6,650 km."}, {"user": "Where does it end?", "assistant": "In the sea."}]
    driven = drive(Doc2x(emit="dialogue"), [DOC], reply(turns=turns))
    assert driven.rows[0].messages == (user("How long is it?"), learned("6,650 km."), user("Where does it end?"), learned("In the sea."))
    assert "2 questions" in driven.asks[0].messages[-1].content
    assert [one.reason for one in drive(Doc2x(emit="dialogue"), [DOC], reply(turns=turns[:1])).rejected] == [
        "not JSON of the form asked for"
    ]
    blank = [turns[0], {"user": " ", "assistant": "x"}]
    assert [one.reason for one in drive(Doc2x(emit="dialogue"), [DOC], reply(turns=blank)).rejected] == ["an empty text in the answer"]


def test_the_document_can_stand_in_the_prompt(drive):
    (row,) = drive(Doc2x(show_document=True), [DOC], reply(question="How long is it?", answer="6,650 km")).rows
    assert row.messages[0] == user(f"{TEXT}\n\nHow long is it?")


# --- documents ---------------------------------------------------------------------------------------------------------------


def test_each_passage_is_a_document(drive):
    row = Row("two", context=({"doc_id": "a", "text": "One.", "score": None}, {"doc_id": "b", "text": "Two.", "score": 0.5}))
    driven = drive(
        Doc2x(emit="query", per_row=2), [row], lambda ask: json.dumps({"query": f"{ask.sample} {ask.messages[0].content[:12]!r}"})
    )
    assert [made.context[0]["doc_id"] for made in driven.rows] == ["a", "a", "b", "b"]
    assert [ask.sample for ask in driven.asks] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("of", "row", "expected"),
    [
        ("media", Row("m", media={"type": "photo", "path": "a.png", "text_view": "A red bus."}), "Photo (in words):\nA red bus."),
        ("program", Row("p", program="print(1)"), "Code:\nprint(1)"),
        ("tool", Row("t", tool=TOOL), "Documentation:\nname: forecast\ndescription: Weather to come."),
    ],
)
def test_other_documents_are_kept_and_shown(drive, of, row, expected):
    operator = Doc2x(of=of)
    driven = drive(operator, [row], reply(question="What is it?", answer="It is."))
    assert driven.asks[0].messages[-1].content.startswith(expected)
    assert getattr(driven.rows[0], of) == getattr(row, of)
    assert (operator.reads, operator.writes) == ((of,), ("answer", "gold", of))
    assert [one.reason for one in drive(operator, [Row("none")], reply()).rejected] == [f"no {of} to ask about"]


def test_examples_are_shown_and_named_by_their_line(drive, tmp_path):
    path = tmp_path / "shots.jsonl"
    path.write_text('{"document": "The Rhine is 1,230 km long.", "text": "how long is the rhine"}\n\n')
    operator = Doc2x(emit="query", examples="shots.jsonl")
    driven = drive(operator, [DOC], lambda ask: "x", Scene(tmp_path))
    assert driven.asks[0].messages[0].content.startswith("Text:\nThe Rhine is 1,230 km long.\n\nQuery: how long is the rhine\n\nText:\n")
    assert operator.files() == ("shots.jsonl",)
    for text, message in [('{"document": "x"}', "shots.jsonl:1 is not an example"), ("\n", "holds no examples"), ("[", "shots.jsonl:1")]:
        path.write_text(text)
        with pytest.raises(SpecError, match=message):
            drive(operator, [DOC], lambda ask: "x", Scene(tmp_path))
    with pytest.raises(ValidationError, match="goes up"):
        Doc2x(examples="../shots.jsonl")


# --- calls -------------------------------------------------------------------------------------------------------------------

ARGUMENTS = {"city": "Oslo", "days": 3, "unit": "C", "model_config": True, "spots": [1.5, 2]}


def test_a_call_is_the_answer_to_a_request(drive):
    operator = Doc2x(emit="call")
    driven = drive(operator, [Row("t", tool=TOOL)], reply(request="Three days of Oslo, in C.", arguments=ARGUMENTS))
    (row,), (ask,) = driven.rows, driven.asks
    assert row.prompt == (user("Three days of Oslo, in C."),)
    assert json.loads(row.answer) == {"name": "forecast", "arguments": ARGUMENTS}
    assert (row.tool, row.gold) == (TOOL, row.answer)
    jsonschema.validate(json.loads(row.answer)["arguments"], PARAMETERS)
    schema = json.loads(ask.schema)["properties"]["arguments"]
    assert schema["required"] == list(PARAMETERS["properties"])
    assert (schema["properties"]["city"]["maxLength"], schema["properties"]["days"]["maximum"]) == (60, 14)
    assert (operator.reads, operator.writes) == (("tool",), ("answer", "gold", "tool"))


@pytest.mark.parametrize(
    "change", [{"days": 15}, {"days": "3"}, {"unit": "K"}, {"spots": []}, {"city": ""}, {"more": 1}, {"days": 1e400}, {"model_config": 1}]
)
def test_a_call_that_the_signature_does_not_admit_is_rejected(drive, change):
    text = json.dumps({"request": "Three days.", "arguments": {**ARGUMENTS, **change}})
    driven = drive(Doc2x(emit="call"), [Row("t", tool=TOOL)], lambda ask: text)
    assert [one.reason for one in driven.rejected] == ["not JSON of the form asked for"]


def test_what_may_be_left_out_sometimes_is(drive):
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]}
    asked = [
        next(Doc2x(emit="call").elicit(Row(f"t{i}", tool={"name": "f", "parameters": json.dumps(schema)}), Scene(Path())))
        for i in range(40)
    ]
    fields = [tuple(json.loads(ask.schema)["properties"]["arguments"]["properties"]) for (ask,) in asked]
    assert set(fields) == {("a",), ("a", "b")}
    assert 10 < fields.count(("a",)) < 30


@pytest.mark.parametrize(
    "parameters", ['{"properties": {"x": {"type": "object"}}, "required": ["x"]}', '{"required": ["x"]}', "[", "[]", '{"properties": []}']
)
def test_parameters_that_cannot_be_written_are_rejected(drive, parameters):
    driven = drive(Doc2x(emit="call"), [Row("t", tool={"name": "f", "parameters": parameters})], reply())
    assert [one.reason for one in driven.rejected] == ["parameters that no call can be written for"]


def test_parameters_without_a_type_or_of_several_hold_texts_numbers_or_lists(drive):
    schema = {"properties": {"data": {}, "n": {"anyOf": [{"type": "integer"}, {"type": "object"}]}}, "required": ["data", "n"]}
    tool = {"name": "mean", "parameters": json.dumps(schema)}
    for data in ([1, 2.5], "x", 3):
        (row,) = drive(Doc2x(emit="call"), [Row("t", tool=tool)], reply(request="The mean.", arguments={"data": data, "n": 1})).rows
        assert json.loads(row.answer)["arguments"]["data"] == data
    driven = drive(Doc2x(emit="call"), [Row("t", tool=tool)], reply(request="The mean.", arguments={"data": {}, "n": 1}))
    assert [one.reason for one in driven.rejected] == ["not JSON of the form asked for"]


def test_a_call_without_arguments(drive):
    (row,) = drive(Doc2x(emit="call"), [Row("t", tool={"name": "now"})], reply(request="What time is it?", arguments={})).rows
    assert json.loads(row.answer) == {"name": "now", "arguments": {}}


# --- the rest ----------------------------------------------------------------------------------------------------------------


def test_templates_are_those_of_what_is_made():
    assert {path.stem for path in Doc2x(emit="summary", show_document=True).templates()} == {"summary", "summary-prompt", "shown"}
    assert {path.stem for path in Doc2x(emit="call").templates()} == {"call"}


def test_the_forms_fit_the_default_limit():
    operator = Doc2x()
    assert (operator.max_prompt_chars + operator.max_answer_chars) / 2 < operator.max_new_tokens
    assert 2 * operator.num_turns * operator.max_turn_chars / 2 < operator.max_new_tokens
