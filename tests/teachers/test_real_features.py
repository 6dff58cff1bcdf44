"""Stored signals of the real SmolLM2-135M-Instruct: size, error, and offline against online."""

import numpy as np
import pytest
import torch

from kdbuild.objectives import Head, Named, Signals, Stored, _reduced
from kdbuild.objectives.forward_kl import ForwardKl
from kdbuild.records import Message, Row
from kdbuild.teachers import Ask, Reading, _features, _vocabulary
from kdbuild.teachers.transformers import Transformers
from kdbuild.training.models import load_causal_lm, load_tokenizer
from kdbuild.training.tokens import encode

pytestmark = pytest.mark.real

K = 64
TEXTS = {
    "Why is the sky blue?": "Air scatters sunlight, and blue light more than red: so blue reaches us from all sides.",
    "How do I boil an egg?": "1. Bring water to a boil.\n2. Put the egg in for eight minutes.\n3. Cool it under cold water, then peel it.",
    "Write a loop.": "```python\nfor name in names:\n    print(f'Hello, {name}!')\n```\nThis greets everyone — naïve, but it works.",
}


def rows():
    return [Row(q, (Message("user", q), Message("assistant", a, train=True))) for q, a in TEXTS.items()]


@pytest.fixture(scope="module")
def said(smollm2):
    """Last hidden states, trained tokens (a row each) and the head's weight of teacher; states of a student two layers short."""
    model, tokenizer = load_causal_lm(smollm2), load_tokenizer(smollm2)
    encoded = [encode(tokenizer, row, 4096) for row in rows()]

    def states():
        found = []
        for one in encoded:
            at = torch.tensor([i for i, trained in enumerate(one.trained) if trained])
            with torch.inference_mode():
                found.append((model.model(torch.tensor([one.ids])).last_hidden_state[0, at - 1], torch.tensor(one.ids)[at]))
        return [(hidden.clone(), tokens) for hidden, tokens in found]

    teacher = states()
    model.model.layers = model.model.layers[:-2]
    model.config.num_hidden_layers -= 2
    return teacher, torch.cat([hidden for hidden, _ in states()]), model.get_output_embeddings().weight.detach()


def in_order(named):
    order = named.ids_TK.argsort(1)
    return Named(named.ids_TK.gather(1, order), named.logprobs_TK.gather(1, order), named.tail_T)


def test_size_error_and_offline_against_online(said):
    teacher, student_TD, head_VD = said
    count = len(student_TD)
    decoded, size = [], 0
    for hidden_TD, tokens_T in teacher:
        payload = _features.encode_distributions(hidden_TD @ head_VD.T, tokens_T, Reading("top-k", K))
        size += len(payload)
        decoded.append(_features.decode(payload))
    drawn = sum(len(_features.encode_distributions(h @ head_VD.T, t, Reading("sampled", 12))) for h, t in teacher)
    assert size / count <= 0.45 * K * (4 + 2)
    assert drawn / count <= 36

    teacher_TD = torch.cat([hidden for hidden, _ in teacher])
    exact = in_order(_reduced.reduced(teacher_TD @ head_VD.T, K))
    got = Named(*(torch.from_numpy(np.concatenate([getattr(d, n) for d in decoded])) for n in ("ids_TK", "logprobs_TK", "tail_T")))
    got = Named(got.ids_TK.long(), got.logprobs_TK, got.tail_T)
    assert torch.equal(got.ids_TK, exact.ids_TK)
    p = torch.cat([exact.logprobs_TK, exact.tail_T[:, None]], 1).double()
    q = torch.cat([got.logprobs_TK, got.tail_T[:, None]], 1).double()
    low, high = exact.logprobs_TK.double().aminmax(dim=1, keepdim=True)
    steps = ((exact.logprobs_TK - low) / (high - low) * 255).round()
    coded = torch.cat([low + steps / 255 * (high - low), exact.tail_T[:, None].double()], 1)
    error, error_8_bit = (float((p.exp() * (p - other)).sum(1).mean()) for other in (q, coded.log_softmax(1)))
    assert 0 <= error <= error_8_bit

    student, labels = Head(student_TD, head_VD), torch.cat([tokens for _, tokens in teacher])
    online = Signals(student, labels, Head(teacher_TD, head_VD))

    def stored(named):
        return Signals(student, labels, None, Stored(Reading("top-k", K), named=named))

    full = ForwardKl().term(online).total.item() / count
    reduced = ForwardKl(top_k=K).term(online).total.item() / count
    before, after = (ForwardKl(top_k=K).term(stored(named)).total.item() / count for named in (exact, got))
    print(f"\nKL {full:.5f}, with top-{K} and tail {reduced:.5f}: gap {full - reduced:.2e}; quantised {after - before:+.2e} of the loss,")
    print(f"{error:.2e} nats a token (8 bits: {error_8_bit:.2e}); {size / count:.1f} and {drawn / count:.1f} bytes a token")
    assert before == pytest.approx(reduced, abs=1e-4)
    assert after == pytest.approx(reduced, abs=1e-3)
    assert full - reduced >= 0  # outcomes put together can only come closer


def test_the_engine_reads_what_the_model_says(said, smollm2, tmp_path):
    asks = [Ask(row.id, row.messages, reading=Reading("top-k", K)) for row in rows()]
    with Transformers(model="path:model", device="cpu").open(tmp_path, smollm2) as session:
        answers = dict(session.generate(asks))
    for i, (hidden_TD, tokens_T) in enumerate(said[0]):
        got = _features.decode(answers[i].payload)
        expected = in_order(_reduced.reduced(hidden_TD @ said[2].T, K))
        assert got.token_ids_T.tolist() == tokens_T.tolist()
        same = torch.from_numpy(got.ids_TK).long() == expected.ids_TK
        assert same.float().mean() > 0.9  # a tie at the 64th place may go either way, and shifts those after it
        assert np.allclose(np.exp(got.tail_T), expected.tail_T.exp().numpy(), atol=1e-3)
        assert np.allclose(np.exp(got.logprobs_TK.max(1)), expected.logprobs_TK.amax(1).exp().numpy(), atol=2e-3)


def test_the_vocabulary_says_what_the_tokens_are(smollm2):
    tokenizer = load_tokenizer(smollm2)
    vocabulary = _vocabulary.of_tokenizer(tokenizer)
    assert len(vocabulary.words) == 49_152
    for text in TEXTS.values():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(map(vocabulary.text, ids)) == text.encode()
    assert vocabulary.text(tokenizer.eos_token_id) == b""
