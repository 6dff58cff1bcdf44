"""Batched generation from a local causal model, each row by itself: its own seed, its own limit, gone from the batch when it ends."""

# Shape suffixes: B rows of the batch, H key-value heads, T positions so far, D width of a head, V vocabulary.

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicLayer

from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask

_ROWS_PER_BLOCK = 256
"""Mean number of rows whose batches are formed together."""
_GROWTH_TOKENS = 64
"""Positions a cache layer grows by, so that a token is written in place instead of copying everything before it."""


@dataclass
class _Row:
    """One question on its way to an answer."""

    index: int
    ask: Ask
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None

    @property
    def num_tokens_at_most(self) -> int:
        return len(self.prompt) + self.ask.max_new_tokens


class Engine:
    """Generates with one model. Greedy answers are those of `model.generate`; sampled ones depend on the ask's seed alone."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None = None, batch_tokens: int = 8192
    ) -> None:
        """`batch_tokens` bounds rows x (prompt + limit) of one batch."""
        self._model = model
        self._tokenizer = tokenizer
        self._template = chat_template
        self._batch_tokens = batch_tokens
        self._ends = _end_ids(model, tokenizer)
        self._max_positions = getattr(model.config, "max_position_embeddings", None)
        if getattr(model, "_is_stateful", False):
            raise StageError(
                f"{type(model).__name__} keeps a running state instead of past keys and values",
                hint="this teacher's kind batches transformers only; serve the model by another engine",
            )

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) as each row ends."""
        rows: list[_Row] = []
        for index, ask in enumerate(asks):
            read = self._read(index, ask)
            if isinstance(read, _Row):
                rows.append(read)
            else:
                yield index, read
        for batch in batches(rows, self._batch_tokens):
            yield from self._run(batch)

    def _read(self, index: int, ask: Ask) -> _Row | Answer:
        try:
            prompt = self._encode(ask.messages)
        except (TemplateError, ValueError, TypeError) as error:
            return _failure(f"the chat template refuses the messages: {error}")
        if not prompt:
            return _failure("the prompt has no tokens")
        if self._max_positions is not None and len(prompt) + ask.max_new_tokens > self._max_positions:
            room = f"{len(prompt)} prompt tokens and {ask.max_new_tokens} new ones"
            return _failure(f"{room} are more than the model's {self._max_positions} positions", len(prompt))
        row = _Row(index, ask, prompt)
        if ask.temperature > 0:
            row.generator = torch.Generator().manual_seed(ask.seed)
        return row

    def _encode(self, messages: Iterable[Message]) -> list[int]:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        text = self._tokenizer.apply_chat_template(turns, chat_template=self._template, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    # --- one batch -----------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _step(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, positions_BT: torch.Tensor, cache: Cache) -> torch.Tensor:
        out = self._model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: torch.Tensor = out.logits[:, -1].float()
        return logits_BV

    def _run(self, rows: list[_Row]) -> Iterator[tuple[int, Answer]]:
        device = self._model.device
        width = max(len(row.prompt) for row in rows)
        pad = self._tokenizer.pad_token_id or 0
        ids_BT = torch.tensor([[pad] * (width - len(row.prompt)) + row.prompt for row in rows], device=device)
        mask_BT = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=device)
        positions_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)
        cache = Cache(layer_class_to_replicate=RoomyLayer)
        while rows:
            logits_BV = self._step(ids_BT, mask_BT, positions_BT, cache)
            next_B, ok_B = _next_tokens(logits_BV, rows)
            going = []
            for i, row in enumerate(rows):
                answer = self._after(row, next_B[i], ok_B[i])
                if answer is None:
                    going.append(i)
                else:
                    yield row.index, answer
            if len(going) < len(rows):
                keep = torch.tensor(going, dtype=torch.long, device=device)
                cache.batch_select_indices(keep)
                mask_BT, positions_BT = mask_BT[keep], positions_BT[keep]
                next_B = [next_B[i] for i in going]
                rows = [rows[i] for i in going]
            ids_BT = torch.tensor(next_B, device=device).reshape(-1, 1)
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones((len(rows), 1))], dim=1)
            positions_BT = positions_BT[:, -1:] + 1

    def _after(self, row: _Row, token: int, ok: bool) -> Answer | None:
        """Return the answer if the row ends with this token."""
        if not ok:
            return _failure("the model's logits are not numbers", len(row.prompt))
        row.tokens.append(token)
        ended = token in self._ends
        if not ended and len(row.tokens) < row.ask.max_new_tokens:
            return None
        text = self._tokenizer.decode(row.tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(text, ended, len(row.prompt), len(row.tokens))


def batches(rows: Sequence[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    """Yield batches of at most `batch_tokens` positions (one row at least), rows of like length together, the longest first.

    Rows are cut into blocks by the digests of their ids, and batches formed inside a block: a run that starts again with part of
    the rows answered forms the batches of every untouched block as before.
    """
    block: list[_Row] = []
    for row in sorted(rows, key=lambda row: (row.ask.row, row.index)):
        block.append(row)
        if _ends_block(row.ask.row):
            yield from _cut(block, batch_tokens)
            block = []
    yield from _cut(block, batch_tokens)


def _ends_block(row_id: str) -> bool:
    return int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:4], "big") % _ROWS_PER_BLOCK == 0


def _cut(block: list[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    longest = 0
    for row in sorted(block, key=lambda row: -row.num_tokens_at_most):
        longest = max(longest, row.num_tokens_at_most)
        if batch and longest * (len(batch) + 1) > batch_tokens:
            yield batch
            batch, longest = [], row.num_tokens_at_most
        batch.append(row)
    if batch:
        yield batch


# --- tokens -----------------------------------------------------------------------------------------------------------------


def _next_tokens(logits_BV: torch.Tensor, rows: Sequence[_Row]) -> tuple[list[int], list[bool]]:
    """Return each row's next token, and whether its logits are numbers."""
    best_B, next_B = logits_BV.max(dim=-1)
    tokens, ok = next_B.tolist(), torch.isfinite(best_B).tolist()
    for i, row in enumerate(rows):
        if row.generator is not None and ok[i]:
            tokens[i] = _draw(logits_BV[i], row.ask, row.generator)
    return tokens, ok


def _draw(logits_V: torch.Tensor, ask: Ask, generator: torch.Generator) -> int:
    """Draw a token from the likeliest ones that have a share `top_p` of the probability, with one number of the row's own generator."""
    probs_V, order_V = torch.softmax(logits_V.double().cpu() / ask.temperature, dim=-1).sort(descending=True, stable=True)
    total_V = probs_V.cumsum(0)
    kept = 1 + int((total_V < ask.top_p).sum()) if ask.top_p < 1 else len(total_V)
    kept = min(kept, len(total_V))
    point = torch.rand((), generator=generator, dtype=torch.float64) * total_V[kept - 1]
    return int(order_V[min(int(torch.searchsorted(total_V, point, right=True)), kept - 1)])


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    given: Any = getattr(model.generation_config, "eos_token_id", None)
    ends = [given] if isinstance(given, int) else list(given or ())
    return frozenset(int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None)


def _failure(reason: str, num_prompt_tokens: int = 0) -> Answer:
    return Answer("", False, num_prompt_tokens, 0, failed=" ".join(reason.split()))


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Past keys and values of one layer, with room ahead: a new token is written in place."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `key_states` and `value_states` (B, H, new positions, D) and return all, (B, H, T, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._keys_BHTD, self._values_BHTD = key_states[:, :, :0], value_states[:, :, :0]
            self._length = 0
        start, self._length = self._length, self._length + key_states.shape[-2]
        if self._length > self._keys_BHTD.shape[-2]:
            self._keys_BHTD = _grown(self._keys_BHTD, start, self._length + _GROWTH_TOKENS, key_states)
            self._values_BHTD = _grown(self._values_BHTD, start, self._length + _GROWTH_TOKENS, value_states)
        self._keys_BHTD[:, :, start : self._length] = key_states
        self._values_BHTD[:, :, start : self._length] = value_states
        self.keys, self.values = self._keys_BHTD[:, :, : self._length], self._values_BHTD[:, :, : self._length]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        self._keys_BHTD, self._values_BHTD = self._keys_BHTD[indices], self._values_BHTD[indices]
        self.keys, self.values = self._keys_BHTD[:, :, : self._length], self._values_BHTD[:, :, : self._length]


def _grown(old_BHTD: torch.Tensor, length: int, capacity: int, like: torch.Tensor) -> torch.Tensor:
    new_BHTD = like.new_empty((*like.shape[:2], capacity, like.shape[-1]))
    new_BHTD[:, :, :length] = old_BHTD[:, :, :length]
    return new_BHTD
