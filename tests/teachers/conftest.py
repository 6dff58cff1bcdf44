"""A model folder: the fake teacher's network, saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbuild.teachers.fake import Fake
from kdbuild.training.models import save_causal_lm


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return a folder that holds a tiny causal model with its tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("weights")
    save_causal_lm(*Fake(num_layers=2, hidden_size=32).load(Path(), None), folder)
    return folder
