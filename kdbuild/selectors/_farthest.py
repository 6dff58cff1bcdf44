"""Taking vectors one by one, each by how near it is to those taken before: k-center, and the first centres of k-means.

One float32 product and a maximum a step bound, for every row, the cosine with the nearest taken one. Only rows whose bound leaves it open
which is next are scored in float64, in a fixed order of summation, so that what is taken does not depend on the BLAS or its threads.

Shape suffixes: N vectors, C vectors taken, K rows in question, D dimension.
"""

from __future__ import annotations

import numpy as np

from kdbuild.selectors import _sketch
from kdbuild.selectors._similarity import best_matches, cosines

_TAKEN = 2.0
"""Above every cosine."""


class Taken:
    """The cosine of each of some unit vectors with the nearest of those taken so far."""

    def __init__(self, vectors_ND: np.ndarray, fixed_CD: np.ndarray | None = None) -> None:
        """`fixed_CD` are further vectors that count as taken already. Both come from `unit`."""
        scan = _sketch.whole(vectors_ND)
        self.error = scan.over + scan.under
        self._vectors_ND, self._rows, self._row_CD = vectors_ND, list[int](), np.empty((0, vectors_ND.shape[1]))
        self._exact_N = np.full(len(vectors_ND), -1.0)
        if fixed_CD is not None and len(fixed_CD):
            self._exact_N = best_matches(vectors_ND, fixed_CD).cosine_Q
        self._product_N = self._exact_N.astype(np.float32)
        # How many of the taken ones `_exact_N` knows of.
        self._num_seen_N = np.zeros(len(vectors_ND), np.int64)

    @property
    def about_N(self) -> np.ndarray:
        """The cosines, float32, each off by at most `error`; 2 for what is taken itself."""
        return self._product_N

    def take(self, row: int) -> None:
        """Take a row."""
        np.maximum(self._product_N, self._vectors_ND @ self._vectors_ND[row], out=self._product_N)
        self._product_N[row] = _TAKEN
        if len(self._rows) == len(self._row_CD):
            room = np.empty((max(64, 2 * len(self._row_CD)), self._vectors_ND.shape[1]))
            room[: len(self._row_CD)] = self._row_CD
            self._row_CD = room
        self._row_CD[len(self._rows)] = self._vectors_ND[row]
        self._rows.append(row)

    def exact(self, rows: np.ndarray) -> np.ndarray:
        """Return the cosines of some rows: float64, rounded as cosines are before they decide."""
        for count in np.unique(self._num_seen_N[rows]).tolist():
            late = rows[self._num_seen_N[rows] == count]
            if count == len(self._rows):
                continue
            if len(late) > len(self._rows) - count:
                for taken_D in self._row_CD[count : len(self._rows)]:
                    np.put(self._exact_N, late, np.maximum(self._exact_N[late], cosines(taken_D, self._vectors_ND[late])))
            else:
                for row in late.tolist():
                    found = cosines(self._vectors_ND[row], self._row_CD[count : len(self._rows)])
                    self._exact_N[row] = max(self._exact_N[row], found.max())
            self._num_seen_N[late] = len(self._rows)
        exact_K: np.ndarray = self._exact_N[rows]
        return exact_K


def farthest_first(vectors_ND: np.ndarray, num_rows: int, fixed_CD: np.ndarray | None = None) -> tuple[list[int], float]:
    """Return positions, each the row least like all before it (greedy k-center), and the least cosine of any row with the nearest taken.

    Of equal ones the first is taken; the first of all is row 0 where nothing is fixed. `num_rows` is at most the number of rows.
    """
    taken, order = Taken(vectors_ND, fixed_CD), list[int]()
    if fixed_CD is None or not len(fixed_CD):
        taken.take(0)
        order.append(0)
    while len(order) < num_rows:
        row, cosine = _farthest(taken)
        if cosine >= 1.0:
            # All that are left equal a taken one: they follow as they come.
            rest = np.ones(len(vectors_ND), bool)
            rest[order] = False
            return order + np.flatnonzero(rest)[: num_rows - len(order)].tolist(), 1.0
        taken.take(row)
        order.append(row)
    return order, _farthest(taken)[1] if len(order) < len(vectors_ND) else 1.0


def _farthest(taken: Taken) -> tuple[int, float]:
    near = np.flatnonzero(taken.about_N <= taken.about_N.min() + 2 * taken.error)
    cosine_K = taken.exact(near)
    best = int(cosine_K.argmin())
    return int(near[best]), float(cosine_K[best])


def spread(vectors_ND: np.ndarray, num_rows: int, seeds_N: np.ndarray) -> list[int]:
    """Return positions of rows drawn one by one, each with a chance that goes with its squared distance from the nearest drawn before.

    `seeds_N` (uint64) is a number for each row that its draws come of, as a digest of its id: the row that is drawn is the one whose
    exponential waiting time, at a rate of that squared distance, is least; that is the draw of k-means++ (Arthur and Vassilvitskii 2007),
    and a row more or less leaves the others' times as they were. Fewer than `num_rows` come back where the rest equal a drawn one.
    """
    taken, order = Taken(vectors_ND), list[int]()
    while len(order) < min(num_rows, len(vectors_ND)):
        time_N = _waiting_times(seeds_N, len(order))
        if not order:
            row = int(time_N.argmin())
        else:
            # Squared distance of unit vectors: 2 - 2 cosines.
            most_N = 2 - 2 * (taken.about_N.astype(np.float64) - taken.error)
            least_N = np.maximum(2 - 2 * (taken.about_N.astype(np.float64) + taken.error), 0)
            most_N[order] = least_N[order] = 0
            bound = np.divide(time_N, least_N, out=np.full(len(time_N), np.inf), where=least_N > 0).min()
            near = np.flatnonzero((most_N > 0) & (time_N <= bound * most_N if np.isfinite(bound) else True))
            square_K = 2 - 2 * taken.exact(near)
            wait_K = np.divide(time_N[near], square_K, out=np.full(len(near), np.inf), where=square_K > 0)
            if not len(near) or np.isinf(wait_K).all():
                return order
            row = int(near[wait_K.argmin()])
        taken.take(row)
        order.append(row)
    return order


def _waiting_times(seeds_N: np.ndarray, step: int) -> np.ndarray:
    """Return exponential waiting times at rate 1: float64 (N,)."""
    # The mixing function of splitmix64 (Steele, Lea and Flood 2014).
    mixed_N = seeds_N + np.uint64((0x9E3779B97F4A7C15 * (step + 1)) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed_N = (mixed_N ^ (mixed_N >> np.uint64(shift))) * np.uint64(factor)
    mixed_N ^= mixed_N >> np.uint64(31)
    times_N: np.ndarray = -np.log1p(-(mixed_N >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    return times_N
