"""Batched generation from a local causal model, each row by itself: its own seed, its own limit, gone from the batch when it ends."""

# Shape suffixes: B rows of the batch, T positions, V vocabulary.

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from jinja2 import TemplateError
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask
from kdbuild.teachers._cache import join, keep, new_cache, repeated

_ROWS_PER_BLOCK = 1024
"""Mean number of rows that share a queue."""
_SHORTEST_PREFIX = 8
"""Tokens below which sharing the start of the prompts is not worth a pass of its own."""


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


@dataclass(frozen=True)
class _Prefix:
    """What the prompts of a block share, and the model's past after it (one row)."""

    num_tokens: int
    cache: Cache


@dataclass
class _Batch:
    """Rows that are generated together, and the input of their next step."""

    rows: list[_Row]
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
    def join(self, other: _Batch) -> _Batch:
        """Return one batch of both, each of which has one token a row as its next input."""
        if not other.rows:
            return self
        join(self.cache, other.cache)
        width = max(self.mask_BT.shape[1], other.mask_BT.shape[1])
        masks = [pad(batch.mask_BT, (width - batch.mask_BT.shape[1], 0)) for batch in (self, other)]
        return _Batch(
            [*self.rows, *other.rows],
            torch.cat([self.ids_BT, other.ids_BT]),
            torch.cat(masks),
            torch.cat([self.positions_BT, other.positions_BT]),
            self.cache,
        )


class Engine:
    """Generates with one model. Greedy answers are those of `model.generate`; sampled ones depend on the ask's seed alone."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None = None, batch_tokens: int = 16384
    ) -> None:
        """`batch_tokens` bounds rows x (prompt + limit) of the batch."""
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
        for block in blocks(rows):
            yield from self._run(block)

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

    # --- one block of rows ---------------------------------------------------------------------------------------------------

    def _run(self, block: list[_Row]) -> Iterator[tuple[int, Answer]]:
        """Answer a block: rows join the batch as others leave it."""
        waiting = deque(sorted(block, key=lambda row: (-row.num_tokens_at_most, row.ask.row, row.index)))
        prefix = self._prefix(block)
        batch: _Batch | None = None
        while waiting or batch is not None:
            if joining := self._admit(batch, waiting):
                newcomers = self._start(joining, prefix)
                yield from self._step(newcomers)
                batch = newcomers if batch is None else batch.join(newcomers)
            else:
                assert batch is not None  # with nobody in the batch somebody is admitted
                yield from self._step(batch)
            if not batch.rows:
                batch = None

    def _admit(self, batch: _Batch | None, waiting: deque[_Row]) -> list[_Row]:
        """Return the rows that join now: as many as there is room for, once that is worth a pass over their prompts."""
        if not waiting:
            return []
        rows = batch.rows if batch is not None else []
        num_slots = self._batch_tokens // max(row.num_tokens_at_most for row in (waiting[0], *rows))
        num_free = num_slots - len(rows)
        if rows and num_free < max(1, min(num_slots // 8, len(waiting))):
            return []
        return [waiting.popleft() for _ in range(min(max(num_free, 1), len(waiting)))]

    @torch.inference_mode()
    def _prefix(self, block: list[_Row]) -> _Prefix:
        """Read what all prompts of the block begin with (the system turn, mostly) once."""
        prompts = [row.prompt[:-1] for row in block]
        first, last = min(prompts), max(prompts)  # what these two share, all between them share
        shared = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
        cache = new_cache()
        if len(block) < 2 or len(shared) < _SHORTEST_PREFIX:
            return _Prefix(0, cache)
        ids_BT = torch.tensor([shared], device=self._model.device)
        self._forward(_Batch([], ids_BT, torch.ones_like(ids_BT), torch.arange(len(shared), device=ids_BT.device)[None], cache))
        return _Prefix(len(shared), cache)

    def _start(self, rows: list[_Row], prefix: _Prefix) -> _Batch:
        """Return a batch whose next input is the rows' prompts after the prefix, padded on the left (the positions know nothing of it)."""
        rests = [row.prompt[prefix.num_tokens :] for row in rows]
        width = max(len(rest) for rest in rests)
        filler = self._tokenizer.pad_token_id or 0
        device = self._model.device
        ids_BT = torch.tensor([[filler] * (width - len(rest)) + rest for rest in rests], device=device)
        mask_BT = torch.tensor([[0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device)
        positions_BT = prefix.num_tokens + (mask_BT.cumsum(1) - 1).clamp_min(0)
        cache = repeated(prefix.cache, len(rows))
        return _Batch(rows, ids_BT, pad(mask_BT, (prefix.num_tokens, 0), value=1), positions_BT, cache)

    @torch.inference_mode()
    def _forward(self, batch: _Batch) -> torch.Tensor:
        out = self._model(
            input_ids=batch.ids_BT,
            attention_mask=batch.mask_BT,
            position_ids=batch.positions_BT,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: torch.Tensor = out.logits[:, -1].float()
        return logits_BV

    def _step(self, batch: _Batch) -> Iterator[tuple[int, Answer]]:
        """Give every row its next token, yield those that end with it, and leave the batch ready for the one after."""
        next_B, ok_B = _next_tokens(self._forward(batch), batch.rows)
        going = []
        for i, row in enumerate(batch.rows):
            answer = self._after(row, next_B[i], ok_B[i])
            if answer is None:
                going.append(i)
            else:
                yield row.index, answer
        batch.go_on(going, [next_B[i] for i in going])

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


def blocks(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    """Yield the rows in blocks, cut by the digests of their ids: a run that starts again with part of the rows answered forms every
    untouched block as before.
    """
    block: list[_Row] = []
    for row in sorted(rows, key=lambda row: (row.ask.row, row.index)):
        block.append(row)
        if _ends_block(row.ask.row):
            yield block
            block = []
    if block:
        yield block


def _ends_block(row_id: str) -> bool:
    return int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:4], "big") % _ROWS_PER_BLOCK == 0


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
