"""Word counts as vectors: for a user's CI and for tests, without a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdbuild.embedders import Embedder

if TYPE_CHECKING:
    import numpy as np

_BATCH = 1024


class Fake(Embedder):
    """Each word is a random direction that depends on the word alone; a text is the sum of its words'.

    Texts that share words are near, texts that share none are about at right angles; order and meaning do not matter.
    """

    source: ClassVar[str | None] = "Weinberger et al. 2009, feature hashing, arXiv 0902.2206"

    kind: Literal["fake"] = "fake"
    dimension: int = Field(256, ge=8, le=4096)
    """Length of the vectors."""

    def batches(self, texts: Sequence[str], weights: Path | None) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions in `texts` with their unit vectors: float32 of shape (number of positions, dimension)."""
        import numpy as np

        directions: dict[str, np.ndarray] = {}
        for at in range(0, len(texts), _BATCH):
            batch = texts[at : at + _BATCH]
            vectors = np.zeros((len(batch), self.dimension), dtype=np.float64)
            for vector, text in zip(vectors, batch, strict=True):
                # A word of its own for every text: none has length zero, and empty texts are equal.
                for word in ["", *re.findall(r"\w+", text.casefold())]:
                    if word not in directions:
                        directions[word] = self._direction(word)
                    vector += directions[word]
            # Directions are whole numbers, so the sums are exact and a text's vector does not depend on the order of its words.
            vectors /= np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
            yield list(range(at, at + len(batch))), vectors.astype(np.float32)

    def _direction(self, word: str) -> np.ndarray:
        """Return a vector of +1 and -1."""
        import numpy as np

        noise = hashlib.shake_256(word.encode("utf-8", "surrogatepass")).digest(self.dimension)
        return np.where(np.frombuffer(noise, np.uint8) & 1, 1.0, -1.0)
