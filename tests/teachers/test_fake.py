"""The fake teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask, row_key
from kdbuild.teachers.fake import Fake


def answers(fake: Fake, asks: list[Ask], root: Path = Path()) -> list[Answer]:
    with fake.open(root, None) as session:
        return [answer for _, answer in sorted(session.generate(asks))]


def ask(text: str, limit: int = 100, row: str = "r", **more) -> Ask:
    return Ask(row, (Message("user", text),), limit, **more)


ASKS = [ask(f"question {i}") for i in range(200)]


def test_lengths_vary_and_a_token_is_a_word():
    found = answers(Fake(), ASKS)
    words = [len(answer.text.split()) for answer in found]
    assert min(words) == 3
    assert max(words) == 40
    assert all(answer.ended and answer.num_new_tokens == count + 1 for answer, count in zip(found, words, strict=True))
    assert found[0].num_prompt_tokens == 2
    assert len({answer.text for answer in found}) == 200


def test_text_does_not_depend_on_the_revision_or_the_row():
    assert answers(Fake(), ASKS[:5]) == answers(Fake(revision="2", model="other", num_layers=2), ASKS[:5])
    assert answers(Fake(), [ask("x", row="a")]) == answers(Fake(), [ask("x", row="b")])
    assert answers(Fake(), [ask("x")]) != answers(Fake(), [ask("x", sample=1)])
    assert answers(Fake(), [ask("x", temperature=1.0, row="a")]) != answers(Fake(), [ask("x", temperature=1.0, row="b")])


def test_it_is_cut_at_the_limit():
    def said(answer: str, limit: int) -> Answer:
        (found,) = answers(Fake(answer=answer), [ask("x", limit)])
        return replace(found, logprob=None)

    assert said("one two three", 4) == Answer("one two three", True, 1, 4)
    assert said("one two three", 3) == Answer("one two three", False, 1, 3)
    assert said("one two three", 2) == Answer("one two", False, 1, 2)
    assert said("", 2) == Answer("", True, 1, 1)


def test_a_share_of_the_questions_fails_always_the_same():
    first = answers(Fake(fail_frac=0.25), ASKS)
    assert 30 <= sum(answer.failed is not None for answer in first) <= 70
    assert answers(Fake(fail_frac=0.25), ASKS) == first
    assert all(answer.failed for answer in answers(Fake(fail_frac=1.0), ASKS[:5]))


def test_calls_are_logged_with_row_and_key(tmp_path):
    fake = Fake(calls_log="calls.log")
    answers(fake, ASKS[:3], tmp_path)
    keys = [row_key(fake.answer_identity(tmp_path), one) for one in ASKS[:3]]
    assert (tmp_path / "calls.log").read_text().splitlines() == [f"r\t{key}" for key in keys]


def test_the_network_is_a_function_of_its_fields():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, tokenizer = Fake().load(Path(), None)
    assert torch.equal(before, torch.random.get_rng_state())
    same, _ = Fake(revision="2").load(Path(), None)
    other, _ = Fake(seed=1).load(Path(), None)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert len(one.model.layers) == 4
    text = "naïve – 日本\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
