"""Training tasks on a Llama of a few thousand weights with the fake teacher's tokenizer of bytes."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdbuild import kinds
from kdbuild.records import Message, Row
from kdbuild.spec.model import Runtime, Train
from kdbuild.teachers import _network
from kdbuild.training.models import save_causal_lm
from kdbuild.training.task import OnlineTeacher, Task

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ate", "some", "rice", "with", "beans"]


def tiny_llama(vocab_size, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    settings = {"initializer_range": 0.2, "tie_word_embeddings": True, "max_position_embeddings": 256, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **{**sizes, **settings, **changes}))


def some_rows(count=13):
    chance = random.Random(7)

    def text(most):
        return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))

    return tuple(Row(f"r{i:02d}", (Message("user", text(4)), Message("assistant", text(9), train=True))) for i in range(count))


@pytest.fixture(scope="session")
def tokenizer():
    return _network.build(1, 8, 0)[1]


@pytest.fixture(scope="session")
def start(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("start")
    save_causal_lm(tiny_llama(len(tokenizer)), tokenizer, folder)
    return folder


@pytest.fixture
def new_task(tmp_path, start):
    """Return the function that makes a task; `runtime` and `train` are given as in params.yaml and in a spec."""
    made = []

    def make(*, objectives=({"kind": "sft"},), adaptation=None, train=None, runtime=None, **changes):
        folder = tmp_path / f"task-{len(made)}"
        made.append(folder)
        for name in ("model", "adapter", "checkpoints"):
            (folder / name).mkdir(parents=True)
        fake = kinds.parse("teachers", {"kind": "fake"})
        task = Task(
            root=tmp_path,
            start=start,
            rows=some_rows(),
            objectives=tuple(kinds.parse("objectives", o) for o in objectives),
            teachers={"": OnlineTeacher("fake", fake, None)},
            adaptation=None if adaptation is None else kinds.parse("adaptations", adaptation),
            train=Train.model_validate({"learning_rate": 1e-2, "batch_tokens": 250, "num_epochs": 2, **(train or {})}),
            runtime=Runtime.model_validate({"device": "cpu", "train": runtime or {}}),
            model_out=folder / "model",
            adapter_out=folder / "adapter" if adaptation else None,
            checkpoints=folder / "checkpoints",
            key="the key",
        )
        return replace(task, **changes)

    return make
