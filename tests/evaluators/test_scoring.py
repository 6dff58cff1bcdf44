import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig, PhiConfig

from kdbuild.evaluators._scoring import batches, encode_rows, logits, states

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(vocab_size=6, **SIZES),
    "gpt2": GPT2Config(vocab_size=6, n_embd=16, n_head=2, n_layer=1),
    "phi, a head with a bias": PhiConfig(vocab_size=6, **SIZES),
    "gemma2, a soft cap": Gemma2Config(vocab_size=6, head_dim=8, final_logit_softcapping=0.3, **SIZES),
    "granite, a divisor": GraniteConfig(vocab_size=6, logits_scaling=4.0, **SIZES),
    "cohere, a scale": CohereConfig(vocab_size=6, logit_scale=0.25, **SIZES),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_chunked_logits_are_the_models_own(toy, tokenizer, family):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family])
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    subject = toy.subject("student", model, tokenizer)
    rows = [toy.row("short", "a", "b"), toy.row("long", "a a b", "b b a a", ended=True)]
    scored = encode_rows(subject, rows, 64)
    with torch.no_grad():
        found = [logits(subject, hidden) for hidden in states(subject, scored)]
        for row, ours in zip(scored, found, strict=True):
            own = model(input_ids=torch.tensor([row.ids])).logits[0, [at - 1 for at in row.at]]
            torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)


def test_batches_hold_every_row_once_and_stay_within_the_limit():
    lengths = [5, 30, 7, 7, 2, 100, 12]
    groups = batches(lengths, 32)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) * max(lengths[i] for i in group) <= 32 for group in groups if len(group) > 1)
    assert [5] in groups


def test_fewer_logits_exist_at_once_than_there_are_positions(toy, monkeypatch):
    from kdbuild.evaluators import _losses

    seen = []
    monkeypatch.setattr("kdbuild.evaluators._scoring.POSITIONS_PER_CHUNK", 4)
    monkeypatch.setattr(_losses, "logits", lambda subject, hidden: seen.append(len(hidden)) or logits(subject, hidden))
    _losses.nll_sums(toy.llama(), [toy.row("r", "a", "b " * 10)], 64)
    assert seen == [4, 4, 2]
