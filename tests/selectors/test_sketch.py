"""Sketches never lie below the cosine, and change nothing of what is found."""

from __future__ import annotations

import numpy as np
import pytest

from kdbuild.selectors import _similarity, _sketch
from kdbuild.selectors._similarity import greedy_cover, unit


def embeddings(seed: int, count: int = 600, dimension: int = 64, fall: float = 0.5) -> np.ndarray:
    """Return unit vectors whose axes get shorter as those of embeddings do, a third of them near another."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dimension + 1) ** -fall
    vectors = rng.standard_normal((count, dimension)) * scale
    copies = rng.choice(count, count // 3, replace=False)
    vectors[copies] = vectors[rng.integers(0, count, len(copies))] + rng.uniform(0, 0.5, (len(copies), 1)) * scale
    return unit(vectors.astype(np.float32))


@pytest.mark.parametrize("fall", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("limit", [0.7, 0.9, 0.99])
def test_products_of_sketches_bound_the_cosines(monkeypatch: pytest.MonkeyPatch, fall: float, limit: float) -> None:
    monkeypatch.setattr(_sketch, "_MIN_VECTORS", 100)
    vectors = embeddings(1, fall=fall)
    scan = _sketch.narrow(vectors, limit)
    wide = vectors.astype(np.float64)
    assert ((scan.rows_NP @ scan.rows_NP.T) >= wide @ wide.T - scan.under).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [0.5, 0.8, 0.9, 0.97])
def test_cover_with_sketches_is_the_cover_without(monkeypatch: pytest.MonkeyPatch, seed: int, limit: float) -> None:
    monkeypatch.setattr(_similarity, "_BLOCK", 200)
    monkeypatch.setattr(_similarity, "_STRIP", 30)
    monkeypatch.setattr(_similarity, "_TILE", 70)
    vectors = embeddings(seed)
    without = greedy_cover(vectors, limit)
    monkeypatch.setattr(_sketch, "_MIN_VECTORS", 100)
    monkeypatch.setattr(_sketch, "_MAX_WASTE_FRAC", 1.0)
    assert _sketch.narrow(vectors, limit).rows_NP.shape[1] < vectors.shape[1]
    found = greedy_cover(vectors, limit)
    np.testing.assert_array_equal(found.index_Q, without.index_Q)
    np.testing.assert_array_equal(found.cosine_Q, without.cosine_Q)
    assert (found.index_Q >= 0).sum() > 10


def test_a_low_limit_or_few_vectors_take_the_vectors_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = embeddings(0)
    assert _sketch.narrow(vectors, 0.9).rows_NP is vectors
    monkeypatch.setattr(_sketch, "_MIN_VECTORS", 100)
    assert _sketch.narrow(vectors, 0.1).rows_NP is vectors
    assert _sketch.narrow(vectors, 0.9).rows_NP.shape[1] < 64
