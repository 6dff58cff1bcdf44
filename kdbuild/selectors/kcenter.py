"""Keep rows far from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from kdbuild.selectors import Scene
from kdbuild.selectors._coverage import Coverage

if TYPE_CHECKING:
    import numpy as np


class KCenter(Coverage):
    """Keeps the row whose embedding is farthest from the nearest kept one, again and again: greedy k-center.

    The first row by id is where it starts, or the rows of `against`. Distances are those of unit vectors, by their cosines to six decimals;
    of equally far rows the first by id is kept. select.json says how far the farthest row is from a kept one (`radius`).
    """

    source: ClassVar[str | None] = "Sener and Savarese 2018, arXiv 1708.00489, algorithm 1"
    block: ClassVar[str | None] = "select.kcenter"
    reason: ClassVar[str] = "nearer to a kept row than the farthest rows are"

    kind: Literal["kcenter"] = "kcenter"

    def choose(self, vectors_ND: np.ndarray, num_fixed: int, scene: Scene) -> list[int]:
        """Return the rows farthest first."""
        from kdbuild.selectors._farthest import farthest_first
        from kdbuild.selectors._similarity import unit

        vectors_ND = unit(vectors_ND)
        num_rows = min(self.num_rows, len(vectors_ND) - num_fixed)
        chosen, least = farthest_first(vectors_ND[num_fixed:], num_rows, vectors_ND[:num_fixed])
        scene.facts["radius"] = round(max(2 - 2 * least, 0.0) ** 0.5, 4)
        return chosen
