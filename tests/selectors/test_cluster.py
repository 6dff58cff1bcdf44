"""Clusters, and shares of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl
from pydantic import ValidationError
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from kdbuild.errors import StageError
from kdbuild.records import Message, Row
from kdbuild.selectors import Scene, _cells
from kdbuild.selectors._cells import refine
from kdbuild.selectors._similarity import threads, unit
from kdbuild.selectors.cluster import Cluster


def blobs(seed: int = 0, count: int = 600, num_blobs: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    home = rng.integers(0, num_blobs, count)
    return unit((rng.standard_normal((num_blobs, 12))[home] + 0.15 * rng.standard_normal((count, 12))).astype(np.float32)), home


def rows_of(count: int) -> list[Row]:
    return [
        Row(f"r{i:04d}", (Message("user", str(i)),), scores={"s": float(i % 7)}, meta={"topic": "ab"[i % 3 == 0]}) for i in range(count)
    ]


def scene(vectors: np.ndarray) -> Scene:
    return Scene(Path(), embedder=SimpleNamespace(embed=lambda texts: vectors[[int(text) for text in texts]]))


def clusters(selector: Cluster, vectors: np.ndarray) -> list[str | None]:
    rows = rows_of(len(vectors))
    return [v.row.meta["cluster"] if v.row else None for v in selector.judge(rows, scene(vectors))]


def test_clusters_are_the_planted_ones() -> None:
    vectors, home = blobs()
    found = clusters(Cluster(num_clusters=6), vectors)
    assert adjusted_rand_score(home, found) == 1.0
    assert adjusted_rand_score(KMeans(6, n_init=3, random_state=0).fit_predict(vectors), found) == 1.0


def test_a_cluster_is_named_by_the_row_nearest_its_centre() -> None:
    vectors, _ = blobs()
    found = clusters(Cluster(num_clusters=6), vectors)
    for name in set(found):
        members = [i for i, cluster in enumerate(found) if cluster == name]
        centre = vectors[members].astype(np.float64).mean(axis=0)
        assert name == f"r{members[int((vectors[members] @ centre).argmax())]:04d}"


def test_refining_equals_plain_spherical_k_means() -> None:
    vectors = unit(np.random.default_rng(5).standard_normal((2000, 10)).astype(np.float32))
    centres = vectors[:9]
    with threads() as pool:
        found, home = refine(pool, vectors, centres, 7)
    plain = centres.astype(np.float64)
    for _ in range(7):
        near = (vectors @ plain.T).argmax(axis=1)
        plain = np.stack([vectors[near == c].sum(axis=0, dtype=np.float64) for c in range(9)])
        plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(found, plain, atol=1e-5)
    np.testing.assert_array_equal(home, (vectors @ plain.T).argmax(axis=1))


def test_threads_and_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(np.random.default_rng(6).standard_normal((1500, 16)).astype(np.float32))
    with threadpoolctl.threadpool_limits(1, "blas"):
        one = clusters(Cluster(num_clusters=20), vectors)
    monkeypatch.setattr(_cells, "_STRIP", 7)
    with threadpoolctl.threadpool_limits(4, "blas"):
        assert clusters(Cluster(num_clusters=20), vectors) == one
    assert len(set(one)) == 20


def test_how_many_are_kept() -> None:
    vectors, home = blobs(count=100, num_blobs=3)
    sizes = np.bincount(home)
    each = clusters(Cluster(num_clusters=3, num_each=5), vectors)
    assert sorted(Counter(filter(None, each)).values()) == [5, 5, 5]
    shared = clusters(Cluster(num_clusters=3, num_rows=50, share="proportional"), vectors)
    assert sorted(Counter(filter(None, shared)).values()) == sorted(np.rint(sizes / 2).astype(int).tolist())


@pytest.mark.parametrize(
    ("share", "num_rows", "expected"),
    # Of 9 rows 3 are `b` (every third) and 6 are `a`.
    [
        ("equal", 6, (3, 3)),
        ("equal", 8, (5, 3)),
        ("equal", 3, (2, 1)),
        ("proportional", 6, (4, 2)),
        ("proportional", 4, (3, 1)),
        ("equal", 99, (6, 3)),
    ],
)
def test_shares_by_hand(share: str, num_rows: int, expected: tuple[int, int]) -> None:
    rows = rows_of(9)
    verdicts = Cluster(per="topic", num_rows=num_rows, share=share, by_score="s").judge(rows, Scene(Path()))
    kept = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.reason is None]
    assert tuple(sum(row.meta["topic"] == topic for row in kept) for topic in "ab") == expected
    assert all(verdict.row is None for verdict in verdicts)
    for topic in "ab":
        left = [row.scores["s"] for row, v in zip(rows, verdicts, strict=True) if v.reason and row.meta["topic"] == topic]
        assert max(left, default=-1) <= min(row.scores["s"] for row in kept if row.meta["topic"] == topic)


def test_rows_alike_and_rows_without_the_field() -> None:
    assert len(set(clusters(Cluster(num_clusters=4), np.tile(np.float32([[0.6, 0.8]]), (9, 1))))) == 1
    assert Cluster(num_clusters=4).judge([], scene(np.empty((0, 2), np.float32))) == []
    with pytest.raises(StageError, match=r"no `meta\.genre`"):
        Cluster(per="genre").judge(rows_of(2), Scene(Path()))


@pytest.mark.parametrize("wrong", [{}, {"num_clusters": 2, "per": "topic"}, {"per": "topic", "num_each": 1, "num_rows": 1}])
def test_one_way_to_group_and_one_to_count(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"not both|in one way"):
        Cluster.model_validate(wrong)
