"""Exact cosine similarity of many vectors, in blocks: no index, no approximation, and no list of pairs that could outgrow the memory.

A float32 matrix product finds candidates; each candidate is scored again in float64, in a fixed order of summation, and rounded. So what
comes out is a function of the vectors alone: the number of threads, the BLAS and the shapes of the blocks cannot change it.

Shape suffixes: N vectors, Q queries, B base vectors, D dimension, K candidates of one query.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import threadpoolctl

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
    with _threads() as pool:
        return _best_matches(pool, queries_QD, base_BD, at_least)


def greedy_cover(vectors_ND: np.ndarray, max_cosine: float) -> Match:
    """Go through the vectors in order and keep each whose cosine with every one kept before it is below `max_cosine`.

    Returns:
        For a vector that is not kept, the most similar of those kept before it, and that cosine; for a kept one, -1 and NaN.
    """
    vectors_ND = unit(vectors_ND)
    match = Match(np.full(len(vectors_ND), -1, np.int64), np.full(len(vectors_ND), np.nan))
    kept_N, kept_ND, num_kept = np.empty(len(vectors_ND), np.int64), np.empty_like(vectors_ND), 0
    with _threads() as pool:
        for start in range(0, len(vectors_ND), _BLOCK):
            block = vectors_ND[start : start + _BLOCK]
            found = _best_matches(pool, block, kept_ND[:num_kept], max_cosine)
            index = np.where(found.index_Q >= 0, kept_N[found.index_Q], -1)
            _cover_inside(pool, block, start, index, found.cosine_Q, max_cosine)
            match.index_Q[start : start + len(block)] = index
            match.cosine_Q[start : start + len(block)] = found.cosine_Q
            stays = np.flatnonzero(index < 0)
            kept_N[num_kept : num_kept + len(stays)] = start + stays
            kept_ND[num_kept : num_kept + len(stays)] = block[stays]
            num_kept += len(stays)
    return match


def _cover_inside(pool: Executor, block_BD: np.ndarray, start: int, index_B: np.ndarray, cosine_B: np.ndarray, max_cosine: float) -> None:
    """Go on with the cover among the rows of one block, whose best matches before the block are given; both arrays are updated."""
    floor = max_cosine - _margin(block_BD.shape[1])
    strips = range(0, len(block_BD), _STRIP)
    for near in pool.map(lambda at: _near_before(block_BD, at, floor), strips):
        for row, earlier in near:
            earlier = earlier[index_B[earlier] < 0]
            if not len(earlier):
                continue
            cosine_K = cosines(block_BD[row], block_BD[earlier])
            best = int(cosine_K.argmax())
            # NaN is less than nothing here: a row without a match before the block takes any that reaches the limit.
            if cosine_K[best] >= max_cosine and not cosine_K[best] <= cosine_B[row]:
                index_B[row], cosine_B[row] = start + earlier[best], cosine_K[best]


def _near_before(block_BD: np.ndarray, at: int, floor: float) -> list[tuple[int, np.ndarray]]:
    """Return the rows of one strip that may have a match among the rows before them in the block, with those rows."""
    strip = block_BD[at : at + _STRIP]
    cosine_SB = strip @ block_BD[: at + len(strip)].T
    cosine_SB[:, at:][np.triu_indices(len(strip))] = -2.0
    near = np.flatnonzero(cosine_SB.max(axis=1) >= floor)
    return [(at + int(row), np.flatnonzero(cosine_SB[row] >= floor)) for row in near]


def _best_matches(pool: Executor, queries_QD: np.ndarray, base_BD: np.ndarray, at_least: float) -> Match:
    strips = [queries_QD[at : at + _STRIP] for at in range(0, len(queries_QD), _STRIP)]
    found = list(pool.map(lambda strip: _strip_matches(strip, base_BD, at_least), strips))
    if not found:
        return Match(np.empty(0, np.int64), np.empty(0))
    return Match(np.concatenate([m.index_Q for m in found]), np.concatenate([m.cosine_Q for m in found]))


def _strip_matches(queries_QD: np.ndarray, base_BD: np.ndarray, at_least: float) -> Match:
    match = Match(np.full(len(queries_QD), -1, np.int64), np.full(len(queries_QD), np.nan))
    for query, candidates in _candidates(queries_QD, base_BD, at_least).items():
        index_K = np.concatenate(candidates)
        cosine_K = cosines(queries_QD[query], base_BD[index_K])
        best = int(cosine_K.argmax())
        if cosine_K[best] >= at_least:
            match.index_Q[query], match.cosine_Q[query] = index_K[best], cosine_K[best]
    return match


def _candidates(queries_QD: np.ndarray, base_BD: np.ndarray, at_least: float) -> dict[int, list[np.ndarray]]:
    """Return, by query, the ascending base positions among which its best match is, if it has one."""
    margin = _margin(queries_QD.shape[1])
    floor_Q = np.full(len(queries_QD), at_least - margin, np.float32)
    found: dict[int, list[np.ndarray]] = {}
    for at in range(0, len(base_BD), _TILE):
        cosine_QT = queries_QD @ base_BD[at : at + _TILE].T
        top_Q = cosine_QT.max(axis=1)
        rows = np.flatnonzero(top_Q >= floor_Q)
        # Both the best seen so far and a rival may be off by the margin.
        np.maximum(floor_Q, top_Q - 2 * margin, out=floor_Q)
        for row in rows.tolist():
            found.setdefault(row, []).append(at + np.flatnonzero(cosine_QT[row] >= floor_Q[row]))
    return found


def _margin(dimension: int) -> float:
    """Return how far a float32 product of unit vectors can be from the rounded cosine, whatever the order of its sums."""
    return (dimension + 2) * 2.0**-24 + 4e-6


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
