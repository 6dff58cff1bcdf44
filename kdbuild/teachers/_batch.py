"""Rows that go through a causal model together: padded on the left, each with its own positions, what they begin with read once."""

# Shape suffixes: B rows of the batch, T positions, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.teachers._cache import join, keep, new_cache, taken
from kdbuild.teachers._prompts import prompt_ids

_SHORTEST_PREFIX = 8
"""Tokens below which sharing the start of the prompts is not worth a pass of its own."""
_LEAST_FILLED = 0.6
"""Share of a row that is its own rather than padding; with less, a pass of its own is cheaper."""
MOST_NUMBERS = 2**26
"""Numbers that a pass hands over at most, but for a single row that has more: 256 MiB in float32."""


class Prompted(Protocol):
    """What a batch knows of a row."""

    @property
    def prompt(self) -> list[int]:
        """Its tokens before those that are written."""


R = TypeVar("R", bound=Prompted)


@dataclass(frozen=True)
class Prefix:
    """What some prompts share, and the model's past after it (one row)."""

    num_tokens: int
    cache: Cache


@dataclass
class Batch(Generic[R]):
    """Rows, and the input of their next step."""

    rows: list[R]
    ids_BT: torch.Tensor
    """Tokens not yet seen by the model: the prompts (padded on the left), then one a row."""
    mask_BT: torch.Tensor
    """1 where a position holds a token of the row, from its prompt to the last of `ids_BT`."""
    positions_BT: torch.Tensor
    """Position of each of `ids_BT` in its own row."""
    cache: Cache

    @torch.inference_mode()
    def go_on(self, going: list[int], next_B: list[int]) -> None:
        """Keep these rows, with the tokens they got as the next input."""
        if not going:
            self.rows = []
            return
        if len(going) < len(self.rows):
            keep_B = torch.tensor(going, device=self.mask_BT.device)
            mask_BT = self.mask_BT[keep_B]
            first = int(mask_BT.any(0).int().argmax())  # columns that only rows now gone had a token in
            keep(self.cache, keep_B, first)
            self.rows, self.mask_BT, self.positions_BT = [self.rows[i] for i in going], mask_BT[:, first:], self.positions_BT[keep_B]
        self.ids_BT = torch.tensor(next_B, device=self.mask_BT.device)[:, None]
        self.mask_BT = pad(self.mask_BT, (0, 1), value=1)
        self.positions_BT = self.positions_BT[:, -1:] + 1

    @torch.inference_mode()
    def join(self, other: Batch[R]) -> Batch[R]:
        """Return one batch of both, each of which has one token a row as its next input."""
        if not other.rows:
            return self
        join(self.cache, other.cache)
        width = max(self.mask_BT.shape[1], other.mask_BT.shape[1])
        masks = [pad(batch.mask_BT, (width - batch.mask_BT.shape[1], 0)) for batch in (self, other)]
        return Batch(
            [*self.rows, *other.rows],
            torch.cat([self.ids_BT, other.ids_BT]),
            torch.cat(masks),
            torch.cat([self.positions_BT, other.positions_BT]),
            self.cache,
        )


class Network:
    """A causal model and its tokenizer, and how batches go through it."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.ends = _end_ids(model, tokenizer)
        """Tokens that end a turn."""
        self.max_positions: int | None = getattr(model.config, "max_position_embeddings", None)
        if getattr(model, "_is_stateful", False):
            raise StageError(
                f"{type(model).__name__} keeps a running state instead of past keys and values",
                hint="this teacher's kind batches transformers only; serve the model by another engine",
            )

    def encode(self, messages: Iterable[Message]) -> list[int]:
        """Return the tokens of a prompt: the turns, then what the chat template writes before an answer."""
        return prompt_ids(self.tokenizer, messages)

    @torch.inference_mode()
    def prefix(self, prompts: Sequence[list[int]]) -> Prefix:
        """Read what all prompts begin with (the system turn, mostly) once; the last token of each is left to the row's own pass."""
        cache = new_cache()
        shorter = [prompt[:-1] for prompt in prompts]
        first, last = min(shorter, default=[]), max(shorter, default=[])  # what these two share, all between them share
        shared = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
        if len(prompts) < 2 or len(shared) < _SHORTEST_PREFIX:
            return Prefix(0, cache)
        ids_BT = torch.tensor([shared], device=self.model.device)
        self.forward(Batch([], ids_BT, torch.ones_like(ids_BT), torch.arange(len(shared), device=ids_BT.device)[None], cache))
        return Prefix(len(shared), cache)

    def start(self, rows: list[R], prefix: Prefix) -> Batch[R]:
        """Return a batch whose next input is the rows' prompts after the prefix, padded on the left (the positions know nothing of it)."""
        rests = [row.prompt[prefix.num_tokens :] for row in rows]
        width = max(len(rest) for rest in rests)
        filler = self.tokenizer.pad_token_id or 0
        device = self.model.device
        ids_BT = torch.tensor([[filler] * (width - len(rest)) + rest for rest in rests], device=device)
        mask_BT = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device)
        positions_BT = prefix.num_tokens + (mask_BT.cumsum(1) - 1).clamp_min(0)
        cache = taken(prefix.cache, torch.zeros(len(rows), dtype=torch.long, device=device))
        return Batch(rows, ids_BT, pad(mask_BT, (prefix.num_tokens, 0), value=1), positions_BT, cache)

    @torch.inference_mode()
    def forward(self, batch: Batch[Any], num_last: int = 1, **more: Any) -> Any:
        """Return the model's output for a batch's next input, with logits at the last `num_last` of its positions."""
        return self.model(
            input_ids=batch.ids_BT,
            attention_mask=batch.mask_BT,
            position_ids=batch.positions_BT,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=num_last,
            **more,
        )


def cut(rows: Iterable[R], share: Callable[[R], float]) -> Iterator[list[R]]:
    """Yield rows in groups for a pass each, the most costly first; `share` is the part of a pass that a row takes up.

    All rows of a group take up as much as the first, to which they are padded.
    """
    group: list[R] = []
    for row in sorted(rows, key=share, reverse=True):
        if group and ((len(group) + 1) * share(group[0]) > 1 or share(row) < _LEAST_FILLED * share(group[0])):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def num_words(model: PreTrainedModel) -> int:
    """Return the size of a model's vocabulary: the number of its logits."""
    return int(model.get_output_embeddings().weight.shape[0])


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    given: Any = getattr(model.generation_config, "eos_token_id", None)
    ends = [given] if isinstance(given, int) else list(given or ())
    return frozenset(int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None)
