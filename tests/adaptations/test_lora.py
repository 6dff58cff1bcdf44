import json

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from kdbuild.adaptations.lora import Lora
from kdbuild.errors import StageError

IDS = torch.arange(1, 9).unsqueeze(0)


def model():
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=31, pad_token_id=0, **sizes)).eval()


@torch.no_grad()
def test_the_merged_weight_is_w_plus_alpha_over_rank_b_a(tmp_path):
    before = model().model.layers[0].self_attn.q_proj.weight
    lora = Lora(rank=2, alpha=6.0, target_modules=["q_proj"])
    changed = lora.apply(model())
    layer = changed.get_base_model().model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((2, 16), (16, 2))
    b.copy_(torch.randn(16, 2, generator=torch.Generator().manual_seed(0)))
    expected = before + 3.0 * b @ a
    merged = lora.merge(changed, tmp_path)
    assert torch.allclose(merged.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-6)


def test_all_linear_adapts_every_linear_layer_but_the_head():
    names = {n.split(".lora_")[0].rsplit(".", 1)[-1] for n, p in Lora().apply(model()).named_parameters() if p.requires_grad}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@torch.no_grad()
def test_the_adapter_loads_on_its_base_with_peft_and_names_no_version(tmp_path):
    lora = Lora(rank=2)
    changed = lora.apply(model()).eval()
    for parameter in (p for p in changed.parameters() if p.requires_grad):
        parameter.add_(0.05)
    expected = changed(input_ids=IDS).logits
    lora.merge(changed, tmp_path)
    loaded = PeftModel.from_pretrained(model(), tmp_path).eval()
    assert torch.allclose(loaded(input_ids=IDS).logits, expected, atol=1e-6)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["r"] == 2
    assert "peft_version" not in config
    assert config["target_modules"] == sorted(config["target_modules"])


def test_modules_that_are_not_there_are_named():
    with pytest.raises(StageError, match="fits no module"):
        Lora(target_modules=["nothing_like_it"]).apply(model())
