"""The static embedder on a model made here: no model of this kind comes in a package of the index."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kdbuild.embedders.model2vec import Model2Vec
from kdbuild.errors import SourceError

EMBEDDER = Model2Vec(model="path:models/static")


def vector_of(folder: Path, word: str) -> np.ndarray:
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(folder)
    return model.embedding[model.tokens.index(word)].astype(np.float64)


def test_a_text_is_the_mean_of_its_words(tiny_static: Path) -> None:
    mean = (vector_of(tiny_static, "sky") + 2 * vector_of(tiny_static, "blue")) / 3
    np.testing.assert_allclose(EMBEDDER.embed(["blue sky blue"], tiny_static)[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_texts_of_unknown_words_are_near_their_equals_only(tiny_static: Path) -> None:
    vectors = EMBEDDER.embed(["зелёный чай", "красный чай", "зелёный чай", "", "tea"], tiny_static).astype(np.float64)
    cosine = vectors @ vectors.T
    assert cosine[0, 2] == pytest.approx(1)
    assert np.abs(cosine[np.triu_indices(5, 1)]).tolist().count(pytest.approx(1)) == 1


def test_batches_change_nothing(tiny_static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'sky ' * (i % 7)}grass {'bread' if i % 2 else 'tax'}" for i in range(50)] + ["water " * 3000]
    whole = EMBEDDER.embed(texts, tiny_static)
    monkeypatch.setattr("kdbuild.embedders.model2vec._BATCH", 7)
    np.testing.assert_allclose(EMBEDDER.embed(texts, tiny_static), whole, atol=1e-6)


@pytest.mark.parametrize("missing", ["everything", "model.safetensors", "tokenizer.json"])
def test_what_is_not_a_model_is_named(tiny_static: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    if missing != "everything":
        shutil.copytree(tiny_static, folder)
        (folder / missing).unlink()
    with pytest.raises(SourceError) as caught:
        EMBEDDER.embed(["a"], folder)
    assert str(folder) in caught.value.message
