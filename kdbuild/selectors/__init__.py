"""Selectors: which rows go on, and why the others do not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdbuild.kinds import Kind
from kdbuild.records import Row

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[Sequence[str]], "np.ndarray"]
"""Texts to unit vectors: float32 of shape (number of texts, dimension)."""


@dataclass(frozen=True)
class Verdict:
    """What a selector says of one row."""

    reason: str | None
    """Why it is dropped; None keeps it. Never holds a threshold: an edit that drops the same rows must leave the same bytes."""
    because_of: str | None = None
    """Id of the kept row that makes this one superfluous."""
    score: float | None = None


KEEP = Verdict(None)


def drop(reason: str, *, because_of: str | None = None, score: float | None = None) -> Verdict:
    """Return the verdict that drops a row."""
    return Verdict(reason, because_of, score)


class Selector(Kind):
    """Base of every selector: pure, and the order of the rows does not matter (they come sorted by id)."""

    family: ClassVar[str] = "selectors"
    needs_embedder: ClassVar[bool] = False

    @abstractmethod
    def judge(self, rows: Sequence[Row], embed: Embed) -> list[Verdict]:
        """Return one verdict a row, in order. `embed` may only be called where `needs_embedder`."""
