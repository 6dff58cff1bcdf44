"""The fake teacher's network: a tiny random Llama over bytes. Its tokenizer is shipped as files in `_fake/`."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER = Path(__file__).parent / "_fake"
_NUM_HEADS = 4
_MAX_TOKENS = 4096
# Wide enough that its next-token distributions differ from uniform, and from each other: matching it can be seen to work.
_INITIALIZER_RANGE = 0.2


def build(num_layers: int, hidden_size: int, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the network and its tokenizer; the weights are a function of the arguments."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=_NUM_HEADS,
        num_key_value_heads=_NUM_HEADS // 2,
        max_position_embeddings=_MAX_TOKENS,
        initializer_range=_INITIALIZER_RANGE,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return model.eval(), tokenizer
