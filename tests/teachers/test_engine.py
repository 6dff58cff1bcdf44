"""What a local model's engine does beyond plain text: schemas, stops, choices, readings, and questions that come while it answers."""

from __future__ import annotations

import json

import jsonschema
import pytest
import torch

from kdbuild import canonical
from kdbuild.records import Message
from kdbuild.teachers import Ask
from kdbuild.teachers._generate import Engine

SCHEMA = canonical.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "verdict": {"enum": ["good", "bad"]},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 2},
        },
        "required": ["name", "verdict", "stars", "tags"],
        "additionalProperties": False,
    }
)


def ask(text: str, limit: int = 10, **more) -> Ask:
    return Ask(more.pop("row", text), (Message("user", text),), limit, **more)


def answers(network, asks, **more):
    return [answer for _, answer in sorted(Engine(*network, **more).generate(asks), key=lambda one: one[0])]


def prompt_ids(tokenizer, ask):
    turns = [{"role": m.role, "content": m.content} for m in ask.messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def logprobs_of(network, ids: list[int], num_new: int) -> list[float]:
    """Return the log-probability of each of the last `num_new` ids, by one plain pass."""
    model, _ = network
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [float(logits[t - 1, ids[t]]) for t in range(len(ids) - num_new, len(ids))]


# --- schemas ---------------------------------------------------------------------------------------------------------------


def test_answers_follow_their_schema_beside_others_that_have_none(network, alike):
    plain = [ask(f"plain {i}") for i in range(8)]
    drawn = [ask(f"form {i}", 400, schema=SCHEMA, temperature=1.0) for i in range(8)]
    greedy = [ask(f"greedy {i}", 400, schema=SCHEMA) for i in range(8)]
    found = answers(network, [*plain, *drawn, *greedy], batch_tokens=6000)
    assert alike(found[:8], answers(network, plain))
    values = [json.loads(answer.text) for answer in found[8:]]
    for value in values:
        jsonschema.validate(value, json.loads(SCHEMA))
    assert all(answer.ended for answer in found[8:])
    assert len({answer.text for answer in found[8:16]}) > 4
    assert alike(found[8:], answers(network, [*drawn, *greedy], batch_tokens=1))


def test_an_answer_cut_in_its_schema_has_not_ended(network):
    whole, cut = answers(network, [ask("form", 400, schema=SCHEMA), ask("form", 20, schema=SCHEMA)])
    assert not cut.ended
    assert cut.num_new_tokens == 20
    assert whole.text.startswith(cut.text.rstrip("\ufffd"))


def test_a_schema_that_is_none_fails_its_row_alone(network):
    bad, good = answers(network, [ask("a", schema='{"type": "nonsense"}'), ask("b")])
    assert bad.failed.startswith("the schema cannot be followed")
    assert good.failed is None


# --- stops and log-probabilities -------------------------------------------------------------------------------------------


def test_an_answer_ends_before_the_first_of_its_stops(network, alike):
    (whole,) = answers(network, [ask("Say much.", 60)])
    assert len(whole.text) > 30
    late, early = whole.text[25:28], whole.text[10:14]
    first = min(whole.text.find(late), whole.text.find(early))
    stopped, never = answers(network, [ask("Say much.", 60, stop=(late, early)), ask("Say much.", 60, stop=("\0never",))])
    assert stopped.text == whole.text[:first]
    assert stopped.ended
    assert stopped.num_new_tokens < whole.num_new_tokens
    assert alike([never], [whole])


def test_a_stop_beside_the_beginning_leaves_nothing(network):
    (whole,) = answers(network, [ask("Say much.", 60)])
    (nothing,) = answers(network, [ask("Say much.", 60, stop=(whole.text[0],))])
    assert (nothing.text, nothing.ended) == ("", True)


@pytest.mark.parametrize("more", [{}, {"temperature": 0.8, "top_p": 0.9}, {"schema": SCHEMA}])
def test_the_log_probability_is_the_models_own(network, more):
    """Not the tempered, cut or masked one: what one plain pass over prompt and answer gives."""
    asks = [ask(f"Tell me {'more ' * i}.", 12, **more) for i in range(6)]
    _, tokenizer = network
    for one, answer in zip(asks, answers(network, asks), strict=True):
        if "\ufffd" in answer.text or answer.ended:
            continue  # its tokens cannot be had from its text
        new = tokenizer(answer.text, add_special_tokens=False)["input_ids"]
        assert len(new) == answer.num_new_tokens
        assert answer.logprob == pytest.approx(sum(logprobs_of(network, prompt_ids(tokenizer, one) + new, len(new))), abs=1e-4)


# --- choices ---------------------------------------------------------------------------------------------------------------


def test_choices_have_the_log_probability_of_the_whole_continuation(network):
    _, tokenizer = network
    choices = [("A", "B"), ("yes", "no", "perhaps not"), ("x", "longer than the others by far", "<|im_end|>")]
    asks = [ask("Which?" * (i + 1), choices=choices[i % 3]) for i in range(7)]
    for batch_tokens in (1, 300, 10_000):
        for one, answer in zip(asks, answers(network, asks, batch_tokens=batch_tokens), strict=True):
            ids = prompt_ids(tokenizer, one)
            assert (answer.text, answer.ended, answer.num_new_tokens, answer.num_prompt_tokens) == ("", True, 0, len(ids))
            for choice, logprob in zip(one.choices, answer.logprobs, strict=True):
                new = tokenizer(choice, add_special_tokens=False, split_special_tokens=True)["input_ids"]
                assert logprob == pytest.approx(sum(logprobs_of(network, ids + new, len(new))), abs=1e-4)


def test_a_special_token_spelt_out_in_a_choice_is_text(network):
    (answer,) = answers(network, [ask("Which?", choices=("<|im_end|>",))])
    _, tokenizer = network
    end = logprobs_of(network, [*prompt_ids(tokenizer, ask("Which?")), tokenizer.eos_token_id], 1)
    assert answer.logprobs[0] < end[0] - 1


def test_choices_that_cannot_be_asked(network):
    empty, long = answers(network, [ask("a", choices=("x", "")), ask("b", choices=("x", "y" * 5000))])
    assert empty.failed == "a choice has no tokens"
    assert "more than the model's 4096 positions" in long.failed


# --- questions that come meanwhile ---------------------------------------------------------------------------------------------


def test_questions_that_come_while_it_answers_join_those_still_on_their_way(network, alike):
    asks = [ask("long", 200), *(ask(f"short {i}", 3) for i in range(5))]
    follow = {i: ask(f"follow {i}", 4, choices=("a", "b") if i == 2 else ()) for i in range(1, 6)}
    engine, order, found = Engine(*network, batch_tokens=5000), [], {}
    for index, answer in engine.generate(asks):
        order.append(index)
        found[index] = answer
        if index in follow:
            asks.append(follow[index])
    assert sorted(order) == list(range(11))
    assert order[-1] == 0
    assert alike([found[i] for i in range(11)], answers(network, asks))
