"""The fake teacher's values of a schema."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field

from kdbuild.elicitors._structured import schema_of
from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask, Reading, _features
from kdbuild.teachers._invented import choice_logprobs, instance
from kdbuild.teachers.fake import Fake


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    word: str = Field(min_length=4, max_length=6)
    share: float = Field(gt=0, lt=1)


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    long: str = Field(min_length=300, max_length=400)
    letter: str = Field(max_length=1)
    colour: Colour
    verdict: Literal["yes", "no"]
    stars: int = Field(ge=1, le=5)
    odd: int = Field(gt=2, lt=4)
    below: int = Field(le=-3)
    good: bool
    maybe: int | None
    inner: list[Inner] = Field(min_length=2, max_length=3)
    tags: list[Annotated[str, Field(max_length=5)]] = Field(max_length=2)
    fixed: Literal["one"]


SCHEMAS = [schema_of(Form), json.dumps(Form.model_json_schema())]
QUESTIONS = [f"question {i}" for i in range(100)]


@pytest.mark.parametrize("schema", [json.loads(text) for text in SCHEMAS])
def test_every_value_follows_the_schema_and_they_differ(schema):
    values = [instance(schema, question) for question in QUESTIONS]
    for value in values:
        jsonschema.validate(value, schema)
        Form.model_validate_json(json.dumps(value))
    for field in ("name", "colour", "verdict", "stars", "good", "maybe", "tags", "inner"):
        assert len({json.dumps(value[field]) for value in values}) > 1, field
    assert values == [instance(schema, question) for question in QUESTIONS]


@pytest.mark.parametrize(
    "bad", [{"$ref": "#/$defs/gone"}, {"type": "nonsense"}, {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}]
)
def test_a_schema_that_leads_nowhere_is_refused(bad):
    with pytest.raises(ValueError, match="the schema"):
        instance(bad, "question")


def test_choices_are_a_distribution_whatever_their_order():
    found = [choice_logprobs(question, ("A", "B", "C")) for question in QUESTIONS]
    assert all(sum(map(math.exp, logprobs)) == pytest.approx(1, abs=1e-5) for logprobs in found)
    assert {max(range(3), key=logprobs.__getitem__) for logprobs in found} == {0, 1, 2}
    for question, (a, b, c) in zip(QUESTIONS, found, strict=True):
        assert choice_logprobs(question, ("C", "A", "B")) == (c, a, b)


def answers(fake: Fake, asks: list[Ask]) -> list[Answer]:
    with fake.open(Path(), None) as session:
        return [answer for _, answer in sorted(session.generate(asks), key=lambda one: one[0])]


def ask(text: str, limit: int = 400, **more) -> Ask:
    return Ask("r", (Message("user", text),), limit, **more)


def test_the_fake_teacher_writes_forms_and_is_cut_in_them():
    whole, cut = answers(Fake(), [ask("x", schema=SCHEMAS[0]), ask("x", 10, schema=SCHEMAS[0])])
    jsonschema.validate(json.loads(whole.text), json.loads(SCHEMAS[0]))
    assert whole.ended
    assert (cut.ended, cut.num_new_tokens) == (False, 10)
    assert whole.text.startswith(cut.text)
    (refused,) = answers(Fake(), [ask("x", schema='{"type": "nonsense"}')])
    assert refused.failed.startswith("the schema cannot be followed")


def test_the_fake_teacher_stops():
    (whole,) = answers(Fake(), [ask("x")])
    middle = whole.text.split()[2]
    (stopped,) = answers(Fake(), [ask("x", stop=("never said", middle))])
    assert stopped.text == whole.text[: whole.text.index(middle)]
    assert stopped.ended
    assert stopped.num_new_tokens == 3


def test_the_fake_teachers_log_probability_falls_with_length():
    whole, cut = answers(Fake(), [ask("x"), ask("x", 3)])
    assert whole.logprob < cut.logprob < 0


def test_the_fake_teacher_reads_with_its_network_among_other_questions():
    turns = (Message("user", "Hi"), Message("assistant", "Good day", train=True))
    asks = [
        ask("x"),
        Ask("read", turns, reading=Reading("top-k", k=4)),
        ask("y", choices=("a", "b")),
        Ask("hidden", turns, reading=Reading("hidden", layers=(0, -1))),
    ]
    text, top, choice, hidden = answers(Fake(num_layers=2, hidden_size=16), asks)
    assert text.text
    assert len(choice.logprobs) == 2
    found = _features.decode(top.payload)
    _, tokenizer = Fake().load(Path(), None)
    assert tokenizer.decode(found.token_ids_T.tolist()) == "Good day<|im_end|>"
    assert found.ids_TK.shape == (9, 4)
    assert _features.decode(hidden.payload).states[-1].shape == (9, 16)
