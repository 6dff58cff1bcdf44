"""A local model as a teacher's session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbuild.errors import SourceError, StageError
from kdbuild.teachers import Answer, Ask, Session
from kdbuild.teachers._generate import Engine
from kdbuild.training.models import load_causal_lm, load_tokenizer


@dataclass
class ModelSession(Session):
    """An engine on a loaded model."""

    engine: Engine

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) as each row ends."""
        try:
            yield from self.engine.generate(asks)
        except torch.OutOfMemoryError as error:
            hint = "lower the teacher's `batch_tokens` in params.yaml; every answer so far is stored"
            raise StageError("the teacher ran out of the device's memory", hint=hint) from error


def load(weights: Path | None, *, dtype: str, device: str, template: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model on a torch device (`auto`: a GPU if there is one) and its tokenizer, with `template` instead of its own if given.

    Raises:
        SourceError: there is no model, or it has no chat template.
        StageError: there is no such device.
    """
    where, tokenizer = chat_tokenizer(weights, template)
    return load_causal_lm(where, dtype, device_of(device)), tokenizer


def chat_tokenizer(weights: Path | None, template: str | None) -> tuple[Path, PreTrainedTokenizerBase]:
    """Return where the model is, and its tokenizer with `template` instead of its own chat template if given.

    Raises:
        SourceError: there is no model, or it has no chat template.
    """
    if weights is None:
        raise SourceError("the teacher's model is not there", hint="`dvc repro` fetches it")
    tokenizer = load_tokenizer(weights)
    if template is not None:
        tokenizer.chat_template = template
    if tokenizer.chat_template is None:
        hint = "give the teacher one in params.yaml: `chat_template: templates/chat.jinja`"
        raise SourceError(f"the model in {weights} has no chat template", hint=hint)
    return weights, tokenizer


def device_of(name: str) -> str:
    """Return a torch device by its name; `auto` is a GPU if there is one.

    Raises:
        StageError: there is no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise StageError(f"there is no device `{name}` here: {error}", hint="`device: auto` takes a GPU if there is one") from error
    return name
