"""Exact cosine similarity of many vectors, in blocks: no index, no approximation, and no list of pairs that could outgrow the memory.

A float32 matrix product finds candidates; each candidate is scored again in float64, in a fixed order of summation, and rounded. So what
comes out is a function of the vectors alone: the number of threads, the BLAS and the shapes of the blocks cannot change it.

Shape suffixes: N vectors, Q queries, B base vectors, S rows of a strip, T of a tile, D dimension, P width of a scan, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import threadpoolctl

from kdbuild.selectors import _sketch
from kdbuild.selectors._sketch import Scan

NUM_DECIMALS = 6
"""Cosines are rounded to this before anything is decided: what float32 unit vectors can carry, so that a vector has cosine 1.0 with itself
and never 0.99999994."""

_BLOCK = 2048
"""Rows of one step of the greedy cover."""
_STRIP = 256
"""Rows a thread takes at a time; with `_TILE` columns its products are 1 MiB, which stays in the core's own cache for the scan."""
_TILE = 1024


@dataclass(frozen=True)
class Match:
    """The best match of each query."""

    index_Q: np.ndarray
    """int64; the most similar vector, the first where several are equally similar; -1 where none reaches the limit."""
    cosine_Q: np.ndarray
    """float64, rounded to `NUM_DECIMALS`; NaN where there is no match."""

    @staticmethod
    def none(num_queries: int) -> Match:
        """Return what stands before anything is compared."""
        return Match(np.full(num_queries, -1, np.int64), np.full(num_queries, np.nan))

    def improve(self, rows_K: np.ndarray, found: Match) -> None:
        """Take over what is better of the matches found for some of the queries; of equally good ones the first."""
        ours_K, index_K = self.cosine_Q[rows_K], self.index_Q[rows_K]
        # Not `>`: where there is no match yet, its cosine is NaN.
        better_K = ~(found.cosine_Q <= ours_K) | ((found.cosine_Q == ours_K) & (found.index_Q < index_K))
        better_K &= found.index_Q >= 0
        self.index_Q[rows_K[better_K]], self.cosine_Q[rows_K[better_K]] = found.index_Q[better_K], found.cosine_Q[better_K]


def unit(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the vectors as contiguous float32 of length 1; a zero vector stays zero and has cosine 0 with everything.

    Raises:
        ValueError: they are not two-dimensional, or not finite.
    """
    if vectors_ND.ndim != 2:
        raise ValueError(f"vectors must have two dimensions, got {vectors_ND.ndim}")
    vectors_ND = np.ascontiguousarray(vectors_ND, dtype=np.float32)
    norm_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND, dtype=np.float64))
    if not np.isfinite(norm_N).all():
        raise ValueError("vectors must be finite")
    if np.abs(norm_N[norm_N > 0] - 1).max(initial=0.0) <= 1e-6:
        return vectors_ND
    scaled_ND = np.empty_like(vectors_ND)
    for start in range(0, len(vectors_ND), _BLOCK):  # the quotients are float64: never all at once
        block = slice(start, start + _BLOCK)
        scaled_ND[block] = vectors_ND[block] / np.where(norm_N[block] > 0, norm_N[block], 1.0)[:, None]
    return scaled_ND


def cosines(one_D: np.ndarray, others_KD: np.ndarray) -> np.ndarray:
    """Return the cosine of one vector with each of some others: float64 of shape (K,), rounded to `NUM_DECIMALS`."""
    one_D, others_KD = one_D.astype(np.float64), others_KD.astype(np.float64)
    # `sum` along a contiguous axis adds in one order on every machine; a matrix product would not.
    dot_K = (others_KD * one_D).sum(axis=1)
    norms_K = np.sqrt((others_KD * others_KD).sum(axis=1) * (one_D * one_D).sum())
    cosine_K: np.ndarray = np.divide(dot_K, norms_K, out=np.zeros_like(dot_K), where=norms_K > 0)
    return cosine_K.round(NUM_DECIMALS)


def best_matches(queries_QD: np.ndarray, base_BD: np.ndarray, *, at_least: float = -1.0) -> Match:
    """Return, for each query, the most similar base vector whose cosine is at least `at_least`. Both arrays come from `unit`."""
    scan = _sketch.whole(queries_QD)
    base = Base(base_BD, np.arange(len(base_BD)), base_BD)
    with threads() as pool:
        return _best_matches(pool, queries_QD, scan, base, at_least)


def greedy_cover(vectors_ND: np.ndarray, max_cosine: float, *, num_fixed: int = 0) -> Match:
    """Go through the vectors in order and keep each whose cosine with every one kept before it is below `max_cosine`.

    The first `num_fixed` are kept whatever they are like, and not compared with each other.

    Returns:
        For a vector that is not kept, the most similar of those kept before it, and that cosine; for a kept one, -1 and NaN.
    """
    vectors_ND = unit(vectors_ND)
    match = Match.none(len(vectors_ND))
    with threads() as pool:
        scan = _sketch.narrow(vectors_ND, max_cosine)
        cover_range(pool, vectors_ND, scan, num_fixed, range(num_fixed, len(vectors_ND)), match, max_cosine)
    return match


def cover_range(pool: Executor, vectors_ND: np.ndarray, scan: Scan, num_kept: int, rows: range, match: Match, max_cosine: float) -> None:
    """Go on with the cover through consecutive rows, whose matches so far stand in `match`, which is updated.

    They are compared with each other and with the `num_kept` rows before them, all of which count as kept.
    """
    first = rows.start - num_kept
    kept_N = np.empty(num_kept + len(rows), np.int64)
    kept_N[:num_kept] = np.arange(first, rows.start)
    kept_NP = np.empty((len(kept_N), scan.rows_NP.shape[1]), np.float32)
    kept_NP[:num_kept] = scan.rows_NP[first : rows.start]
    for start in range(rows.start, rows.stop, _BLOCK):
        block = slice(start, min(start + _BLOCK, rows.stop))
        base = Base(vectors_ND, kept_N[:num_kept], kept_NP[:num_kept])
        match.improve(np.arange(block.start, block.stop), _best_matches(pool, vectors_ND[block], scan[block], base, max_cosine))
        _cover_inside(pool, vectors_ND, scan, block, match, max_cosine)
        stay = start + np.flatnonzero(match.index_Q[block] < 0)
        kept_N[num_kept : num_kept + len(stay)] = stay
        kept_NP[num_kept : num_kept + len(stay)] = scan.rows_NP[stay]
        num_kept += len(stay)


@dataclass(frozen=True)
class Base:
    """What queries are compared with: some of a set of vectors."""

    vectors_ND: np.ndarray
    member_B: np.ndarray
    """Ascending positions in `vectors_ND`."""
    rows_BP: np.ndarray
    """Their rows of the scan."""


def _cover_inside(pool: Executor, vectors_ND: np.ndarray, scan: Scan, block: slice, match: Match, max_cosine: float) -> None:
    """Go on with the cover among the rows of one block, whose best matches before the block stand in `match`, which is updated."""
    rows_BP, floor = scan.rows_NP[block], max_cosine - scan.under
    strips = range(0, len(rows_BP), _STRIP)
    for near in pool.map(lambda at: _near_before(rows_BP[: at + _STRIP], at, floor), strips):
        for row, earlier in near:
            row, earlier = block.start + row, block.start + earlier
            earlier = earlier[match.index_Q[earlier] < 0]
            if not len(earlier):
                continue
            cosine_K = cosines(vectors_ND[row], vectors_ND[earlier])
            best = int(cosine_K.argmax())
            # Not `>`: where there was no match before the block, the cosine is NaN.
            if cosine_K[best] >= max_cosine and not cosine_K[best] <= match.cosine_Q[row]:
                match.index_Q[row], match.cosine_Q[row] = earlier[best], cosine_K[best]


def _near_before(rows_BP: np.ndarray, at: int, floor: float) -> list[tuple[int, np.ndarray]]:
    """Return the rows from position `at` on that may have a match among the rows before them, with those rows."""
    bound_SB = rows_BP[at:] @ rows_BP.T
    bound_SB[:, at:][np.triu_indices(len(bound_SB))] = -np.inf
    near = np.flatnonzero(bound_SB.max(axis=1) >= floor)
    return [(at + int(row), np.flatnonzero(bound_SB[row] >= floor)) for row in near]


def _best_matches(pool: Executor, queries_QD: np.ndarray, scan: Scan, base: Base, at_least: float) -> Match:
    """Return the best match of each query, as a position in `base.vectors_ND`; `scan` holds the queries' rows."""
    strips = [slice(at, at + _STRIP) for at in range(0, len(queries_QD), _STRIP)]
    found = list(pool.map(lambda strip: match_strip(queries_QD[strip], scan[strip], base, at_least), strips))
    if not found:
        return Match.none(0)
    return Match(np.concatenate([one.index_Q for one in found]), np.concatenate([one.cosine_Q for one in found]))


def match_strip(queries_QD: np.ndarray, scan: Scan, base: Base, at_least: float) -> Match:
    """Return the best match of each of a few queries, by one thread."""
    match = Match.none(len(queries_QD))
    for row, candidates in _candidates(scan, base.rows_BP, at_least).items():
        member_K = base.member_B[np.concatenate(candidates)]
        cosine_K = cosines(queries_QD[row], base.vectors_ND[member_K])
        best = int(cosine_K.argmax())
        if cosine_K[best] >= at_least:
            match.index_Q[row], match.cosine_Q[row] = member_K[best], cosine_K[best]
    return match


def _candidates(scan: Scan, base_BP: np.ndarray, at_least: float) -> dict[int, list[np.ndarray]]:
    """Return, by query, the ascending base positions among which its best match is, if it has one."""
    floor_Q = np.full(len(scan.rows_NP), at_least - scan.under, np.float32)
    found: dict[int, list[np.ndarray]] = {}
    for at in range(0, len(base_BP), _TILE):
        bound_QT = scan.rows_NP @ base_BP[at : at + _TILE].T
        top_Q = bound_QT.max(axis=1)
        rows = np.flatnonzero(top_Q >= floor_Q)
        # The highest product may be too high, and its rival's too low.
        np.maximum(floor_Q, top_Q - scan.over - scan.under, out=floor_Q)
        for row in rows.tolist():
            found.setdefault(row, []).append(at + np.flatnonzero(bound_QT[row] >= floor_Q[row]))
    return found


@contextmanager
def threads() -> Iterator[Executor]:
    """Yield as many threads as the BLAS had, each with a BLAS of its own.

    One thread that multiplies and then scans its own tile is two to three times faster here than a BLAS that shares each product
    among its threads: the scan is parallel too, and finds the tile in the core's cache.
    """
    blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
    num_threads = max((library.num_threads for library in blas.lib_controllers), default=1)
    with blas.limit(limits=1), ThreadPoolExecutor(num_threads) as pool:
        yield pool
