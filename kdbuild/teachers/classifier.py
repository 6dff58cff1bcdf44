"""A model that says what a text is, or how good: a reward model, a cross-encoder, an NLI model, a quality classifier."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from kdbuild.kinds import Knob
from kdbuild.teachers import Session, Signal
from kdbuild.teachers._local import LocalModel


class Classifier(LocalModel):
    """Any transformers model with a sequence-classification head. It answers with the log-probabilities of its labels (of a model with
    several labels at once, each by itself) or, where it has a single output, with that number as it is.

    A chat is written by the tokenizer's chat template, without what opens another answer. Loads safetensors only, never a model's own code.
    """

    kind: Literal["classifier"] = "classifier"
    too_long: Literal["fail", "cut"] = "fail"
    """What happens to a text that is longer than the model reads: its question fails, or it is cut. A text is cut at its end, a pair at the
    end of its first text, a chat at its beginning."""
    device: Annotated[str, Knob("where it runs")] = "auto"
    """`auto`, `cpu`, `cuda`, or a torch device such as `cuda:1`."""
    batch_tokens: Annotated[int, Knob("how many texts are read together")] = Field(8192, ge=1)
    """Tokens of one forward pass, padding included."""

    @property
    def gives(self) -> frozenset[Signal]:
        """Scores of its labels."""
        return frozenset({Signal.SCORES})

    @contextmanager
    def open(self, root: Path, weights: Path | None) -> Iterator[Session]:
        """Load the model."""
        from kdbuild.teachers import _classify

        yield _classify.load(
            weights,
            dtype=self.dtype,
            device=self.device,
            template=self.template_text(root),
            batch_tokens=self.batch_tokens,
            cuts=self.too_long == "cut",
        )
