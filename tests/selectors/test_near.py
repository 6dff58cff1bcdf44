"""The graph of near vectors against the cover from the vectors themselves."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbuild.selectors import _near
from kdbuild.selectors._near import Near, Pairs, complete, decode, encode, nothing
from kdbuild.selectors._similarity import greedy_cover, unit


def clustered(seed: int, count: int, dimension: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 4), dimension))
    spread = rng.choice([0.0, 0.05, 0.4, 1.0], size=(count, 1))
    return unit((centres[rng.integers(0, len(centres), count)] + spread * rng.standard_normal((count, dimension))).astype(np.float32))


def digest(i: int) -> bytes:
    return hashlib.sha256(str(i).encode()).digest()


def as_set(pairs: Pairs) -> set[tuple[int, int, int]]:
    return {(min(a, b), max(a, b), c) for (a, b), c in zip(pairs.pair_P2.tolist(), pairs.scaled_P.tolist(), strict=True)}


def from_nothing(vectors: np.ndarray, floor: float) -> Pairs:
    pairs = complete(vectors, np.zeros(len(vectors), bool), nothing(floor))
    assert pairs is not None
    return pairs


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_near, "_STRIP", 3)
    monkeypatch.setattr(_near, "_TILE", 5)
    monkeypatch.setattr(_near, "_STEP", 2)


def test_pairs_by_hand() -> None:
    """Angles of 0, 10, 20 and 100 degrees; cos 10 = 0.984808, cos 20 = 0.939693."""
    angles = np.deg2rad([0, 10, 20, 100])
    pairs = from_nothing(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), 0.9)
    assert as_set(pairs) == {(0, 1, 984808), (1, 2, 984808), (0, 2, 939693)}
    assert pairs.num_compared == 6
    cover = Near(np.arange(4), pairs).cover(0.95)
    assert cover.index_Q.tolist() == [-1, 0, -1, -1]
    assert cover.cosine_Q[1] == 0.984808


@pytest.mark.usefixtures("small_blocks")
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 40),
    floor=st.floats(0.05, 1),
    more=st.floats(0, 1),
    num_fixed=st.integers(0, 5),
    known=st.floats(0, 1),
)
def test_cover_equals_that_of_the_vectors(seed: int, count: int, floor: float, more: float, num_fixed: int, known: float) -> None:
    """Rows with equal texts, any order, any part known before, any limit from the floor up."""
    rng = np.random.default_rng(seed)
    vectors = clustered(seed, count, 6)
    part = rng.random(count) < known
    inside = from_nothing(vectors[part], floor)
    at = np.flatnonzero(part)
    pairs = complete(vectors, part, Pairs(floor, at[inside.pair_P2].astype(np.int32).reshape(-1, 2), inside.scaled_P))
    assert pairs is not None
    assert as_set(pairs) == as_set(from_nothing(vectors, floor))
    vector_N = rng.integers(0, count, 2 * count) if count else np.empty(0, np.int64)
    limit, num_fixed = floor + more * (1 - floor), min(num_fixed, len(vector_N))
    ours, expected = (
        Near(vector_N, pairs).cover(limit, num_fixed=num_fixed),
        greedy_cover(vectors[vector_N], limit, num_fixed=num_fixed),
    )
    np.testing.assert_array_equal(ours.index_Q, expected.index_Q)
    np.testing.assert_array_equal(ours.cosine_Q, expected.cosine_Q)


def test_full_size_blocks_and_sketch() -> None:
    vectors = clustered(3, 6000, 96)
    pairs = from_nothing(vectors, 0.9)
    wide = vectors.astype(np.float64)
    near = np.triu(np.round(wide @ wide.T, 6) >= 0.9, 1)
    assert {(a, b) for a, b, _ in as_set(pairs)} == set(zip(*(axis.tolist() for axis in np.nonzero(near)), strict=True))
    assert len(pairs.scaled_P) > 5000


def test_only_what_is_new_is_compared() -> None:
    vectors = clustered(0, 1010)
    known = np.arange(1010) < 1000
    before = from_nothing(vectors[:1000], 0.9)
    after = complete(vectors, known, before)
    assert after is not None
    assert after.num_compared == 10 * 1000 + 45
    assert before.num_compared == 1000 * 999 // 2


def test_too_many_pairs_are_not_worth_a_graph() -> None:
    same = np.repeat(clustered(0, 1, 8), 5000, axis=0)
    assert complete(same, np.zeros(5000, bool), nothing(0.9)) is None


def test_vectors_without_a_direction_have_no_graph() -> None:
    assert complete(np.zeros((2, 4), np.float32), np.zeros(2, bool), nothing(0.5)) is None
    assert complete(clustered(0, 5), np.zeros(5, bool), nothing(0.0)) is None


def test_bytes_read_back_at_other_positions() -> None:
    vectors = clustered(4, 60)
    pairs = from_nothing(vectors, 0.6)
    graph = encode([digest(i) for i in range(60)], pairs)
    now = [5, 70, 9, 40, *range(20, 35)]
    read, known = decode(graph, {digest(i): at for at, i in enumerate(now)})
    assert known.tolist() == [i < 60 for i in now]
    assert read.floor == 0.6
    assert as_set(read) == {
        (min(now.index(a), now.index(b)), max(now.index(a), now.index(b)), c) for a, b, c in as_set(pairs) if {a, b} <= set(now)
    }
    assert as_set(read)
