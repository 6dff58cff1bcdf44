"""The exact cosine core against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbuild.selectors import _similarity
from kdbuild.selectors._similarity import NUM_DECIMALS, best_matches, cosines, greedy_cover, unit


def plain_cosine(one: np.ndarray, other: np.ndarray) -> float:
    a, b = [float(x) for x in one], [float(x) for x in other]
    norm = math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))
    return round(math.fsum(x * y for x, y in zip(a, b, strict=True)) / norm, NUM_DECIMALS) if norm else 0.0


def plain_cover(vectors: np.ndarray, max_cosine: float) -> list[tuple[int, float]]:
    kept: list[int] = []
    match = []
    for i in range(len(vectors)):
        best = max(((plain_cosine(vectors[i], vectors[j]), -j) for j in kept), default=(-2.0, 0))
        if best[0] >= max_cosine:
            match.append((-best[1], best[0]))
        else:
            kept.append(i)
            match.append((-1, math.nan))
    return match


def clustered(seed: int, count: int, dimension: int = 16) -> np.ndarray:
    """Return vectors around a few centres, some of them equal."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 5), dimension))
    spread = rng.choice([0.0, 0.05, 0.4, 1.0], size=(count, 1))
    return (centres[rng.integers(0, len(centres), count)] + spread * rng.standard_normal((count, dimension))).astype(np.float32)


def assert_same(match: _similarity.Match, expected: list[tuple[int, float]]) -> None:
    assert match.index_Q.tolist() == [index for index, _ in expected]
    np.testing.assert_array_equal(match.cosine_Q, [cosine for _, cosine in expected])


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that small inputs cross every border."""
    monkeypatch.setattr(_similarity, "_BLOCK", 8)
    monkeypatch.setattr(_similarity, "_STRIP", 3)
    monkeypatch.setattr(_similarity, "_TILE", 5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("max_cosine", [-1.0, 0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_cover_equals_the_plain_loop(seed: int, max_cosine: float) -> None:
    vectors = unit(clustered(seed, 50))
    assert_same(greedy_cover(vectors, max_cosine), plain_cover(vectors, max_cosine))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 40), max_cosine=st.floats(-1, 1), block=st.integers(1, 12), strip=st.integers(1, 5))
def test_cover_equals_the_plain_loop_for_any_blocks(seed: int, count: int, max_cosine: float, block: int, strip: int) -> None:
    vectors = unit(clustered(seed, count, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_similarity, "_BLOCK", block)
        patch.setattr(_similarity, "_STRIP", strip)
        patch.setattr(_similarity, "_TILE", strip + 1)
        assert_same(greedy_cover(vectors, max_cosine), plain_cover(vectors, max_cosine))


def test_cover_by_hand() -> None:
    """Angles of 0, 10, 20 and 100 degrees; cos 10 = 0.984808, cos 20 = 0.939693, cos 80 = 0.173648."""
    angles = np.deg2rad([0, 10, 20, 100])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert_same(greedy_cover(vectors, 0.95), [(-1, math.nan), (0, 0.984808), (-1, math.nan), (-1, math.nan)])
    assert_same(greedy_cover(vectors, 0.9), [(-1, math.nan), (0, 0.984808), (0, 0.939693), (-1, math.nan)])
    # At 0.9 the third is nearer to the second, which is not kept: it names the first.
    assert_same(greedy_cover(vectors, -0.5), [(-1, math.nan), (0, 0.984808), (0, 0.939693), (0, -0.173648)])


def test_full_size_blocks_and_planted_pairs() -> None:
    rng = np.random.default_rng(3)
    vectors = unit(rng.standard_normal((5000, 64)).astype(np.float32))
    copies = rng.choice(np.arange(2500, 5000), 800, replace=False)
    originals = rng.integers(0, 2500, 800)
    vectors[copies] = unit(vectors[originals] + 0.03 * rng.standard_normal((800, 64)).astype(np.float32))
    wide = vectors.astype(np.float64)
    cosine = np.round(wide @ wide.T, NUM_DECIMALS)
    kept = np.ones(5000, bool)
    for i in range(5000):
        kept[i] = not (cosine[i, :i][kept[:i]] >= 0.9).any()
    match = greedy_cover(vectors, 0.9)
    np.testing.assert_array_equal(match.index_Q < 0, kept)
    assert (~kept).sum() > 700


def test_number_of_threads_changes_nothing() -> None:
    vectors = clustered(1, 3000, 48)
    with threadpoolctl.threadpool_limits(1, "blas"):
        one = greedy_cover(vectors, 0.8)
    with threadpoolctl.threadpool_limits(4, "blas"):
        four = greedy_cover(vectors, 0.8)
    assert one.index_Q.tobytes() == four.index_Q.tobytes()
    assert one.cosine_Q.tobytes() == four.cosine_Q.tobytes()
    assert (one.index_Q >= 0).sum() > 100


def test_the_border_is_a_drop() -> None:
    """(3, 4) is at cosine 3/5 of (1, 0), which float32 holds as 0.60000002; (0.59999, 0.80001) is just below."""
    vectors = np.array([[1, 0], [3, 4], [0.59999, 0.80001]], np.float32)
    assert greedy_cover(vectors[:2], 0.6).cosine_Q[1] == 0.6
    assert greedy_cover(vectors[:2], 0.600001).index_Q.tolist() == [-1, -1]
    assert greedy_cover(vectors[[0, 2]], 0.6).index_Q.tolist() == [-1, -1]


def test_a_vector_is_at_one_with_itself_whatever_its_length() -> None:
    vectors = clustered(2, 200, 384) * 7.3
    twice = np.concatenate([vectors, vectors * 0.01])
    match = greedy_cover(twice, 1.0)
    assert (match.index_Q[200:] >= 0).all()
    assert (match.cosine_Q[200:] == 1.0).all()


def test_all_equal_rows_leave_the_first() -> None:
    match = greedy_cover(np.ones((5000, 8), np.float32), 0.9)
    assert match.index_Q[0] == -1
    assert (match.index_Q[1:] == 0).all()


def test_zero_vectors_are_like_nothing() -> None:
    vectors = np.array([[0, 0], [1, 0], [0, 0]], np.float32)
    assert greedy_cover(vectors, 0.5).index_Q.tolist() == [-1, -1, -1]
    assert cosines(vectors[0], vectors).tolist() == [0, 0, 0]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("at_least", [-1.0, 0.3, 0.95])
def test_best_matches_equal_the_plain_search(at_least: float) -> None:
    base, queries = unit(clustered(5, 37)), unit(clustered(6, 23))
    base[30] = base[4]
    queries[0] = base[4]
    match = best_matches(queries, base, at_least=at_least)
    for i, query in enumerate(queries):
        scores = [plain_cosine(query, other) for other in base]
        best = int(np.argmax(scores))
        assert match.index_Q[i] == (best if scores[best] >= at_least else -1)
    assert match.index_Q[0] == 4


def test_best_matches_of_nothing() -> None:
    some, none = unit(clustered(0, 3)), np.empty((0, 16), np.float32)
    assert best_matches(none, some).index_Q.shape == (0,)
    assert best_matches(some, none).index_Q.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("bad", [np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]]), np.ones(3)])
def test_what_is_not_a_set_of_vectors_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="vectors must"):
        greedy_cover(bad, 0.9)


def test_input_is_left_as_it_was() -> None:
    vectors = clustered(0, 100)
    before = vectors.copy()
    greedy_cover(vectors, 0.5)
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("num_fixed", [0, 1, 20, 50])
def test_fixed_vectors_are_kept_whatever_they_are_like(num_fixed: int) -> None:
    vectors = unit(clustered(7, 50))
    kept = list(range(num_fixed))
    for i in range(num_fixed, 50):
        if not any(plain_cosine(vectors[i], vectors[j]) >= 0.9 for j in kept):
            kept.append(i)
    assert np.flatnonzero(greedy_cover(vectors, 0.9, num_fixed=num_fixed).index_Q < 0).tolist() == kept
    assert len(kept) < 50 or num_fixed == 50
