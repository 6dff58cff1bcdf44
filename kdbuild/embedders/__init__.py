"""Embedders: how a text becomes a vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from kdbuild import canonical
from kdbuild.kinds import Kind
from kdbuild.records import content_digest

if TYPE_CHECKING:
    import numpy as np


class Embedder(Kind):
    """Base of every embedder."""

    family: ClassVar[str] = "embedders"

    def sources(self) -> tuple[str, ...]:
        """Return the model sources whose files it needs."""
        return ()

    @abstractmethod
    def batches(self, texts: Sequence[str], weights: Path | None) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions in `texts`, each once in any order, with their unit vectors: float32 of shape (number of positions, dimension).

        A text's vector depends on that text alone, but for what float32 rounds differently in another batch.
        """

    def embed(self, texts: Sequence[str], weights: Path | None) -> np.ndarray:
        """Return unit vectors of `texts`: float32 of shape (number of texts, dimension)."""
        import numpy as np

        vectors_ND = np.empty((0, 0), np.float32)
        for at, found_KD in self.batches(texts, weights):
            if not len(vectors_ND):
                vectors_ND = np.empty((len(texts), found_KD.shape[1]), np.float32)
            vectors_ND[at] = found_KD
        return vectors_ND

    def vector_identity(self, weights: Path | None) -> str:
        """Return the digest of all that a text's vector depends on: the fields that are identity, and the model's files.

        A hub's revision stands for files that are not here.
        """
        found: dict[str, Any] = {"format": "kdbuild-vector/1", **self.identity()}
        if weights is not None and weights.exists():
            found["content"] = content_digest(weights)
        return canonical.digest(found)
