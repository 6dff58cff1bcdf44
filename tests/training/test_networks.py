import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kdbuild.errors import StageError
from kdbuild.training.batches import Example, pack
from kdbuild.training.networks import Network
from kdbuild.training.tokens import Encoded

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LINEAR = {
    "llama": {"tie_word_embeddings": True},
    "qwen3": {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4, "use_sliding_window": True},
    "gemma3_text": {"sliding_window": 4},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
}


def model(model_type, **changes):
    torch.manual_seed(0)
    found = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **changes})).eval()
    for weight in found.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return found


def examples():
    chance = torch.Generator().manual_seed(0)
    made = []
    for i, length in enumerate([7, 2, 11]):
        ids = torch.randint(3, 97, (length,), generator=chance).tolist()
        made.append(Example(f"r{i}", Encoded(ids, [j % 2 == 1 for j in range(length)])))
    return made


@pytest.mark.parametrize("model_type", LINEAR)
@torch.no_grad()
def test_packed_sequences_give_the_models_own_logits_of_each_alone(model_type):
    whole = model(model_type, **LINEAR[model_type])
    network = Network(whole, "it")
    network.check_head()
    assert network.keeps_sequences_apart()
    packed = pack(examples())
    ours_TV = network.hidden_TD(packed) @ network.weight_VD.T
    alone_TV = torch.cat(
        [
            whole(input_ids=torch.tensor([e.encoded.ids]), use_cache=False).logits[0, [i - 1 for i, t in enumerate(e.encoded.trained) if t]]
            for e in examples()
        ]
    )
    assert torch.allclose(ours_TV, alone_TV, atol=1e-5, rtol=0)


def test_a_model_that_soft_caps_its_logits_is_refused():
    with pytest.raises(StageError, match="soft-caps"):
        Network(model("gemma2", sliding_window=4), "teacher `g`")


def test_a_head_with_bias_is_refused():
    del_head_dim = {name: value for name, value in SIZES.items() if name != "head_dim"}
    biased = AutoModelForCausalLM.from_config(AutoConfig.for_model("phi", **del_head_dim))
    with pytest.raises(StageError, match="no plain linear head"):
        Network(biased, "the student")


def test_a_model_that_looks_ahead_is_refused(recwarn):
    sizes = {name: value for name, value in SIZES.items() if name not in ("head_dim", "num_key_value_heads")}
    encoder = AutoModelForCausalLM.from_config(AutoConfig.for_model("bert", **sizes)).eval()
    encoder.cls.predictions.decoder.bias = None
    with pytest.raises(StageError, match="no causal language model"):
        Network(encoder, "the student").check_head()


def test_logits_that_are_not_linear_in_the_states_are_refused():
    whole = model("llama")
    whole.lm_head.register_forward_hook(lambda module, inputs, output: output.tanh())
    with pytest.raises(StageError, match="not a linear function"):
        Network(whole, "the student").check_head()


def test_a_model_whose_state_runs_on_into_the_next_sequence_is_noticed(recwarn):
    recurrent = model(
        "qwen3_next",
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        shared_expert_intermediate_size=16,
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    )
    assert not Network(recurrent, "it").keeps_sequences_apart()
