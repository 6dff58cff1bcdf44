"""Covers by cells against exact ones."""

from __future__ import annotations

import numpy as np
import pytest
import threadpoolctl

from kdbuild.selectors import _cells
from kdbuild.selectors._cells import cover, nearest, num_missed
from kdbuild.selectors._similarity import greedy_cover, threads, unit


def planted(seed: int, count: int = 3000, dimension: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((count, dimension)).astype(np.float32))
    copies = rng.choice(np.arange(count // 2, count), count // 5, replace=False)
    near = vectors[rng.integers(0, count // 2, len(copies))] + 0.05 * rng.standard_normal((len(copies), dimension)).astype(np.float32)
    vectors[copies] = unit(near)
    return vectors


@pytest.fixture
def by_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cells, "MAX_EXACT", 0)
    monkeypatch.setattr(_cells, "_BLOCK", 64)
    monkeypatch.setattr(_cells, "_STRIP", 10)


@pytest.mark.usefixtures("by_cells")
@pytest.mark.parametrize("num_fixed", [0, 500])
def test_with_all_cells_probed_the_cover_is_the_exact_one(monkeypatch: pytest.MonkeyPatch, num_fixed: int) -> None:
    monkeypatch.setattr(_cells, "_PROBES", 10**6)
    monkeypatch.setattr(_cells, "spread_centres", lambda pool, vectors, count: vectors[:40])
    vectors = planted(0)
    found, exact = cover(vectors, 0.9, num_fixed=num_fixed), greedy_cover(vectors, 0.9, num_fixed=num_fixed)
    np.testing.assert_array_equal(found.match.index_Q, exact.index_Q)
    np.testing.assert_array_equal(found.match.cosine_Q, exact.cosine_Q)
    assert found.facts["recall"] == 1.0


@pytest.mark.usefixtures("by_cells")
def test_with_few_cells_probed_what_is_dropped_is_dropped_rightly_and_recall_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cells, "_PROBES", 2)
    vectors = planted(1)
    found = cover(vectors, 0.9)
    kept = found.match.index_Q < 0
    for row in np.flatnonzero(~kept):
        assert kept[found.match.index_Q[row]]
        assert vectors[row].astype(float) @ vectors[found.match.index_Q[row]] == pytest.approx(found.match.cosine_Q[row], abs=1e-5)
    exact = (vectors.astype(np.float64) @ vectors.astype(np.float64).T).round(6) >= 0.9
    missed = sum(bool((exact[row, :row] & kept[:row]).any()) for row in np.flatnonzero(kept))
    assert found.facts["num_sampled"] == 3000
    assert found.facts["recall"] == round((~kept).sum() / ((~kept).sum() + missed), 6)
    assert 0.5 < found.facts["recall"] < 1


@pytest.mark.usefixtures("by_cells")
def test_threads_change_nothing() -> None:
    vectors = planted(2)
    with threadpoolctl.threadpool_limits(1, "blas"):
        one = cover(vectors, 0.9)
    with threadpoolctl.threadpool_limits(4, "blas"):
        four = cover(vectors, 0.9)
    assert one.match.index_Q.tobytes() == four.match.index_Q.tobytes()
    assert one.facts == four.facts


@pytest.mark.parametrize("num_nearest", [1, 3, 50])
def test_nearest_equals_a_full_sort(num_nearest: int) -> None:
    rng = np.random.default_rng(3)
    centres = unit(rng.standard_normal((50, 8)).astype(np.float32))
    centres[7] = centres[3]
    vectors = np.concatenate([unit(rng.standard_normal((900, 8)).astype(np.float32)), centres])
    with threads() as pool:
        found = nearest(pool, vectors, centres, num_nearest)
    order = np.argsort(-(vectors.astype(np.float64) @ centres.astype(np.float64).T).round(6), axis=1, kind="stable")
    np.testing.assert_array_equal(found[:, 0], order[:, 0])
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(order[:, :num_nearest], axis=1))


def test_few_rows_are_compared_with_all() -> None:
    assert cover(planted(4, 100), 0.9).facts == {}
    vectors = unit(np.float32([[1, 0], [0, 1], [1, 0.01]]))
    assert num_missed(vectors, np.array([2]), np.array([0, 1, 2]), 0.9) == 1
    assert num_missed(vectors, np.array([0, 1]), np.array([0, 1, 2]), 0.9) == 0
