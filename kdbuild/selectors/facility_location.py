"""Keep rows that stand for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdbuild.selectors import Scene
from kdbuild.selectors._coverage import Coverage

if TYPE_CHECKING:
    import numpy as np


class FacilityLocation(Coverage):
    """Keeps the rows that make the sum, over all rows, of the cosine with the nearest kept one large: f(A) = sum_i max_{j in A} cos(i, j).

    Greedy, so at least 1 - 1/e of the largest sum; a cosine below 0 counts as 0. Up to 20,000 rows every pair counts, beyond it each row
    and its `num_neighbours` nearest; finding those takes time that grows with the square of the rows. Of equally good rows the first by id
    is kept. select.json says the mean cosine of a row with the nearest kept one (`coverage`).
    """

    source: ClassVar[str | None] = "Nemhauser, Wolsey and Fisher 1978; Lin and Bilmes 2011, P11-1052; Minoux 1978 (lazy greedy)"
    block: ClassVar[str | None] = "select.kcenter"

    kind: Literal["facility-location"] = "facility-location"
    num_neighbours: int = Field(100, ge=1)
    """How many nearest rows a row can stand for or be served by, where there are more than 20,000."""

    def choose(self, vectors_ND: np.ndarray, num_fixed: int, scene: Scene) -> list[int]:
        """Return the rows, the one that gains most first."""
        import numpy as np

        from kdbuild.selectors import _facility
        from kdbuild.selectors._similarity import best_matches, unit

        vectors_ND = unit(vectors_ND)
        fixed_CD, vectors_ND = vectors_ND[:num_fixed], vectors_ND[num_fixed:]
        best_N = np.zeros(len(vectors_ND), np.int64)
        if num_fixed:
            best_N = np.maximum(np.rint(best_matches(vectors_ND, fixed_CD).cosine_Q * _facility.SCALE), 0).astype(np.int64)
        similarities: _facility.Similarities
        if len(vectors_ND) <= _facility.MAX_DENSE:
            similarities = _facility.Dense(vectors_ND, scene.max_memory_gb)
        else:
            similarities = _facility.Sparse(vectors_ND, self.num_neighbours)
        chosen = _facility.lazy_greedy(similarities, min(self.num_rows, len(vectors_ND)), best_N)
        scene.facts["coverage"] = round(int(best_N.sum()) / (_facility.SCALE * len(best_N)), 6)
        return chosen
