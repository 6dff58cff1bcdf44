"""What every adaptation promises."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from kdbuild import kinds


@pytest.fixture(params=kinds.available("adaptations"))
def adaptation(request):
    return kinds.parse("adaptations", {"kind": request.param})


def model():
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=31, tie_word_embeddings=True, pad_token_id=0, **sizes)).eval()


IDS = torch.arange(1, 9).unsqueeze(0)


def adapted(adaptation, seed=0):
    plain = model()
    torch.manual_seed(seed)
    return adaptation.apply(plain).eval()


def trained(adapted_model):
    return {name: p for name, p in adapted_model.named_parameters() if p.requires_grad}


@torch.no_grad()
def test_it_starts_as_the_model_it_was_with_fewer_weights_to_train(adaptation):
    changed = adapted(adaptation)
    assert torch.allclose(changed(input_ids=IDS).logits, model()(input_ids=IDS).logits, atol=1e-6)
    assert 0 < sum(p.numel() for p in trained(changed).values()) < model().num_parameters()


def test_the_seed_decides_the_start(adaptation):
    first, again, other = (trained(adapted(adaptation, seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@torch.no_grad()
def test_merging_keeps_what_was_learned_in_a_plain_model(adaptation, tmp_path):
    changed = adapted(adaptation)
    for parameter in trained(changed).values():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    expected = changed(input_ids=IDS).logits
    assert not torch.allclose(expected, model()(input_ids=IDS).logits, atol=1e-3)
    merged = adaptation.merge(changed, tmp_path)
    assert merged.state_dict().keys() == model().state_dict().keys()
    merged.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert torch.allclose(loaded(input_ids=IDS).logits, expected, atol=1e-5)
    assert list(tmp_path.glob("*.safetensors"))
    for path in tmp_path.glob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
