"""Exact cosine similarity of many vectors, in blocks: no index, no approximation, and no list of pairs that could outgrow the memory.

A float32 matrix product finds candidates; each candidate is scored again in float64, in a fixed order of summation, and rounded. So what
comes out is a function of the vectors alone: the number of threads, the BLAS and the shapes of the blocks cannot change it.

Shape suffixes: N vectors, Q queries, B base vectors, S rows of a strip, T of a tile, D dimension, P width of a scan, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

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
    if np.abs(norm_N[norm_N > 0] - 1).max(initial=0.0) > 1e-6:
        vectors_ND = (vectors_ND / np.where(norm_N > 0, norm_N, 1.0)[:, None]).astype(np.float32)
    return vectors_ND


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
    base = _Base(base_BD, np.arange(len(base_BD)), base_BD)
    with _threads() as pool:
        return _best_matches(pool, queries_QD, scan, base, at_least)


def greedy_cover(vectors_ND: np.ndarray, max_cosine: float) -> Match:
    """Go through the vectors in order and keep each whose cosine with every one kept before it is below `max_cosine`.

    Returns:
        For a vector that is not kept, the most similar of those kept before it, and that cosine; for a kept one, -1 and NaN.
    """
    vectors_ND = unit(vectors_ND)
    num_vectors, num_kept = len(vectors_ND), 0
    index_N, cosine_N = np.full(num_vectors, -1, np.int64), np.full(num_vectors, np.nan)
    with _threads() as pool:
        scan = _sketch.narrow(vectors_ND, max_cosine)
        kept_N, kept_NP = np.empty(num_vectors, np.int64), np.empty_like(scan.rows_NP)
        for start in range(0, num_vectors, _BLOCK):
            block = slice(start, min(start + _BLOCK, num_vectors))
            base = _Base(vectors_ND, kept_N[:num_kept], kept_NP[:num_kept])
            found = _best_matches(pool, vectors_ND[block], replace(scan, rows_NP=scan.rows_NP[block]), base, max_cosine)
            index_N[block], cosine_N[block] = found.index_Q, found.cosine_Q
            _cover_inside(pool, vectors_ND, scan, block, Match(index_N, cosine_N), max_cosine)
            stay = start + np.flatnonzero(index_N[block] < 0)
            kept_N[num_kept : num_kept + len(stay)] = stay
            kept_NP[num_kept : num_kept + len(stay)] = scan.rows_NP[stay]
            num_kept += len(stay)
    return Match(index_N, cosine_N)


@dataclass(frozen=True)
class _Base:
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


def _best_matches(pool: Executor, queries_QD: np.ndarray, scan: Scan, base: _Base, at_least: float) -> Match:
    """Return the best match of each query, as a position in `base.vectors_ND`; `scan` holds the queries' rows."""
    index_Q, cosine_Q = np.full(len(queries_QD), -1, np.int64), np.full(len(queries_QD), np.nan)

    def match_strip(at: int) -> None:
        strip = replace(scan, rows_NP=scan.rows_NP[at : at + _STRIP])
        for row, candidates in _candidates(strip, base.rows_BP, at_least).items():
            member_K = base.member_B[np.concatenate(candidates)]
            cosine_K = cosines(queries_QD[at + row], base.vectors_ND[member_K])
            best = int(cosine_K.argmax())
            if cosine_K[best] >= at_least:
                index_Q[at + row], cosine_Q[at + row] = member_K[best], cosine_K[best]

    list(pool.map(match_strip, range(0, len(queries_QD), _STRIP)))
    return Match(index_Q, cosine_Q)


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
def _threads() -> Iterator[Executor]:
    """Yield as many threads as the BLAS had, each with a BLAS of its own.

    One thread that multiplies and then scans its own tile is two to three times faster here than a BLAS that shares each product
    among its threads: the scan is parallel too, and finds the tile in the core's cache.
    """
    blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
    num_threads = max((library.num_threads for library in blas.lib_controllers), default=1)
    with blas.limit(limits=1), ThreadPoolExecutor(num_threads) as pool:
        yield pool
