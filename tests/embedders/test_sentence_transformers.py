"""The sentence-transformers embedder against the library itself, and what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from kdbuild.embedders.sentence_transformers import SentenceTransformers, _batches
from kdbuild.errors import SourceError

EMBEDDER = SentenceTransformers(model="path:models/tiny")


def test_vectors_are_the_librarys_own(tiny_model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["the sky is blue", "how do i bake bread?", "", "tax " * 200, *(f"water {c}" for c in "abcdefgh")]
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(EMBEDDER.embed(texts, tiny_model), expected, atol=1e-5)


def test_batches_cover_every_text_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 1, 20, 120, 2, 0]
    batches = list(_batches(lengths, 60))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 60 for batch in batches)
    assert len(batches) < len(lengths)


@pytest.mark.parametrize("missing", ["everything", "modules.json", "model.safetensors"])
def test_what_is_not_a_model_is_named(tiny_model: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    if missing != "everything":
        shutil.copytree(tiny_model, folder)
        next(folder.rglob(missing)).unlink()
    with pytest.raises(SourceError, match="model") as caught:
        EMBEDDER.embed(["a"], folder)
    assert str(folder) in caught.value.message


def test_a_models_own_code_never_runs(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil: pass\n", encoding="utf-8"
    )
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["type"] = "evil.Evil"
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(SourceError):
        EMBEDDER.embed(["a"], folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = next(folder.rglob("model.safetensors"))
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(SourceError):
        EMBEDDER.embed(["a"], folder)


def test_a_source_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="does not say where the model is"):
        SentenceTransformers(model="sentence-transformers/all-MiniLM-L6-v2")


def test_a_models_own_prompt_and_length_are_taken(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_model), device="cpu", prompts={"asked": "how do i "}, default_prompt_name="asked", truncate_dim=16)
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    config = json.loads((tmp_path / "model/config_sentence_transformers.json").read_text(encoding="utf-8"))
    (tmp_path / "model/config_sentence_transformers.json").write_text(json.dumps({**config, "truncate_dim": 16}), encoding="utf-8")
    texts = ["bake bread", "boil water in an oven", ""]
    loaded = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    expected = loaded.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(EMBEDDER.embed(texts, tmp_path / "model"), expected, atol=1e-5)
    assert np.abs(EMBEDDER.embed(texts, tiny_model)[:, : expected.shape[1]] - expected).max() > 0.01


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_of_torch_change_nothing_and_stay(tiny_model: Path, num_threads: int) -> None:
    import torch

    texts = [f"how do i bake {'bread ' * (i % 9)}{i}" for i in range(60)]
    embedder, before = EMBEDDER.model_copy(update={"batch_tokens": 64, "device": "cpu"}), torch.get_num_threads()
    expected = embedder.embed(texts, tiny_model)
    torch.set_num_threads(num_threads)
    try:
        assert embedder.embed(texts, tiny_model).tobytes() == expected.tobytes()
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
