"""Past keys and values of a batch whose rows come and go."""

# Shape suffixes: B rows of the batch, H key-value heads, T positions so far, D width of a head.

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

_GROWTH_TOKENS = 64
"""Positions a layer grows by, so that a token is written in place instead of copying everything before it."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Past keys and values of one layer, with room ahead."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `key_states` and `value_states` (B, H, new positions, D) and return all, (B, H, T, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
            self._room_BHTD = (self.keys, self.values)
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._room_BHTD[0].shape[-2]:
            self._room_BHTD = (_placed([self.keys], start, end + _GROWTH_TOKENS), _placed([self.values], start, end + _GROWTH_TOKENS))
        for room_BHTD, new_BHTD in zip(self._room_BHTD, (key_states, value_states), strict=True):
            room_BHTD[:, :, start:end] = new_BHTD
        self._show(end)
        return self.keys, self.values

    def keep(self, indices_B: torch.Tensor, first: int) -> None:
        """Keep these rows of the batch, and the positions from `first` on."""
        length = self.keys.shape[-2] - first
        self._room_BHTD = (self._room_BHTD[0][indices_B, :, first:], self._room_BHTD[1][indices_B, :, first:])
        self._show(length)

    def join(self, other: RoomyLayer) -> None:
        """Take in another batch: its rows come after these, and both end at the same position."""
        length = max(self.keys.shape[-2], other.keys.shape[-2])
        keys_BHTD, values_BHTD = [self.keys, other.keys], [self.values, other.values]
        self._room_BHTD = (_placed(keys_BHTD, length, length + _GROWTH_TOKENS), _placed(values_BHTD, length, length + _GROWTH_TOKENS))
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self._room_BHTD[0][:, :, :length], self._room_BHTD[1][:, :, :length]


def new_cache() -> Cache:
    """Return an empty cache of full attention; models with a sliding window mask what is outside it."""
    return Cache(layer_class_to_replicate=RoomyLayer)


def taken(cache: Cache, indices_B: torch.Tensor) -> Cache:
    """Return the past of these rows, each as often as it is named, as a cache of its own."""
    new = new_cache()
    for index, layer in enumerate(cache.layers):
        new.update(layer.keys[indices_B], layer.values[indices_B], index)
    return new


def join(cache: Cache, other: Cache) -> None:
    """Take another batch's past into `cache`."""
    for layer, joining in zip(cache.layers, other.layers, strict=True):
        layer.join(joining)


def keep(cache: Cache, indices_B: torch.Tensor, first: int) -> None:
    """Keep these rows of the batch, and the positions from `first` on."""
    for layer in cache.layers:
        layer.keep(indices_B, first)


def _placed(parts_BHTD: list[torch.Tensor], end: int, room: int) -> torch.Tensor:
    """Return the parts one under the other in `room` positions, each ending at position `end`; what is before a part is zero."""
    like = parts_BHTD[0]
    num_rows = sum(part.shape[0] for part in parts_BHTD)
    # Zeros, not what memory held: a masked position still enters a product, and NaN times nothing is NaN.
    placed_BHTD = like.new_zeros((num_rows, like.shape[1], room, like.shape[3]))
    row = 0
    for part in parts_BHTD:
        placed_BHTD[row : row + part.shape[0], :, end - part.shape[2] : end] = part
        row += part.shape[0]
    return placed_BHTD
