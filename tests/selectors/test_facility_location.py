"""Facility location against plain greedy in whole numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbuild.records import Message, Row
from kdbuild.selectors import Scene, _facility
from kdbuild.selectors._facility import SCALE, Dense, Sparse, lazy_greedy, neighbours
from kdbuild.selectors._similarity import unit
from kdbuild.selectors.facility_location import FacilityLocation


def similarities(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return np.maximum(np.rint(wide @ wide.T * SCALE), 0).astype(np.int64)


def plain(similarity: np.ndarray, num_rows: int, best: np.ndarray) -> list[int]:
    order: list[int] = []
    for _ in range(num_rows):
        gains = np.maximum(similarity - best, 0).sum(axis=1)
        gains[order] = -1
        order.append(int(gains.argmax()))
        best = np.maximum(best, similarity[order[-1]])
    return order


def some(seed: int, count: int) -> np.ndarray:
    """Return unit vectors, some of them equal."""
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((count, 6)).astype(np.float32)[rng.integers(0, count, count)])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 50), num_rows=st.integers(1, 50), start=st.integers(0, SCALE))
def test_dense_picks_equal_plain_greedy(seed: int, count: int, num_rows: int, start: int) -> None:
    vectors, num_rows = some(seed, count), min(num_rows, count)
    best = np.full(count, start, np.int64)
    expected = plain(similarities(vectors), num_rows, best)
    for max_memory_gb in (1.0, 1e-9):  # kept, and computed again each time
        assert lazy_greedy(Dense(vectors, max_memory_gb), num_rows, best.copy()) == expected


@pytest.mark.parametrize("num_neighbours", [1, 7, 60, 100])
def test_sparse_picks_equal_plain_greedy_on_the_nearest(num_neighbours: int) -> None:
    vectors = some(3, 60)
    near, _ = neighbours(vectors, min(num_neighbours, 60))
    served = np.zeros((60, 60), bool)
    served[near.ravel(), np.repeat(np.arange(60), near.shape[1])] = True
    expected = plain(np.where(served, similarities(vectors), 0), 20, np.zeros(60, np.int64))
    assert lazy_greedy(Sparse(vectors, num_neighbours), 20, np.zeros(60, np.int64)) == expected


def test_neighbours_equal_a_full_sort() -> None:
    vectors = some(4, 700)
    index, cosine = neighbours(vectors, 9)
    wide = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    exact = (wide @ wide.T).round(6)
    np.testing.assert_array_equal(index, np.argsort(-exact, axis=1, kind="stable")[:, :9])
    np.testing.assert_allclose(cosine, np.take_along_axis(exact, index.astype(int), 1), atol=1e-9)


def test_threads_change_nothing() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((1500, 32)).astype(np.float32))
    with threadpoolctl.threadpool_limits(1, "blas"):
        one = Dense(vectors, 1.0)
    with threadpoolctl.threadpool_limits(4, "blas"):
        four = Dense(vectors, 1.0)
    best = np.zeros(1500, np.int64)
    assert lazy_greedy(one, 40, best.copy()) == lazy_greedy(four, 40, best.copy()) == plain(similarities(vectors), 40, best)


def kept(selector: FacilityLocation, names: str, pools: dict[str, list[Row]] | None = None, **degrees: float) -> tuple[list[str], Scene]:
    def embed(texts):
        radians = np.deg2rad([degrees[text] for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    scene = Scene(Path(), embedder=SimpleNamespace(embed=embed), pools=pools or {})
    rows = [row(name) for name in names]
    return [r.id for r, v in zip(rows, selector.judge(rows, scene), strict=True) if v.reason is None], scene


def row(text: str) -> Row:
    return Row(text, (Message("user", text),))


def test_by_hand() -> None:
    """c at 40 degrees serves a (cos 40 = 0.766044), b (cos 20 = 0.939693), itself and d (cos 50 = 0.642788): 3.348525, and b 3.221406."""
    angles = {"a": 0.0, "b": 20.0, "c": 40.0, "d": 90.0}
    one, scene = kept(FacilityLocation(num_rows=1), "abcd", **angles)
    assert one == ["c"]
    assert scene.facts["coverage"] == pytest.approx(3.348525 / 4, abs=1e-6)
    assert kept(FacilityLocation(num_rows=2), "abcd", **angles)[0] == ["c", "d"]
    assert kept(FacilityLocation(num_rows=1, against=["old"]), "abcd", {"old": [row("z")]}, **angles, z=20)[0] == ["d"]


def test_many_rows_take_the_nearest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = {"a": 0.0, "b": 20.0, "c": 40.0, "d": 90.0}
    monkeypatch.setattr(_facility, "MAX_DENSE", 3)
    assert kept(FacilityLocation(num_rows=2), "abcd", **angles)[0] == ["c", "d"]
    # Each row serves itself alone: all gain the same, and the first by id are kept.
    assert kept(FacilityLocation(num_rows=2, num_neighbours=1), "abcd", **angles)[0] == ["a", "b"]
