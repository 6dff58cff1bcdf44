"""Generation from a local model, against `model.generate` and against itself."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from kdbuild.errors import SourceError, SpecError, StageError
from kdbuild.records import Message
from kdbuild.teachers import Ask
from kdbuild.teachers._generate import Engine, blocks
from kdbuild.teachers._next_token import _draw
from kdbuild.teachers.fake import Fake
from kdbuild.teachers.transformers import Transformers
from kdbuild.training.models import load_causal_lm, load_tokenizer


def asks_of(count: int, limit: int, **more) -> list[Ask]:
    return [Ask(f"row-{i:03d}", (Message("user", "hello " * (i % 7 + 1) + str(i)),), limit + i % 5, **more) for i in range(count)]


def answers(network, asks, **more):
    return [answer for _, answer in sorted(Engine(*network, **more).generate(asks), key=lambda one: one[0])]


def ids_of(tokenizer, ask):
    turns = [{"role": m.role, "content": m.content} for m in ask.messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]


def test_greedy_answers_are_those_of_generate(network):
    model, tokenizer = network
    asks = asks_of(24, 20)
    found = answers(network, asks, batch_tokens=1200)
    for ask, answer in zip(asks, found, strict=True):
        ids = ids_of(tokenizer, ask)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=ask.max_new_tokens, do_sample=False)[0]
        new = out[ids.shape[1] :]
        assert answer.text == tokenizer.decode(new, skip_special_tokens=True)
        assert answer.num_new_tokens == len(new)
        assert answer.ended == (int(new[-1]) == tokenizer.eos_token_id)
        assert answer.num_prompt_tokens == ids.shape[1]
    assert {answer.ended for answer in found} == {True, False}


def test_a_drawn_answer_depends_on_its_own_seed_alone(network, alike):
    asks = asks_of(20, 15, temperature=0.9, top_p=0.9)
    together = answers(network, asks, batch_tokens=10_000)
    assert alike(together, answers(network, asks[::-1], batch_tokens=1)[::-1])
    assert len({answer.text for answer in together}) == 20
    again = answers(network, [Ask("other-row", asks[0].messages, 15, temperature=0.9, top_p=0.9)])
    assert again[0].text != together[0].text


def test_tokens_are_drawn_from_the_tempered_distribution_within_top_p():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.7)):
        ask = Ask("r", (), 1, temperature=temperature, top_p=top_p)
        drawn = torch.bincount(torch.tensor([_draw(logits, ask, generator) for _ in range(4000)]), minlength=4) / 4000
        expected = torch.softmax(logits / temperature, 0)
        if top_p < 1:  # the two likeliest, with 0.644 and 0.237 of it, are the fewest with 0.7
            expected = torch.tensor([*expected[:2] / expected[:2].sum(), 0.0, 0.0])
        assert torch.allclose(drawn, expected, atol=0.035)
        assert torch.equal(drawn > 0, expected > 0)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_a_draw_that_looks_at_the_likeliest_words_first_is_that_of_the_whole_order(spread):
    for seed in range(12):
        logits = torch.randn(5000, generator=torch.Generator().manual_seed(seed)) * spread
        logits = logits.bfloat16().float() if seed % 2 else logits  # many words are then equally likely
        for temperature, top_p in ((1.0, 1.0), (0.7, 0.95), (1.5, 0.5), (1.0, 0.01)):
            probs, order = torch.softmax(logits.double() / temperature, -1).sort(descending=True, stable=True)
            total = probs.cumsum(0)
            kept = min(1 + int((total < top_p).sum()), 5000) if top_p < 1 else 5000
            chance = torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            expected = int(order[int(torch.searchsorted(total, chance * total[kept - 1], right=True))])
            ask = Ask("r", (), 1, temperature=temperature, top_p=top_p)
            assert _draw(logits, ask, torch.Generator().manual_seed(seed)) == expected


def test_blocks_are_formed_again_by_a_restart():
    rows = list(enumerate(asks_of(20_000, 20)))
    formed = [[index for index, _ in block] for block in blocks(rows)]
    assert sorted(index for block in formed for index in block) == list(range(20_000))
    assert 5 <= len(formed) <= 60
    # Killed in the middle of a block, it goes on with what is left of it and with the others as they were.
    done = {index for block in formed[:3] for index in block} | set(formed[3][:7])
    again = [[index for index, _ in block] for block in blocks([row for row in rows if row[0] not in done][::-1])]
    assert again == [formed[3][7:], *formed[4:]]
    assert list(blocks([])) == []


def test_the_batch_stays_within_its_budget_and_rows_join_as_others_leave(network):
    engine = Engine(*network, batch_tokens=1000)
    asks, sizes = asks_of(60, 30), []
    forward = engine._network.forward

    def watched(batch):
        sizes.append((len(batch.rows), batch.mask_BT.shape[1]))
        return forward(batch)

    engine._network.forward = watched
    assert sorted(index for index, _ in engine.generate(asks)) == list(range(60))
    assert max(rows * width for rows, width in sizes) <= 1000
    used = sum(answer.num_new_tokens for answer in answers(network, asks))
    assert len(sizes) < 2.5 * used / max(rows for rows, _ in sizes)


def test_logits_that_are_not_numbers_fail_the_row_and_no_other(network):
    model, tokenizer = network
    broken, _ = Fake().load(Path(), None)
    with torch.no_grad():
        broken.model.embed_tokens.weight[tokenizer("Z")["input_ids"][0]] = float("nan")
    broken.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    asks = [Ask("good", (Message("user", "abc"),), 1), Ask("bad", (Message("user", "Zabc"),), 1)]
    good, bad = answers((broken, tokenizer), asks)
    assert good.failed is None
    assert good.text == answers(network, asks[:1])[0].text
    assert bad.failed == "the model's logits are not numbers"


def test_what_cannot_be_asked_fails_with_a_reason(network):
    model, tokenizer = network
    long = Ask("long", (Message("user", "x" * 5000),), 10)
    assert "more than the model's 4096 positions" in answers(network, [long])[0].failed
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = "{{ raise_exception('no system turns here') }}"
    assert "no system turns here" in answers((model, refusing), asks_of(1, 5))[0].failed


def test_the_teacher_answers_from_its_folder(tmp_path, weights):
    teacher = Transformers(model="path:model", device="cpu")
    asks = asks_of(3, 10)
    with teacher.open(tmp_path, weights) as session:
        found = [answer for _, answer in sorted(session.generate(asks), key=lambda one: one[0])]
    assert found == answers((load_causal_lm(weights), load_tokenizer(weights)), asks)


def test_a_chat_template_of_the_project_is_used_and_identified_by_content(tmp_path, weights):
    (tmp_path / "a.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    (tmp_path / "b.jinja").write_text((tmp_path / "a.jinja").read_text())
    (tmp_path / "c.jinja").write_text("{% for m in messages %}({{ m.content }}){% endfor %}")
    plain = Transformers(model="path:model", device="cpu")
    one, same, other = (plain.model_copy(update={"chat_template": f"{name}.jinja"}) for name in "abc")
    assert one.files() == ("a.jinja",)
    assert "chat_template" not in plain.answer_identity(tmp_path)
    assert one.answer_identity(tmp_path) == same.answer_identity(tmp_path) != other.answer_identity(tmp_path)
    with one.open(tmp_path, weights) as session:
        ((_, answer),) = session.generate([Ask("r", (Message("user", "abc"),), 5)])
    assert answer.num_prompt_tokens == len("[abc]")
    assert one.load(tmp_path, weights)[1].chat_template == (tmp_path / "a.jinja").read_text()
    with pytest.raises(SpecError, match="not there"):
        plain.model_copy(update={"chat_template": "d.jinja"}).answer_identity(tmp_path)


def test_what_cannot_be_loaded_is_said(tmp_path, weights):
    with pytest.raises(SourceError), Transformers(model="path:x", device="cpu").open(tmp_path, tmp_path):
        pass
    with pytest.raises(StageError, match="no device `cuda:99`"):
        Transformers(model="path:x", device="cuda:99").load(tmp_path, weights)
