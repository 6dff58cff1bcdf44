"""A causal language model on this machine, through the transformers library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdbuild.kinds import Knob
from kdbuild.teachers import OF_A_NETWORK, Session, Signal
from kdbuild.teachers._local import LocalModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Transformers(LocalModel):
    """Loads a causal language model and generates in batches that rows join and leave, each with its own seed."""

    kind: Literal["transformers"] = "transformers"
    device: Annotated[str, Knob("where it runs")] = "auto"
    """`auto`, `cpu`, `cuda`, or a torch device such as `cuda:1`."""
    batch_tokens: Annotated[int, Knob("how many rows run together")] = Field(16384, ge=1)
    """Most positions (rows x prompt and new tokens) at a time; bounds the memory of past keys and values."""

    @property
    def gives(self) -> frozenset[Signal]:
        """Everything that a causal model can: its network is here."""
        return OF_A_NETWORK

    @contextmanager
    def open(self, root: Path, weights: Path | None) -> Iterator[Session]:
        """Load the model."""
        from kdbuild.teachers._generate import Engine
        from kdbuild.teachers._session import ModelSession

        model, tokenizer = self.load(root, weights)
        yield ModelSession(Engine(model, tokenizer, batch_tokens=self.batch_tokens))

    def load(self, root: Path, weights: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the network on its device, and the tokenizer with the chat template in force."""
        from kdbuild.teachers import _session

        return _session.load(weights, dtype=self.dtype, device=self.device, template=self.template_text(root))
