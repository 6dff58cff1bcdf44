"""Texts as vectors, for the kinds of a stage that compare meanings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdbuild.errors import StageError
from kdbuild.spec.sections import EmbedderUse
from kdbuild.stages.job import Job

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Vectors:
    """A stage's embedder; each different text is read once."""

    job: Job
    use: EmbedderUse | None
    _known: dict[str, np.ndarray] = field(default_factory=dict)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of `texts`: float32 of shape (number of texts, dimension)."""
        import numpy as np

        if self.use is None:
            raise StageError("meanings are compared here and there is no embedder", hint="add `embedder:` to params.yaml")
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self.job.embedder(self.use).embed(new, self.job.weights(self.use.weights)), strict=True))
        return np.stack([self._known[text] for text in texts])
