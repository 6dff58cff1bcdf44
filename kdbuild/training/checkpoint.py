"""A checkpoint that a kill at any moment leaves whole, and that fits any number of ranks and any ZeRO stage.

One safetensors file holds every trained parameter and AdamW's moments by name, in float32, and the curve so far; it is written beside,
synced and renamed. The optimiser step it was made after, and the key of what it belongs to, are in its header.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from kdbuild import canonical
from kdbuild.training.engine import Engine, state_shapes

NAME = "train.safetensors"


class Checkpoints:
    """The checkpoints of one training phase: the last one, in `folder`."""

    def __init__(self, folder: Path, key: str, interval_s: float, device: torch.device) -> None:
        self.path = folder / NAME
        self.key = key
        self._interval_s = interval_s
        self._device = device
        self._written_at_s = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the interval has passed since the last one; to be asked on rank 0 alone."""
        return time.monotonic() - self._written_at_s >= self._interval_s

    def write(self, engine: Engine, step: int, curve: list[dict[str, Any]]) -> None:
        """Write the state after `step` optimiser steps; every rank takes part, rank 0 writes."""
        is_writer = dist.get_rank() == 0
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in engine.state():
            if is_writer:
                tensors[name] = tensor.detach().to("cpu", torch.float32).contiguous()
        if is_writer:
            partial = self.path.with_name(NAME + ".partial")
            header = {"key": self.key, "step": str(step), "curve": canonical.dumps(curve)}
            save_file(tensors, partial, metadata=header)
            _sync(partial)
            partial.rename(self.path)
            _sync(self.path.parent)
        self._written_at_s = time.monotonic()

    def find(self, module: torch.nn.Module) -> tuple[int, list[dict[str, Any]]]:
        """Load the weights of a checkpoint of this key into a module not yet given to an engine.

        Returns the optimiser steps it holds (0 where there is none), the same on every rank, and on rank 0 the curve up to it.
        """
        step, curve = self._read_header(set(state_shapes(module))) if dist.get_rank() == 0 else (0, [])
        shared = torch.tensor([step], device=self._device)
        dist.broadcast(shared, 0)
        if int(shared):
            trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
            for name, value in self._read({name: p.shape for name, p in trained.items()}):
                trained[name].data.copy_(value)
        return int(shared), curve

    def restore(self, engine: Engine, step: int) -> None:
        """Give an engine that has made one step the master weights and moments of the checkpoint found."""
        for name, value in self._read(engine.shapes):
            engine.set_state(name, value)
        engine.set_num_steps(step)

    def _read_header(self, names: set[str]) -> tuple[int, list[dict[str, Any]]]:
        if not self.path.exists():
            return 0, []
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                header, found = file.metadata(), set(file.keys())
            if header["key"] == self.key and found == names:
                return int(header["step"]), json.loads(header["curve"])
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
            print(f"The checkpoint {self.path} cannot be read; training starts over.", file=sys.stderr)
        return 0, []  # another key: the spec or the data changed since, and it is overwritten

    def _read(self, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, stored value), the same on every rank; rank 0 alone reads the file."""
        file = safetensors.safe_open(self.path, "pt") if dist.get_rank() == 0 else None
        for name, shape in shapes.items():
            value = torch.empty(shape, dtype=torch.float32, device=self._device)
            if file is not None:
                value.copy_(file.get_tensor(name))  # type: ignore[no-untyped-call]
            dist.broadcast(value, 0)
            yield name, value

    def remove(self) -> None:
        """Remove what is there: the phase is done."""
        if dist.get_rank() == 0:
            for path in (self.path, self.path.with_name(NAME + ".partial")):
                path.unlink(missing_ok=True)
            with suppress(OSError):
                self.path.parent.rmdir()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
