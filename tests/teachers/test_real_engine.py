"""The engine on the real SmolLM2-135M-Instruct: answers of a form, and given answers, against plain transformers."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from kdbuild.elicitors._structured import schema_of
from kdbuild.records import Message
from kdbuild.teachers import Ask
from kdbuild.teachers.transformers import Transformers

pytestmark = pytest.mark.real

LIMIT = 320
"""Tokens that the longest card has: four for each character of its texts, drawn ones being of any script, and its frame."""
THINGS = ("oak", "river", "violin", "bicycle", "bridge", "volcano", "clock", "whale", "lantern", "library")
SIDES = ("its use", "its history", "its shape", "a child's view of it", "what it is made of")


class Card(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: str = Field(max_length=20)
    explanation: str = Field(max_length=48)
    difficulty: int = Field(ge=1, le=5)
    audience: Literal["children", "students", "experts"]


def cards() -> list[Ask]:
    """Return 200 questions: half answered greedily, half drawn."""
    asks = []
    for i in range(200):
        thing, side = THINGS[i % 10], SIDES[i // 10 % 5]
        question = f"Write a card about the {thing}, on {side}, as JSON with title, explanation, difficulty and audience."
        asks.append(
            Ask(f"card-{i}", (Message("user", question),), LIMIT, temperature=i // 50 % 2 * 0.7, sample=i // 100, schema=schema_of(Card))
        )
    return asks


@pytest.fixture(scope="module")
def teacher(smollm2):
    return Transformers(model="path:model", device="cpu", batch_tokens=32768), smollm2


def test_two_hundred_answers_of_a_form_are_all_valid(teacher, tmp_path):
    kind, weights = teacher
    asks = cards()
    with kind.open(tmp_path, weights) as session:
        found = [answer for _, answer in sorted(session.generate(asks), key=lambda one: one[0])]
    read = [Card.model_validate_json(answer.text) for answer in found]
    assert all(answer.ended for answer in found)
    assert len({card.title for card in read}) > 20
    assert len({card.difficulty for card in read}) > 1
    assert all(answer.logprob < 0 for answer in found)


def test_choices_are_those_of_a_plain_pass(teacher, tmp_path):
    kind, weights = teacher
    choices = ("yes", "no", "I am not sure about that", "A", "B", "10", "twelve")
    questions = [f"Is {'very ' * (i % 4)}cold water ice? Number {i}." for i in range(12)]
    asks = [Ask(f"row-{i}", (Message("user", question),), choices=choices[i % 3 :]) for i, question in enumerate(questions)]
    with kind.open(tmp_path, weights) as session:
        found = dict(session.generate(asks))
    model, tokenizer = kind.load(tmp_path, weights)
    for i, ask in enumerate(asks):
        turns = [{"role": m.role, "content": m.content} for m in ask.messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        for choice, logprob in zip(ask.choices, found[i].logprobs, strict=True):
            new = tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([prompt + new])).logits[0, len(prompt) - 1 : -1]
            expected = logits.double().log_softmax(-1).gather(1, torch.tensor(new)[:, None]).sum()
            assert logprob == pytest.approx(float(expected), abs=1e-4)
