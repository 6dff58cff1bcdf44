"""What a local model's engine does beyond plain text: schemas, stops, choices, readings, and questions that come while it answers."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
import torch

from kdbuild import canonical
from kdbuild.records import Message, Row
from kdbuild.teachers import Ask, Reading, _features
from kdbuild.teachers._generate import Engine
from kdbuild.training.tokens import encode

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


# --- readings --------------------------------------------------------------------------------------------------------------


def reading_asks(form: str, **more) -> list[Ask]:
    system = Message("system", "You are a careful teacher of small children.")
    turns = [
        (Message("user", "Hi"), Message("assistant", "Good day", train=True)),
        (system, Message("user", "Name a tree, please."), Message("assistant", "An oak", train=True, ended=False)),
        (Message("user", "1"), Message("assistant", "one", train=True), Message("user", "2"), Message("assistant", "two", train=True)),
        (Message("user", "Hi"), Message("assistant", "Good day to you, " * 3, train=True)),
    ]
    return [Ask(f"row-{i}", messages, reading=Reading(form, **more)) for i, messages in enumerate(turns)]


def trained_positions(tokenizer, ask):
    encoded = encode(tokenizer, Row(ask.row, messages=ask.messages), 10_000)
    return encoded.ids, [i for i, learned in enumerate(encoded.trained) if learned]


@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_a_reading_is_taken_where_training_predicts_each_token(network, batch_tokens):
    model, tokenizer = network
    asks = [*reading_asks("full"), *reading_asks("top-k", k=5)]
    found = answers(network, asks, batch_tokens=batch_tokens)
    for one, answer in zip(asks, found, strict=True):
        ids, trained = trained_positions(tokenizer, one)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)[[i - 1 for i in trained]]
        assert (answer.text, answer.ended, answer.num_new_tokens, answer.num_prompt_tokens) == ("", True, 0, len(ids))
        said = _features.decode(answer.payload)
        assert said.token_ids_T.tolist() == [ids[i] for i in trained]
        if one.reading.form == "full":
            assert torch.allclose(torch.tensor(said.logprobs_TK).float(), logprobs, atol=0.01)  # float16
        else:
            best = logprobs.topk(5, dim=-1).indices.sort(dim=-1).values
            assert said.ids_TK.tolist() == best.tolist()


def test_hidden_states_and_attention_maps_are_those_of_one_plain_pass(network):
    model, tokenizer = network
    asks = reading_asks("hidden", layers=(0, 2, -1), attention=True)
    before = model.config._attn_implementation
    found = answers(network, asks)
    assert model.config._attn_implementation == before
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    for one, answer in zip(asks, found, strict=True):
        ids, trained = trained_positions(tokenizer, one)
        at = [i - 1 for i in trained]
        with torch.no_grad():
            out = plain(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
        said = _features.decode(answer.payload)
        for layer in (0, 2, -1):
            assert torch.allclose(torch.tensor(said.states[layer]).float(), out.hidden_states[layer][0, at], atol=0.01)
        assert sorted(said.maps) == [-1, 2]
        for layer, n in ((2, 1), (-1, -1)):
            assert torch.allclose(torch.tensor(said.maps[layer]).float(), out.attentions[n][0][:, at][:, :, at], atol=0.002)


def test_what_is_drawn_of_a_distribution_depends_on_the_row(network):
    messages = reading_asks("full")[0].messages
    first, again, other = answers(network, [Ask(row, messages, reading=Reading("sampled", k=8)) for row in ("a", "a", "b")])
    assert first.payload == again.payload != other.payload


def test_what_cannot_be_read_fails_with_a_reason(network):
    nothing = Ask("r", (Message("user", "Hi"),), reading=Reading("full"))
    deep = reading_asks("hidden", layers=(9,))[0]
    odd = Ask("odd", (Message("user", "Hi", train=True),), reading=Reading("full"))
    reasons = [answer.failed for answer in answers(network, [nothing, deep, odd])]
    assert reasons[0] == "there is no token of a trained turn to read"
    assert reasons[1] == "layers [9] are asked for, and the model has 4"
    assert "only assistant turns can be trained" in reasons[2]


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
