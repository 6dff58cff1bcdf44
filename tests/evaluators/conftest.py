"""A tokenizer of six words and models whose every prediction is known in advance."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kdbuild.evaluators import Subject
from kdbuild.records import Message, Row
from kdbuild.training.tokens import encode

WORDS = ["<s>", "</s>", "<user>", "<assistant>", "a", "b"]
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' + m.content if m.role == 'user' else '<assistant> ' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def make_tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<s>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )


def as_subject(name, model, tokenizer, batch_tokens=4096):
    def cut(row, max_tokens):
        encoded = encode(tokenizer, row, max_tokens)
        return encoded.ids, encoded.trained

    return Subject(name, model.eval(), tokenizer, cut, batch_tokens)


def constant_model(**probabilities):
    """A GPT-2 that predicts the same everywhere: its last norm gives (1, 0), so the head's first column is the logits."""
    config = GPT2Config(vocab_size=len(WORDS), n_embd=2, n_head=1, n_layer=1, n_positions=128, tie_word_embeddings=False)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.tensor([1.0, 0.0]))
        model.lm_head.weight.zero_()
        for i, word in enumerate(WORDS):
            p = probabilities.get({"</s>": "end"}.get(word, word), 0.0)
            model.lm_head.weight[i, 0] = math.log(p) if p else -1e4
    return model


def tiny_llama(seed, **changes):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=128, initializer_range=0.6, **{**sizes, **changes})
    return LlamaForCausalLM(config)


def qa(id, question, answer, *, ended=False):
    return Row(id=id, messages=(Message("user", question), Message("assistant", answer, train=True, ended=ended)), held_out=True)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def toy(tokenizer):
    """Make a subject: `toy(constant(a=...))`."""

    class Toy:
        def constant(self, name="student", batch_tokens=4096, **probabilities):
            return as_subject(name, constant_model(**probabilities), tokenizer, batch_tokens)

        def llama(self, name="student", seed=0, batch_tokens=4096, **changes):
            return as_subject(name, tiny_llama(seed, **changes), tokenizer, batch_tokens)

        row = staticmethod(qa)
        subject = staticmethod(as_subject)

    return Toy()
