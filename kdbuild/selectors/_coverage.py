"""What selectors have in common that choose so many rows by their embeddings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._text import Part, meaning, turns

if TYPE_CHECKING:
    import numpy as np

NOTHING_TO_COMPARE = "nothing to compare"


class Coverage(Selector):
    """Base of selectors that choose rows so that those chosen stand for all."""

    needs_embedder: ClassVar[bool] = True
    reason: ClassVar[str] = "chosen rows stand for it"
    """Why the others are dropped."""

    num_rows: int = Field(ge=1, examples=[20])
    """How many training rows are kept; all where there are fewer."""
    of: Part = "both"
    """What is compared: the `prompt`, the `answer`, or `both`, each without system turns. Rows without it are dropped."""
    against: list[str] = []
    """Data sets that earlier phases selected, `<phase>` or `<spec>/<phase>`: their rows count as chosen already."""

    @property
    def pools(self) -> tuple[str, ...]:
        """The data sets whose rows count as chosen."""
        return tuple(self.against)

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row."""
        verdicts = [drop(NOTHING_TO_COMPARE)] * len(rows)
        compared = sorted((i for i, row in enumerate(rows) if turns(row, self.of)), key=lambda i: rows[i].id)
        if not compared:
            return verdicts
        for i in compared:
            verdicts[i] = drop(self.reason)
        fixed = [row for name in self.against for row in scene.pools[name] if turns(row, self.of)]
        vectors_ND = scene.embedder.embed([meaning(row, self.of) for row in [*fixed, *(rows[i] for i in compared)]])
        for position in self.choose(vectors_ND, len(fixed), scene):
            verdicts[compared[position]] = KEEP
        return verdicts

    @abstractmethod
    def choose(self, vectors_ND: np.ndarray, num_fixed: int, scene: Scene) -> list[int]:
        """Return which rows are kept, counted from the first that is not fixed; the rows are in the order of their ids."""
