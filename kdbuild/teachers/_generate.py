"""Answers of a local causal model: rows are written together, each with its own seed, limit and schema, and leave when they end."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbuild.teachers import Answer, Ask
from kdbuild.teachers._batch import Batch, Network, Prefix, cut
from kdbuild.teachers._choose import choose
from kdbuild.teachers._grammar import Grammars
from kdbuild.teachers._next_token import before_stop, next_tokens, stopped, text_of
from kdbuild.teachers._read import read
from kdbuild.teachers._rows import Asked, Choosing, Reading, Unanswerable, Writing, failure, prepare, rounded

_ROWS_PER_BLOCK = 1024
"""Mean number of rows that share a queue."""
_FEWEST_JOINING = 1 / 8
"""Share of the batch below which newcomers wait for more of them: a pass over prompts holds up all who write."""


class Incoming:
    """Asks that may grow while they are answered."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._asks = asks
        self._num_taken = 0

    def take(self) -> list[tuple[int, Ask]]:
        """Return (index, ask) of those that were not taken yet."""
        start, self._num_taken = self._num_taken, len(self._asks)
        return list(enumerate(self._asks[start : self._num_taken], start))


class Engine:
    """Answers with one model. Greedy answers are those of `model.generate`; drawn ones depend on the ask's seed alone."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch_tokens: int = 16384) -> None:
        """`batch_tokens` bounds rows x (prompt + limit) of the batch."""
        self._network = Network(model, tokenizer)
        self._grammars = Grammars(self._network)
        self._batch_tokens = batch_tokens

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) as each is ready; `asks` may grow meanwhile."""
        incoming = Incoming(asks)
        while fresh := incoming.take():
            for block in blocks(fresh):
                yield from self._run(block, incoming)

    def _run(self, block: list[tuple[int, Ask]], incoming: Incoming) -> Iterator[tuple[int, Answer]]:
        """Answer a block: rows join the batch as others leave it, and so do asks that came meanwhile, once the queue is empty."""
        waiting, prefix = yield from self._take(block)
        batch: Batch[Writing] | None = None
        while waiting or batch is not None:
            joining = self._admit(batch, waiting)
            for group in cut(joining, partial(_share, prefix, self._batch_tokens)):
                newcomers = self._network.start(group, prefix)
                yield from self._step(newcomers)
                batch = newcomers if batch is None else batch.join(newcomers)
                batch = batch if batch.rows else None
            if batch is not None and not joining:
                yield from self._step(batch)
                batch = batch if batch.rows else None
            if not waiting:
                waiting, prefix = yield from self._take(incoming.take())

    def _take(self, asked: Iterable[tuple[int, Ask]]) -> Generator[tuple[int, Answer], None, tuple[deque[Writing], Prefix]]:
        """Answer what needs no writing, and return the rest as a queue, long rows first, with what their prompts share."""
        rows: list[Asked] = []
        for index, ask in asked:
            try:
                rows.append(prepare(index, ask, self._network, self._grammars))
            except Unanswerable as error:
                yield index, error.answer
        yield from choose(self._network, [row for row in rows if isinstance(row, Choosing)], self._batch_tokens)
        yield from read(self._network, [row for row in rows if isinstance(row, Reading)], self._batch_tokens)
        writing = [row for row in rows if isinstance(row, Writing)]
        writing.sort(key=lambda row: (-row.num_tokens_at_most, row.ask.row, row.index))
        return deque(writing), self._network.prefix([row.prompt for row in writing])

    def _admit(self, batch: Batch[Writing] | None, waiting: deque[Writing]) -> list[Writing]:
        """Return the rows that join now: as many as there is room for, once that is worth a pass over their prompts."""
        if not waiting:
            return []
        rows = batch.rows if batch is not None else []
        num_slots = self._batch_tokens // max(row.num_tokens_at_most for row in (waiting[0], *rows))
        num_joining = min(num_slots - len(rows), len(waiting))
        if rows and num_joining < max(1, _FEWEST_JOINING * len(rows)):
            return []
        return [waiting.popleft() for _ in range(max(num_joining, 1))]

    def _step(self, batch: Batch[Writing]) -> Iterator[tuple[int, Answer]]:
        """Give every row its next token, yield those that end with it, and leave the batch ready for the one after."""
        logits_BV = self._network.forward(batch).logits[:, -1]
        next_B, logprob_B = next_tokens(logits_BV, batch.rows, self._grammars)
        going = []
        for i, row in enumerate(batch.rows):
            answer = self._after(row, next_B[i], logprob_B[i])
            if answer is None:
                going.append(i)
            else:
                yield row.index, answer
        batch.go_on(going, [next_B[i] for i in going])

    def _after(self, row: Writing, token: int, logprob: float) -> Answer | None:
        """Return the answer if the row ends with this token."""
        if not math.isfinite(logprob):
            return failure("the model's logits are not numbers", len(row.prompt))
        row.tokens.append(token)
        row.logprob += logprob
        if row.matcher is not None:
            row.matcher.accept_token(token)
        tokenizer = self._network.tokenizer
        stop = stopped(row, tokenizer)
        ended = stop or token in self._network.ends
        if not ended and len(row.tokens) < row.ask.max_new_tokens:
            return None
        text = text_of(row.tokens, tokenizer)
        return Answer(
            before_stop(text, row.ask.stop) if stop else text,
            ended,
            len(row.prompt),
            len(row.tokens),
            logprob=rounded(row.logprob),
        )


def _share(prefix: Prefix, batch_tokens: int, row: Writing) -> float:
    """Return the part of a pass over prompts that a row takes up after what all share."""
    return (len(row.prompt) - prefix.num_tokens) / batch_tokens


def blocks(asked: Iterable[tuple[int, Ask]]) -> Iterator[list[tuple[int, Ask]]]:
    """Yield (index, ask) in blocks, cut by the digests of the rows' ids: a run that starts again with part of the rows answered forms
    every untouched block as before.
    """
    block: list[tuple[int, Ask]] = []
    for row_id, members in groupby(sorted(asked, key=lambda one: (one[1].row, one[0])), key=lambda one: one[1].row):
        block += members
        if _ends_block(row_id):
            yield block
            block = []
    if block:
        yield block


def _ends_block(row_id: str) -> bool:
    return int.from_bytes(hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).digest()[:4], "big") % _ROWS_PER_BLOCK == 0
