"""Training: rows to token batches, the loop on DeepSpeed, checkpoints, and loading and saving of models."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # DeepSpeed, which transformers' and peft's own imports pull in, otherwise warns that it found no accelerator.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
