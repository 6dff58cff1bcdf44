import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdbuild.errors import SourceError
from kdbuild.records import sha256_of
from kdbuild.training.models import load_causal_lm, load_tokenizer, save_causal_lm


def test_what_is_saved_loads_with_transformers_alone_and_is_the_same_model(start, tokenizer):
    ours, theirs = load_causal_lm(start), AutoModelForCausalLM.from_pretrained(start)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(start).chat_template == tokenizer.chat_template
    assert not ours.training


def test_saving_again_gives_the_same_bytes_without_versions_or_paths(start, tmp_path):
    save_causal_lm(load_causal_lm(start), load_tokenizer(start), tmp_path)
    before, after = [{p.name: sha256_of(p) for p in folder.iterdir()} for folder in (start, tmp_path)]
    assert before == after
    for path in tmp_path.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "transformers_version" not in text
        assert str(tmp_path) not in text
        assert str(start) not in text


def test_dtype_is_as_asked(start):
    assert load_causal_lm(start, "bfloat16").dtype == torch.bfloat16


def test_a_missing_padding_token_is_the_end_token(start, tmp_path):
    for path in start.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "tokenizer_config.json"
    facts = json.loads(config.read_text())
    facts.pop("pad_token", None)
    config.write_text(json.dumps(facts))
    loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token_id == loaded.eos_token_id


@pytest.mark.parametrize("damage", ["no config", "torn weights", "pickle only", "no folder"])
def test_a_folder_that_is_no_model_is_one_sentence(start, tmp_path, damage):
    folder = tmp_path / "model"
    if damage != "no folder":
        folder.mkdir()
        for path in start.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    if damage == "no config":
        (folder / "config.json").unlink()
    if damage == "torn weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    if damage == "pickle only":
        (folder / "model.safetensors").unlink()
        torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match="does not hold a model that can be loaded"):
        load_causal_lm(folder)


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="hf:nobody/none@abc cannot be fetched"):
        load_causal_lm(Path("hf:nobody/none@abc"))
