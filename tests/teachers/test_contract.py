"""What every teacher promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdbuild import kinds
from kdbuild.records import Message
from kdbuild.rows.answers import serves
from kdbuild.teachers import Ask, Signal, Teacher, row_key

QUESTIONS = ["Name a tree.", "Name a much longer river, and say where it springs and where it ends.", "Why?", "Name a tree."]
LIMITS = [8, 5, 12, 8]
ASKS = [Ask(f"row-{i}", (Message("user", text),), limit) for i, (text, limit) in enumerate(zip(QUESTIONS, LIMITS, strict=True))]


# vLLM warns of its own parts as it is imported.
_VLLM = pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.filterwarnings("ignore")])


@pytest.fixture(params=[_VLLM if kind == "vllm" else kind for kind in kinds.available("teachers")])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Teacher:
    lines = [{"messages": [{"role": "user", "content": q}], "answer": f"Word for word, {q.lower()}"} for q in sorted(set(QUESTIONS))]
    (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    needs = {
        "replay": {"path": "recorded.jsonl"},
        "transformers": {"model": "path:model", "device": "cpu", "batch_tokens": 200},
        "vllm": {"model": "path:model", "enforce_eager": True, "kv_cache_gb": 0.1},
    }
    return kinds.parse("teachers", {"kind": request.param, **needs.get(request.param, {})})


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
