"""What every embedder promises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbuild import kinds
from kdbuild.embedders import Embedder

TEXTS = [
    "How do I boil water?",
    "how do i boil the water",
    "Stock prices fell today, tax law is green.",
    "",
    "bake sourdough bread in an oven " * 40,
    "x",
]


def example(kind: str) -> Embedder:
    """Return the kind with its defaults and, where a field has none, the example it gives."""
    cls = kinds.load("embedders", kind)
    required = {name: field.examples[0] for name, field in cls.model_fields.items() if field.is_required() and field.examples}
    return cls.model_validate({"kind": kind, **required})


@pytest.fixture(params=kinds.available("embedders"))
def embedder(request: pytest.FixtureRequest) -> Embedder:
    return example(request.param)


@pytest.fixture
def weights(embedder: Embedder, tiny_model: Path, tiny_static: Path) -> Path | None:
    made = {"model2vec": tiny_static}
    return made.get(embedder.kind, tiny_model) if embedder.sources() else None


def test_vectors_are_float32_of_length_one(embedder: Embedder, weights: Path | None) -> None:
    vectors = embedder.embed(TEXTS, weights)
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == len(TEXTS)
    assert vectors.ndim == 2
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1.0, atol=1e-6)


def test_twice_gives_the_same_bytes(embedder: Embedder, weights: Path | None) -> None:
    assert embedder.embed(TEXTS, weights).tobytes() == embedder.embed(TEXTS, weights).tobytes()


def test_neither_order_nor_company_matters(embedder: Embedder, weights: Path | None) -> None:
    together = embedder.embed(TEXTS, weights)
    np.testing.assert_allclose(embedder.embed(TEXTS[::-1], weights)[::-1], together, atol=1e-5)
    alone = np.concatenate([embedder.embed([text], weights) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_knobs_move_low_bits_only(embedder: Embedder, weights: Path | None) -> None:
    base = embedder.embed(TEXTS, weights)
    values: dict[str, list[Any]] = {"batch_tokens": [1, 70, 10**9], "device": ["cpu"]}
    for knob in kinds.knobs(type(embedder)):
        for value in values[knob]:
            turned = embedder.model_copy(update={knob: value})
            assert turned.identity() == embedder.identity()
            np.testing.assert_allclose(turned.embed(TEXTS, weights), base, atol=1e-5)


def test_near_texts_are_nearer_than_far_ones(embedder: Embedder, weights: Path | None) -> None:
    one, near, far = embedder.embed(TEXTS[:3], weights)
    assert one @ near > one @ far + 0.05


def test_no_texts_give_no_vectors(embedder: Embedder, weights: Path | None) -> None:
    assert len(embedder.embed([], weights)) == 0


def test_identity_of_vectors_knows_the_models_files(embedder: Embedder, weights: Path | None, tmp_path: Path) -> None:
    known = embedder.vector_identity(weights)
    for knob in kinds.knobs(type(embedder)):
        assert embedder.model_copy(update={knob: 7}).vector_identity(weights) == known
    if weights is not None:
        shutil.copytree(weights, tmp_path / "same")
        assert embedder.vector_identity(tmp_path / "same") == known
        (tmp_path / "same/config.json").write_text("{}", encoding="utf-8")
        assert embedder.vector_identity(tmp_path / "same") != known
