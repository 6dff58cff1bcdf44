"""The likelihood of given answers, against a plain pass of the model over the same tokens."""

from __future__ import annotations

import copy

import pytest
import torch

from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask, Signal, _batch, _choose, row_key
from kdbuild.teachers._generate import Engine

LONG = "In the old town a river runs between two rows of stone houses, and in winter its water freezes. " * 3
TEXTS = ("yes", "An oak.", LONG, "Ein Fluß fließt — 河が流れる。", "no")
QUESTION = (Message("system", "Answer well."), Message("user", "What do you see?"))


def answers(network, asks: list[Ask], batch_tokens: int = 16384) -> list[Answer]:
    return [answer for _, answer in sorted(Engine(*network, batch_tokens=batch_tokens).generate(asks), key=lambda one: one[0])]


def plainly(network, before: list[int], text: str) -> tuple[float, int]:
    """Return the log-probability of a text and its number of tokens, by one pass over one row."""
    model, tokenizer = network
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logprob_TV = model(torch.tensor([before + ids])).logits[0].double().log_softmax(-1)
    return sum(float(logprob_TV[len(before) + i - 1, token]) for i, token in enumerate(ids)), len(ids)


def prompt_of(network, messages) -> list[int]:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    return network[1](network[1].apply_chat_template(turns, tokenize=False, add_generation_prompt=True), add_special_tokens=False)[
        "input_ids"
    ]


@pytest.mark.parametrize("batch_tokens", [16384, 500])
def test_texts_after_a_conversation_and_on_their_own(network, batch_tokens):
    asks = [Ask(f"r{i}", messages, choices=(text,)) for i, text in enumerate(TEXTS) for messages in (QUESTION, (), QUESTION[:1])]
    first = network[1].bos_token_id if network[1].bos_token_id is not None else network[1].eos_token_id
    for ask, answer in zip(asks, answers(network, asks, batch_tokens), strict=True):
        before = prompt_of(network, ask.messages) if len(ask.messages) == 2 else [first]
        logprob, count = plainly(network, before, ask.choices[0])
        assert answer.logprobs == (pytest.approx(logprob, abs=2e-3, rel=1e-5),)
        assert (answer.num_choice_tokens, answer.num_prompt_tokens, answer.num_new_tokens) == ((count,), len(before), 0)


def test_several_choices_are_each_as_likely_as_alone(network):
    (together,) = answers(network, [Ask("r", QUESTION, choices=TEXTS)])
    alone = answers(network, [Ask(f"r{i}", QUESTION, choices=(text,)) for i, text in enumerate(TEXTS)])
    assert together.logprobs == pytest.approx([one.logprobs[0] for one in alone], abs=2e-3)
    assert together.num_choice_tokens == tuple(one.num_choice_tokens[0] for one in alone)


def test_a_long_text_is_read_in_pieces_of_bounded_size(network, monkeypatch):
    model, _ = network
    asks = [Ask("long", QUESTION, choices=(LONG,)), Ask("several", QUESTION, choices=(LONG, "no")), Ask("short", (), choices=("no",))]
    whole = answers(network, asks)
    seen = []
    forward = model.forward

    def watched(**given):
        out = forward(**given)
        seen.append(out.logits.numel())
        return out

    most = 40 * _batch.num_words(model)
    for module in (_batch, _choose):
        monkeypatch.setattr(module, "MOST_NUMBERS", most)
    monkeypatch.setattr(model, "forward", watched)
    pieces = answers(network, asks)
    assert max(seen) <= most
    assert len(seen) > len(LONG) / 40
    for one, other in zip(whole, pieces, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-3)


def test_a_text_that_cannot_be_read_fails_alone(network):
    model, tokenizer = network
    found = answers(network, [Ask("long", (), choices=("x" * 100_000,)), Ask("none", (), choices=("",)), Ask("good", (), choices=("yes",))])
    assert "more than the model's 4096 positions" in found[0].failed
    assert found[1].failed == "a choice has no tokens"
    assert found[2].failed is None
    without = copy.deepcopy(tokenizer)
    without.bos_token = without.eos_token = None
    (answer,) = answers((model, without), [Ask("r", (), choices=("yes",))])
    assert "no token that a text begins with" in answer.failed


def test_what_a_question_with_choices_needs():
    assert Ask("r", QUESTION, choices=("yes", "no")).needs is Signal.CHOICES
    assert Ask("r", QUESTION, choices=("yes",)).needs is Signal.LIKELIHOOD
    assert Ask("r", (), choices=("yes", "no")).needs is Signal.LIKELIHOOD
    assert Ask("r", QUESTION[:1], choices=("yes", "no")).needs is Signal.LIKELIHOOD
    assert row_key({}, Ask("r", (), choices=("yes",))) != row_key({}, Ask("r", QUESTION, choices=("yes",)))
