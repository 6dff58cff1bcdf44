"""Facility location by lazy greedy, in whole numbers: gains are sums without rounding, so picks do not depend on an order of summation.

A similarity is the cosine to six decimals, times 10^6, not below 0. A float64 product gives it; where that lies so near the middle between
two whole numbers that its low bits decide, it is computed again in a fixed order.

Shape suffixes: N rows, K rows in question, S rows of a strip, M nearest neighbours, D dimension.
"""

from __future__ import annotations

import heapq
from typing import Protocol

import numpy as np

from kdbuild.selectors import _sketch
from kdbuild.selectors._similarity import NUM_DECIMALS, cosines, threads

SCALE = 10**NUM_DECIMALS
MAX_DENSE = 20_000
"""Rows up to which every row counts for every other; beyond it, only the nearest ones do."""
_STRIP = 256
_BATCH = 16
"""Rows whose gains are brought up to date together."""


class Similarities(Protocol):
    """How much rows are served by each other."""

    def gains(self, rows_K: np.ndarray, best_N: np.ndarray) -> np.ndarray:
        """Return by how much choosing each of these would raise the sum of `best_N`: int64 (K,)."""

    def serve(self, row: int, best_N: np.ndarray) -> None:
        """Raise `best_N`, the similarity of each row with the chosen one nearest to it, to what it is with `row` chosen."""


def lazy_greedy(similarities: Similarities, num_rows: int, best_N: np.ndarray) -> list[int]:
    """Return rows, each that which raises the sum of `best_N` (int64, updated) most; of equal ones the first.

    A gain never grows when more is chosen (the sum is submodular), so an old gain is a bound: only rows that might still win are looked at
    again (Minoux 1978). The picks are those of plain greedy.
    """
    first_N = np.concatenate(
        [similarities.gains(np.arange(at, min(at + _STRIP, len(best_N))), best_N) for at in range(0, len(best_N), _STRIP)]
    )
    heap = list(zip((-first_N).tolist(), range(len(best_N)), strict=True))
    heapq.heapify(heap)
    known_at = [0] * len(best_N)
    chosen: list[int] = []
    while len(chosen) < num_rows:
        stale: list[int] = []
        while heap and len(stale) < _BATCH and known_at[heap[0][1]] < len(chosen):
            stale.append(heapq.heappop(heap)[1])
        if not stale:
            row = heapq.heappop(heap)[1]
            similarities.serve(row, best_N)
            chosen.append(row)
            continue
        for row, gain in zip(stale, similarities.gains(np.array(stale), best_N).tolist(), strict=True):
            known_at[row] = len(chosen)
            heapq.heappush(heap, (-gain, row))
    return chosen


class Dense:
    """Every row for every other: kept where the memory allows it, else computed again each time."""

    def __init__(self, vectors_ND: np.ndarray, max_memory_gb: float) -> None:
        """The vectors come from `unit`."""
        self._vectors_ND = vectors_ND
        wide_ND = vectors_ND.astype(np.float64)
        norm_N = np.sqrt((wide_ND * wide_ND).sum(axis=1))
        self._wide_ND = wide_ND / np.where(norm_N > 0, norm_N, 1.0)[:, None]
        self._kept_NN: np.ndarray | None = None
        if 4 * len(vectors_ND) ** 2 <= max_memory_gb * 2**30 / 2:
            kept_NN = np.empty((len(vectors_ND), len(vectors_ND)), np.int32)
            for at in range(0, len(vectors_ND), _STRIP):
                rows = np.arange(at, min(at + _STRIP, len(vectors_ND)))
                kept_NN[at : at + _STRIP, at:] = self._scaled(rows, at)
                kept_NN[at:, at : at + _STRIP] = kept_NN[at : at + _STRIP, at:].T
            self._kept_NN = kept_NN

    def _rows(self, rows_K: np.ndarray) -> np.ndarray:
        scaled_KN: np.ndarray = self._scaled(rows_K) if self._kept_NN is None else self._kept_NN[rows_K]
        return scaled_KN

    def _scaled(self, rows_K: np.ndarray, first: int = 0) -> np.ndarray:
        exact_KN = self._wide_ND[rows_K] @ self._wide_ND[first:].T
        exact_KN *= SCALE
        scaled_KN = np.rint(exact_KN)
        np.subtract(exact_KN, scaled_KN, out=exact_KN)
        np.abs(exact_KN, out=exact_KN)
        for at in np.flatnonzero(exact_KN.max(axis=1, initial=0) > 0.5 - 1e-7).tolist():
            close = np.flatnonzero(exact_KN[at] > 0.5 - 1e-7)
            scaled_KN[at, close] = np.rint(cosines(self._vectors_ND[rows_K[at]], self._vectors_ND[first + close]) * SCALE)
        np.maximum(scaled_KN, 0, out=scaled_KN)
        whole_KN: np.ndarray = scaled_KN.astype(np.int32)
        return whole_KN

    def gains(self, rows_K: np.ndarray, best_N: np.ndarray) -> np.ndarray:
        """Return the gains."""
        served_KN = self._rows(rows_K)
        np.maximum(served_KN, best_N.astype(np.int32), out=served_KN)
        total_K: np.ndarray = served_KN.sum(axis=1, dtype=np.int64) - best_N.sum()
        return total_K

    def serve(self, row: int, best_N: np.ndarray) -> None:
        """Take a row as chosen."""
        np.maximum(best_N, self._rows(np.array([row]))[0], out=best_N)


class Sparse:
    """Each row is served by its nearest neighbours alone, itself among them."""

    def __init__(self, vectors_ND: np.ndarray, num_neighbours: int) -> None:
        """The vectors come from `unit`."""
        index_NM, cosine_NM = neighbours(vectors_ND, min(num_neighbours, len(vectors_ND)))
        order = np.argsort(index_NM, axis=None, kind="stable")
        self._served = order // index_NM.shape[1]
        self._scaled = np.maximum(np.rint(cosine_NM.ravel()[order] * SCALE), 0).astype(np.int64)
        self._start = np.searchsorted(index_NM.ravel()[order], np.arange(len(vectors_ND) + 1))

    def gains(self, rows_K: np.ndarray, best_N: np.ndarray) -> np.ndarray:
        """Return the gains."""
        return np.array([np.maximum(scaled - best_N[served], 0).sum() for served, scaled in map(self._of, rows_K.tolist())], np.int64)

    def serve(self, row: int, best_N: np.ndarray) -> None:
        """Take a row as chosen."""
        served, scaled = self._of(row)
        best_N[served] = np.maximum(best_N[served], scaled)

    def _of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        members = slice(self._start[row], self._start[row + 1])
        return self._served[members], self._scaled[members]


def neighbours(vectors_ND: np.ndarray, num_nearest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest vectors of each, itself among them: int32 positions and float64 cosines, each (N, num_nearest), nearest first.

    Of equally near ones the first come first. Compares all with all.
    """
    index_NM, cosine_NM = np.empty((len(vectors_ND), num_nearest), np.int32), np.empty((len(vectors_ND), num_nearest))
    scan = _sketch.whole(vectors_ND)

    def find(at: int) -> None:
        product_SN = vectors_ND[at : at + _STRIP] @ vectors_ND.T
        for row, product_N in enumerate(product_SN, at):
            least = np.partition(product_N, len(product_N) - num_nearest)[len(product_N) - num_nearest]
            near = np.flatnonzero(product_N >= least - scan.over - scan.under)
            cosine_K = cosines(vectors_ND[row], vectors_ND[near])
            best = np.argsort(-cosine_K, kind="stable")[:num_nearest]
            index_NM[row], cosine_NM[row] = near[best], cosine_K[best]

    with threads() as pool:
        list(pool.map(find, range(0, len(vectors_ND), _STRIP)))
    return index_NM, cosine_NM
