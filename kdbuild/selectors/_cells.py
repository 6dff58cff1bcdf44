"""Vectors sorted into cells around centres, so that each is compared with a few cells instead of all vectors.

Like everything here, float32 proposes and float64 decides: which cell a vector is in does not depend on the BLAS or its threads.

Shape suffixes: N vectors, S rows of a strip, C centres, P probed cells, K candidates, D dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from kdbuild.selectors import _sketch
from kdbuild.selectors._similarity import Base, Match, cosines, cover_range, greedy_cover, match_strip, threads, unit
from kdbuild.selectors._sketch import Scan

MAX_EXACT = 150_000
"""Vectors up to which every one is compared with every other: beyond it that takes longer than all the rest of a selection."""
_PROBES = 32
"""Cells that a vector is compared with: its own, and those whose centres are next."""
_ROWS_PER_CENTRE, _NUM_STEPS = 32, 5
_BLOCK = 8192
"""Rows that are compared with each other exactly, without cells."""
_STRIP = 512
_NUM_SAMPLED = 5000
"""Rows of which recall is measured; each is compared with all kept ones."""
_TILE = 8192


@dataclass(frozen=True)
class Cover:
    """A greedy cover, and how it was found."""

    match: Match
    facts: dict[str, float] = field(default_factory=dict)
    """Nothing where every pair was compared; else `num_cells`, and `recall` on `num_sampled` rows."""


def cover(vectors_ND: np.ndarray, max_cosine: float, *, num_fixed: int = 0) -> Cover:
    """Return the greedy cover: exact up to `MAX_EXACT` vectors, by cells beyond, where some pairs of near ones are missed.

    A pair that is named always has the cosine it is named with: what is dropped, is dropped rightly; some are kept that should not be.
    """
    if len(vectors_ND) <= MAX_EXACT:
        return Cover(greedy_cover(vectors_ND, max_cosine, num_fixed=num_fixed))
    vectors_ND = unit(vectors_ND)
    with threads() as pool:
        centres_CD = spread_centres(pool, vectors_ND, round((len(vectors_ND) * _PROBES / 2) ** 0.5))
        match = cover_by_cells(pool, vectors_ND, centres_CD, max_cosine, num_fixed)
    sampled = np.unique(np.linspace(num_fixed, len(vectors_ND) - 1, min(_NUM_SAMPLED, len(vectors_ND) - num_fixed)).astype(np.int64))
    found = int((match.index_Q[sampled] >= 0).sum())
    missed = num_missed(vectors_ND, sampled[match.index_Q[sampled] < 0], np.flatnonzero(match.index_Q < 0), max_cosine)
    recall = found / (found + missed) if found + missed else 1.0
    return Cover(match, {"num_cells": len(centres_CD), "num_sampled": len(sampled), "recall": round(recall, 6)})


def cover_by_cells(pool: Executor, vectors_ND: np.ndarray, centres_CD: np.ndarray, max_cosine: float, num_fixed: int) -> Match:
    """Return the cover in which rows far apart in order are compared only where one probes the other's cell."""
    probed_NP = nearest(pool, vectors_ND, centres_CD, min(_PROBES, len(centres_CD)))
    scan, match = _sketch.narrow(vectors_ND, max_cosine), Match.none(len(vectors_ND))
    kept = _Kept.empty(scan, probed_NP[:, 0], len(centres_CD))
    kept.add(np.arange(num_fixed), scan, probed_NP[:, 0])
    for start in range(num_fixed, len(vectors_ND), _BLOCK):
        rows = range(start, min(start + _BLOCK, len(vectors_ND)))

        def compare(one: tuple[int, np.ndarray]) -> tuple[np.ndarray, Match]:
            cell, rows_K = one
            return rows_K, match_strip(vectors_ND[rows_K], scan[rows_K], kept.base(vectors_ND, cell), max_cosine)

        for rows_K, found in pool.map(compare, _by_cell(probed_NP[rows.start : rows.stop], rows.start, kept.num_C)):
            match.improve(rows_K, found)
        cover_range(pool, vectors_ND, scan, 0, rows, match, max_cosine)
        kept.add(rows.start + np.flatnonzero(match.index_Q[rows.start : rows.stop] < 0), scan, probed_NP[:, 0])
    return match


@dataclass(frozen=True)
class _Kept:
    """The rows kept so far, those of a cell side by side."""

    first_C: np.ndarray
    """Where a cell's rows start: it has room for all that are in it."""
    num_C: np.ndarray
    row_N: np.ndarray
    rows_NP: np.ndarray
    """Their rows of the scan."""

    @classmethod
    def empty(cls, scan: Scan, home_N: np.ndarray, num_cells: int) -> _Kept:
        """Return room for all rows."""
        first_C = np.concatenate([[0], np.cumsum(np.bincount(home_N, minlength=num_cells))[:-1]])
        return cls(first_C, np.zeros(num_cells, np.int64), np.empty(len(home_N), np.int64), np.empty_like(scan.rows_NP))

    def add(self, rows: np.ndarray, scan: Scan, home_N: np.ndarray) -> None:
        """Add rows, given in ascending order."""
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            some = some[np.argsort(home_N[some], kind="stable")]
            cells, first, counts = np.unique(home_N[some], return_index=True, return_counts=True)
            at = np.repeat(self.first_C[cells] + self.num_C[cells] - first, counts) + np.arange(len(some))
            self.row_N[at], self.rows_NP[at] = some, scan.rows_NP[some]
            self.num_C[cells] += counts

    def base(self, vectors_ND: np.ndarray, cell: int) -> Base:
        """Return the rows of one cell, to compare with."""
        members = slice(self.first_C[cell], self.first_C[cell] + self.num_C[cell])
        return Base(vectors_ND, self.row_N[members], self.rows_NP[members])


def _by_cell(probed_KP: np.ndarray, first: int, num_C: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the cells that hold something, each with the rows that probe it; `first` is the position of the first row."""
    order = np.argsort(probed_KP, axis=None, kind="stable")
    cells, starts = np.unique(probed_KP.ravel()[order], return_index=True)
    for cell, rows in zip(cells.tolist(), np.split(order // probed_KP.shape[1], starts[1:]), strict=True):
        if num_C[cell]:
            yield from ((cell, first + rows[at : at + _STRIP]) for at in range(0, len(rows), _STRIP))


def num_missed(vectors_ND: np.ndarray, rows: np.ndarray, kept: np.ndarray, max_cosine: float) -> int:
    """Return how many of these rows have a kept row before them, at `max_cosine` or nearer. Compares all with all."""
    floor, missed = max_cosine - _sketch.whole(vectors_ND).under, set[int]()
    for at in range(0, len(kept), _TILE):
        tile = kept[at : at + _TILE]
        near_KT = vectors_ND[rows] @ vectors_ND[tile].T >= floor
        near_KT &= tile < rows[:, None]
        for row in np.flatnonzero(near_KT.any(axis=1)).tolist():
            if cosines(vectors_ND[rows[row]], vectors_ND[tile[near_KT[row]]]).max() >= max_cosine:
                missed.add(row)
    return len(missed)


# --- centres ----------------------------------------------------------------------------------------------------------------


def nearest(pool: Executor, vectors_ND: np.ndarray, centres_CD: np.ndarray, num_nearest: int) -> np.ndarray:
    """Return the positions of each vector's nearest centres, the nearest first and the others in any order: int32 (N, num_nearest).

    Nearest is the highest cosine, rounded; of equal ones the first. Both arrays come from `unit`.
    """
    found_NP = np.empty((len(vectors_ND), num_nearest), np.int32)

    def assign(at: int) -> None:
        strip = slice(at, at + _STRIP)
        found_NP[strip] = _nearest(vectors_ND[strip], centres_CD, num_nearest)

    list(pool.map(assign, range(0, len(vectors_ND), _STRIP)))
    return found_NP


def _nearest(strip_SD: np.ndarray, centres_CD: np.ndarray, num_nearest: int) -> np.ndarray:
    scan = _sketch.whole(centres_CD)
    product_SC, window = strip_SD @ centres_CD.T, scan.over + scan.under
    num_spare = min(num_nearest + 1, len(centres_CD))
    top_SK = np.argpartition(product_SC, len(centres_CD) - num_spare, axis=1)[:, len(centres_CD) - num_spare :]
    value_SK = np.take_along_axis(product_SC, top_SK, axis=1)
    order_SK = np.argsort(-value_SK, axis=1)
    top_SK, value_SK = np.take_along_axis(top_SK, order_SK, axis=1), np.take_along_axis(value_SK, order_SK, axis=1)
    if num_spare > 1:
        # Rows in which the products do not tell which centre comes first, or which is the last.
        close_S = value_SK[:, 0] - value_SK[:, 1] <= window
        if num_spare > num_nearest:
            close_S |= value_SK[:, num_nearest - 1] - value_SK[:, num_nearest] <= window
        for row in np.flatnonzero(close_S).tolist():
            near = np.flatnonzero(product_SC[row] >= value_SK[row, num_nearest - 1] - window)
            top_SK[row, :num_nearest] = near[np.argsort(-cosines(strip_SD[row], centres_CD[near]), kind="stable")[:num_nearest]]
    return top_SK[:, :num_nearest]


def spread_centres(pool: Executor, vectors_ND: np.ndarray, num_centres: int) -> np.ndarray:
    """Return centres of about equally many vectors, found on a part of them."""
    rows = np.unique(np.linspace(0, len(vectors_ND) - 1, num_centres * _ROWS_PER_CENTRE).astype(np.int64))
    sample_SD = vectors_ND[rows]
    return refine(pool, sample_SD, sample_SD[np.linspace(0, len(sample_SD) - 1, num_centres).astype(np.int64)], _NUM_STEPS)[0]


def refine(pool: Executor, vectors_ND: np.ndarray, centres_CD: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Move centres to the mean direction of the vectors nearest to them, until nothing moves or `num_steps` times (spherical k-means).

    Returns:
        The centres, float32 (C, D), and the centre of each vector, (N,). A centre that loses all its vectors stays where it was.
    """
    home_N = nearest(pool, vectors_ND, centres_CD, 1)[:, 0]
    for _ in range(num_steps):
        centres_CD = _means(vectors_ND, home_N, centres_CD)
        before_N, home_N = home_N, nearest(pool, vectors_ND, centres_CD, 1)[:, 0]
        if np.array_equal(before_N, home_N):
            break
    return centres_CD, home_N


def _means(vectors_ND: np.ndarray, home_N: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
    order = np.argsort(home_N, kind="stable")
    cells, starts = np.unique(home_N[order], return_index=True)
    moved_CD = centres_CD.astype(np.float64)
    for cell, members in zip(cells.tolist(), np.split(order, starts[1:]), strict=True):
        # Added in one order, whatever the number of threads.
        moved_CD[cell] = sum(vectors_ND[members[at : at + _BLOCK]].sum(axis=0, dtype=np.float64) for at in range(0, len(members), _BLOCK))
    norm_C = np.sqrt((moved_CD * moved_CD).sum(axis=1))
    moved_CD /= np.where(norm_C > 0, norm_C, 1.0)[:, None]
    return moved_CD.astype(np.float32)
