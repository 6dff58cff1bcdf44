"""The graph of near vectors: which pairs reach a cosine. With most of it known from before, only what is new is compared.

The greedy cover on the graph is the one that `_similarity.greedy_cover` finds from the vectors, cosine for cosine, in any order of rows.

Shape suffixes: U vectors (of different texts), N rows, P pairs, S rows of a strip, T of a tile, D dimension, K candidates.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from kdbuild.selectors import _sketch
from kdbuild.selectors._similarity import NUM_DECIMALS, Match, cosines, threads, unit
from kdbuild.selectors._sketch import Scan

_STRIP, _TILE = 256, 1024
_STEP = 8
"""Strips after which the pairs found so far are counted."""
_MIN_SKETCHED = 4096
"""Fewer new vectors are multiplied as they are: a sketch of all would cost more than it spares."""
_MAX_PAIRS_PER_VECTOR = 64
"""A denser graph is not worth having: the cover from the vectors compares with kept rows alone, of which there are then few."""
_SCALE = 10**NUM_DECIMALS
_HEADER = struct.Struct("<dqq")
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Pairs:
    """Every pair of some vectors whose cosine is at least `floor`, each once."""

    floor: float
    pair_P2: np.ndarray
    """int32: two positions."""
    scaled_P: np.ndarray
    """int32: cosines times 10 to the `NUM_DECIMALS`, whole numbers since cosines are rounded."""
    num_compared: int = 0
    """Pairs of vectors that were compared to know this."""


@dataclass(frozen=True)
class Near:
    """The graph over rows, of which several may have the same text."""

    vector_N: np.ndarray
    """int: which vector a row has."""
    pairs: Pairs

    def cover(self, max_cosine: float, *, num_fixed: int = 0) -> Match:
        """Return what `greedy_cover` returns for the rows' vectors; `max_cosine` is not below the graph's floor."""
        return _Cover(self, max_cosine).run(num_fixed)


class _Cover:
    """Who was kept so far, by vector: the first kept row of each."""

    def __init__(self, near: Near, max_cosine: float) -> None:
        self._near = near
        enough_P = near.pairs.scaled_P / _SCALE >= max_cosine
        pair_P2, scaled_P = near.pairs.pair_P2[enough_P], near.pairs.scaled_P[enough_P]
        both, twice = np.concatenate([pair_P2, pair_P2[:, ::-1]]), np.concatenate([scaled_P, scaled_P])
        order = np.argsort(both[:, 0], kind="stable")
        num_vectors = int(max(near.vector_N.max(initial=-1), pair_P2.max(initial=-1))) + 1
        self._start = np.searchsorted(both[order, 0], np.arange(num_vectors + 1)).tolist()
        self._neighbour, self._scaled = both[order, 1].tolist(), twice[order].tolist()
        self._kept = [-1] * num_vectors

    def run(self, num_fixed: int) -> Match:
        match = Match(np.full(len(self._near.vector_N), -1, np.int64), np.full(len(self._near.vector_N), np.nan))
        for row, vector in enumerate(self._near.vector_N.tolist()):
            best = None if row < num_fixed else self._best(vector)
            if best is None:
                if self._kept[vector] < 0:
                    self._kept[vector] = row
            else:
                match.index_Q[row], match.cosine_Q[row] = -best[1], best[0] / _SCALE
        return match

    def _best(self, vector: int) -> tuple[int, int] | None:
        """Return the highest scaled cosine with a kept row, and minus that row: the first of equally near ones."""
        found = [
            (self._scaled[at], -self._kept[self._neighbour[at]])
            for at in range(self._start[vector], self._start[vector + 1])
            if self._kept[self._neighbour[at]] >= 0
        ]
        if self._kept[vector] >= 0:
            found.append((_SCALE, -self._kept[vector]))
        return max(found, default=None)


def complete(vectors_UD: np.ndarray, known_U: np.ndarray, known: Pairs) -> Pairs | None:
    """Return all near pairs, where those among the vectors marked in `known_U` are known; None if there are too many, or no cosine.

    Compares each vector not known with each known one, and those not known with each other.
    """
    vectors_UD = unit(vectors_UD)
    if known.floor <= 0 or not np.einsum("ud,ud->u", vectors_UD, vectors_UD).all():
        return None
    num_known = int(known_U.sum())
    order_U = np.concatenate([np.flatnonzero(known_U), np.flatnonzero(~known_U)])
    num_new = len(order_U) - num_known
    scan = _sketch.narrow(vectors_UD, known.floor) if num_new >= _MIN_SKETCHED else _sketch.whole(vectors_UD)
    search = _Search(vectors_UD, order_U, Scan(scan.rows_NP[order_U], scan.under, scan.over), known.floor)
    found: list[np.ndarray] = []
    with threads() as pool:
        if not search.run(pool, num_known, found):
            return None
    new = np.concatenate(found) if found else np.empty((0, 3), np.int32)
    pair_P2, scaled_P = np.concatenate([known.pair_P2, new[:, :2]]), np.concatenate([known.scaled_P, new[:, 2]])
    return Pairs(known.floor, pair_P2, scaled_P, num_compared=num_new * num_known + num_new * (num_new - 1) // 2)


@dataclass(frozen=True)
class _Search:
    vectors_UD: np.ndarray
    order_U: np.ndarray
    """Positions of the vectors as the scan has them: the known ones first."""
    scan: Scan
    floor: float

    def run(self, pool: Executor, start: int, found: list[np.ndarray]) -> bool:
        """Compare each vector from `start` on with those before it; return whether the pairs were few enough."""
        num_vectors, num_found, rows_done = len(self.order_U), 0, 0
        strips = [range(at, min(at + _STRIP, num_vectors)) for at in range(start, num_vectors, _STRIP)]
        for first in range(0, len(strips), _STEP):
            step = strips[first : first + _STEP]
            for pairs in pool.map(self._strip, step):
                found.append(pairs)
                num_found += len(pairs)
            rows_done += sum(len(strip) for strip in step)
            if num_found > _MAX_PAIRS_PER_VECTOR * (rows_done + _STRIP):
                return False
        return True

    def _strip(self, strip: range) -> np.ndarray:
        """Return the near pairs of some vectors with those before each: int32 of shape (P, 3), two positions and the scaled cosine."""
        rows_SP, floor = self.scan.rows_NP[strip.start : strip.stop], self.floor - self.scan.under
        found = []
        for at in range(0, strip.stop, _TILE):
            bound_ST = rows_SP @ self.scan.rows_NP[at : min(at + _TILE, strip.stop)].T
            for row in np.flatnonzero(bound_ST.max(axis=1) >= floor).tolist():
                earlier_K = at + np.flatnonzero(bound_ST[row] >= floor)
                found.append(self._near(strip.start + row, earlier_K[earlier_K < strip.start + row]))
        return np.concatenate(found) if found else np.empty((0, 3), np.int32)

    def _near(self, row: int, others_K: np.ndarray) -> np.ndarray:
        position, others_K = self.order_U[row], self.order_U[others_K]
        cosine_K = cosines(self.vectors_UD[position], self.vectors_UD[others_K])
        enough_K = cosine_K >= self.floor
        pairs = np.empty((int(enough_K.sum()), 3), np.int32)
        pairs[:, 0], pairs[:, 1], pairs[:, 2] = position, others_K[enough_K], np.rint(cosine_K[enough_K] * _SCALE)
        return pairs


# --- as bytes ------------------------------------------------------------------------------------------------------------


def encode(digests: Sequence[bytes], pairs: Pairs) -> bytes:
    """Return a graph as bytes, with the digests (32 bytes each) of its vectors' texts."""
    head = _HEADER.pack(pairs.floor, len(digests), len(pairs.scaled_P))
    return b"".join([head, *digests, pairs.pair_P2.astype("<i4").tobytes(), pairs.scaled_P.astype("<i4").tobytes()])


def decode(graph: bytes, position: Mapping[bytes, int]) -> tuple[Pairs, np.ndarray]:
    """Return the pairs among those texts that `position` has, at their positions, and which of all positions the graph covers (bool)."""
    floor, num_digests, num_pairs = _HEADER.unpack_from(graph)
    at = _HEADER.size + num_digests * _DIGEST_BYTES
    digests = [graph[i : i + _DIGEST_BYTES] for i in range(_HEADER.size, at, _DIGEST_BYTES)]
    now_V = np.array([position.get(digest, -1) for digest in digests], np.int32)
    numbers = np.frombuffer(graph, "<i4", 3 * num_pairs, at)
    pair_P2, scaled_P = now_V[numbers[: 2 * num_pairs].reshape(-1, 2)], numbers[2 * num_pairs :]
    there_P = (pair_P2 >= 0).all(axis=1)
    known_U = np.zeros(len(position), bool)
    known_U[now_V[now_V >= 0]] = True
    return Pairs(floor, pair_P2[there_P], scaled_P[there_P]), known_U


def nothing(floor: float) -> Pairs:
    """Return what is known before anything was compared."""
    return Pairs(floor, np.empty((0, 2), np.int32), np.empty(0, np.int32))
