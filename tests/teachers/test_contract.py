"""What every teacher promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from kdbuild import kinds
from kdbuild.elicitors._structured import schema_of
from kdbuild.records import Message
from kdbuild.rows.answers import serves
from kdbuild.teachers import Ask, Reading, Signal, Teacher, _features, row_key


class Tree(BaseModel):
    name: str = Field(max_length=10)
    height_m: int = Field(ge=1, le=120)
    evergreen: Literal["yes", "no"]


QUESTIONS = ["Name a tree.", "Name a much longer river, and say where it springs and where it ends.", "Why?", "Name a tree."]
LIMITS = [8, 5, 12, 8]
ASKS = [Ask(f"row-{i}", (Message("user", text),), limit) for i, (text, limit) in enumerate(zip(QUESTIONS, LIMITS, strict=True))]


FORM = Ask("form", (Message("user", "Describe a tree."),), 300, schema=schema_of(Tree))
CHOICE = Ask("choice", (Message("user", "Is an oak a tree?"),), choices=("yes", "no", "I do not know"))
TEXT = "An oak is a tree of the beech family, and lives long."
TEXTS = [Ask("text", (Message("user", "What is an oak?"),), choices=(TEXT,)), Ask("text", (), choices=(TEXT,))]
TURNS = (Message("user", "Name a tree."), Message("assistant", "An oak", train=True))
READINGS = {
    Signal.TOP_K: Reading("top-k", k=4),
    Signal.LOGITS: Reading("full"),
    Signal.HIDDEN: Reading("hidden", layers=(-1,)),
}
NEEDS = {
    "fake": {},
    "replay": {"path": "recorded.jsonl"},
    "transformers": {"model": "path:model", "device": "cpu", "batch_tokens": 200},
    "vllm": {"model": "path:model", "enforce_eager": True, "kv_cache_gb": 0.1},
}
"""What each kind needs to answer here; a kind that talks to a server is tested with its server."""
# vLLM warns of its own parts as it is imported.
_VLLM = pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.filterwarnings("ignore")])


def _lines() -> Iterator[dict[str, Any]]:
    for question in sorted(set(QUESTIONS)):
        yield {"messages": [{"role": "user", "content": question}], "answer": f"Word for word, {question.lower()}"}
    for ask, nats in zip(TEXTS, (-9.5, -21), strict=True):
        turns = [{"role": m.role, "content": m.content} for m in ask.messages]
        yield {"messages": turns, "choices": [TEXT], "logprobs": [nats], "num_choice_tokens": [13]}
    for ask, said in ((FORM, {"answer": '{"name": "oak", "height_m": 30, "evergreen": "no"}'}), (CHOICE, {"logprobs": [-0.1, -3, -4.5]})):
        yield {"messages": [{"role": m.role, "content": m.content} for m in ask.messages], "choices": list(ask.choices), **said}


@pytest.fixture(params=[_VLLM if kind == "vllm" else kind for kind in kinds.available("teachers") if kind in NEEDS])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Teacher:
    (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _lines()))
    return kinds.parse("teachers", {"kind": request.param, **NEEDS[request.param]})


def test_each_question_is_answered_once_within_its_limit(teacher, tmp_path, weights):
    with teacher.open(tmp_path, weights) as session:
        answers = list(session.generate(ASKS))
    assert sorted(index for index, _ in answers) == [0, 1, 2, 3]
    for index, answer in answers:
        assert answer.failed is None
        assert 0 < answer.num_new_tokens <= LIMITS[index]
        assert answer.num_prompt_tokens > 0
        assert serves(answer, LIMITS[index], LIMITS[index])


def test_the_same_questions_have_the_same_answers_in_any_order_and_company(teacher, tmp_path, weights, alike):
    with teacher.open(tmp_path, weights) as session:
        together = dict(session.generate(ASKS))
        backwards = dict(session.generate(ASKS[::-1]))
        alone = [dict(session.generate([ask]))[0] for ask in ASKS]
        nothing = list(session.generate([]))
    in_order = [together[i] for i in range(4)]
    assert alike(in_order, [backwards[3 - i] for i in range(4)])
    assert alike(in_order, alone)
    assert alike(in_order[:1], in_order[3:])
    assert nothing == []


def test_a_longer_limit_only_goes_on(teacher, tmp_path, weights, alike):
    """What ended serves any longer limit, and a cut answer is the beginning of the longer one: the store counts on it."""
    longer = [Ask(ask.row, ask.messages, 2 * ask.max_new_tokens) for ask in ASKS]
    with teacher.open(tmp_path, weights) as session:
        short, long = dict(session.generate(ASKS)), dict(session.generate(longer))
    for i in range(4):
        if short[i].ended:
            assert alike([long[i]], [short[i]])
        else:
            assert long[i].num_new_tokens > short[i].num_new_tokens
            # A cut may fall inside a character, which then reads as U+FFFD.
            assert long[i].text.startswith(short[i].text.rstrip("\ufffd"))


def test_a_schema_is_followed(teacher, tmp_path, weights):
    with teacher.open(tmp_path, weights) as session:
        ((_, answer),) = session.generate([FORM])
    assert answer.ended
    Tree.model_validate_json(answer.text)


def test_given_answers_have_a_log_probability_each(teacher, tmp_path, weights, alike):
    if Signal.CHOICES not in teacher.gives:
        pytest.skip(f"`{teacher.kind}` gives no choices")
    with teacher.open(tmp_path, weights) as session:
        found = dict(session.generate([CHOICE, ASKS[0], CHOICE]))
    assert (found[0].failed, found[0].text, found[0].ended, found[0].num_new_tokens) == (None, "", True, 0)
    assert len(found[0].logprobs) == 3
    assert all(logprob < 0 for logprob in found[0].logprobs)
    assert all(count > 0 for count in found[0].num_choice_tokens)
    assert alike([found[0]], [found[2]])


def test_a_whole_text_has_a_likelihood_and_its_number_of_tokens(teacher, tmp_path, weights, alike):
    if Signal.LIKELIHOOD not in teacher.gives:
        pytest.skip(f"`{teacher.kind}` gives no likelihoods")
    assert {ask.needs for ask in TEXTS} == {Signal.LIKELIHOOD}
    with teacher.open(tmp_path, weights) as session:
        found = dict(session.generate([*TEXTS, CHOICE]))
    assert [(found[i].failed, found[i].ended, found[i].num_new_tokens) for i in range(2)] == [(None, True, 0)] * 2
    assert all(found[i].logprobs[0] < 0 < found[i].num_choice_tokens[0] for i in range(2))
    assert found[0].num_choice_tokens == found[1].num_choice_tokens
    assert found[0].logprobs != found[1].logprobs
    with teacher.open(tmp_path, weights) as session:
        assert alike([answer for _, answer in session.generate(TEXTS[1:])], [found[1]])


def test_it_reads_what_it_says_it_can_and_no_other(teacher, tmp_path, weights):
    asks = [Ask("read", TURNS, reading=reading) for reading in READINGS.values()]
    with teacher.open(tmp_path, weights) as session:
        found = dict(session.generate(asks))
    for index, (signal, ask) in enumerate(zip(READINGS, asks, strict=True)):
        assert ask.needs is signal
        if signal in teacher.gives:
            assert found[index].failed is None
            assert len(_features.decode(found[index].payload).token_ids_T) > 2
        else:
            assert found[index].failed is not None


def test_it_stops_where_it_is_told_to(teacher, tmp_path, weights):
    with teacher.open(tmp_path, weights) as session:
        ((_, whole),) = session.generate([ASKS[2]])
        stop = whole.text[2:4]
        ((_, stopped),) = session.generate([replace(ASKS[2], stop=(stop,))])
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.ended
    assert 0 < stopped.num_new_tokens <= whole.num_new_tokens


def test_questions_may_come_while_it_answers(teacher, tmp_path, weights, alike):
    asks = list(ASKS[:1])
    found = {}
    with teacher.open(tmp_path, weights) as session:
        for index, answer in session.generate(asks):
            found[index] = answer
            asks += ASKS[len(asks) : len(asks) + 2]
        together = dict(session.generate(ASKS))
    assert alike([found[i] for i in range(4)], [together[i] for i in range(4)])


def test_knobs_and_the_licence_are_not_in_the_key(teacher, tmp_path):
    turned = teacher.model_copy(update={"licence": "MIT", **{name: object() for name in kinds.knobs(type(teacher))}})
    assert row_key(turned.answer_identity(tmp_path), ASKS[0]) == row_key(teacher.answer_identity(tmp_path), ASKS[0])


def test_the_key_is_the_questions_content_and_not_its_row_or_limit(teacher, tmp_path):
    identity = teacher.answer_identity(tmp_path)
    key = row_key(identity, ASKS[0])
    assert row_key(identity, ASKS[3]) == key
    assert row_key(identity, Ask("row-0", ASKS[0].messages, 99)) == key
    others = [
        Ask("row-0", ASKS[1].messages, 8),
        Ask("row-0", ASKS[0].messages, 8, temperature=0.5),
        Ask("row-0", ASKS[0].messages, 8, top_p=0.5),
        Ask("row-0", ASKS[0].messages, 8, sample=1),
        Ask("row-0", ASKS[0].messages, 8, salt="again"),
    ]
    assert len({key, *(row_key(identity, ask) for ask in others)}) == 6
    revised = teacher.model_copy(update={"revision": "2"})
    assert row_key(revised.answer_identity(tmp_path), ASKS[0]) != key


def test_a_network_is_there_where_logits_are_promised(teacher, tmp_path, weights):
    import torch

    if Signal.LOGITS not in teacher.gives:
        with pytest.raises(NotImplementedError):
            teacher.load(tmp_path, weights)
        return
    model, tokenizer = teacher.load(tmp_path, weights)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    with torch.no_grad():
        out = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False), output_hidden_states=True)
    assert out.logits.shape[-1] == len(tokenizer)
    assert len(out.hidden_states) == model.config.num_hidden_layers + 1


def test_identity_reads_back(teacher):
    assert kinds.parse("teachers", teacher.identity()).identity() == teacher.identity()
