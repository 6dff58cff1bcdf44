"""Embedders: how a text becomes a vector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from kdbuild.kinds import Kind

if TYPE_CHECKING:
    import numpy as np


class Embedder(Kind):
    """Base of every embedder."""

    family: ClassVar[str] = "embedders"

    def sources(self) -> tuple[str, ...]:
        """Return the model sources whose files it needs."""
        return ()

    @abstractmethod
    def embed(self, texts: Sequence[str], weights: Path | None) -> np.ndarray:
        """Return unit vectors of `texts`: float32 of shape (number of texts, dimension)."""
