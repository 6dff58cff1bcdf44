"""Heads and labels of odd sizes: more than one chunk, the last one not full."""

import pytest
import torch

from kdbuild.objectives import Head, Signals
from kdbuild.objectives._chunked import CHUNK_ROWS

NUM_POSITIONS = 2 * CHUNK_ROWS + 5
VOCABULARY = 61


def make_signals(seed=0, num_positions=NUM_POSITIONS, dtype=torch.float32, width=12, teacher_width=7):
    chance = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=chance).to(dtype)

    student = Head(normal(num_positions, width).requires_grad_(), normal(VOCABULARY, width).requires_grad_())
    teacher = Head(normal(num_positions, teacher_width), normal(VOCABULARY, teacher_width))
    labels = torch.randint(0, VOCABULARY, (num_positions,), generator=chance)
    return Signals(student, labels, teacher)


@pytest.fixture
def signals():
    """Return the function that makes signals."""
    return make_signals
