"""How likely each of some given answers is: each as the whole continuation of the prompt, its end of turn left out."""

# Shape suffixes: B rows of the batch, C continuations of one pass, T positions, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from kdbuild.teachers import Answer
from kdbuild.teachers._batch import MOST_NUMBERS, Batch, Network, cut, num_words
from kdbuild.teachers._cache import taken
from kdbuild.teachers._rows import Choosing, failure, rounded


@dataclass(frozen=True)
class _Text:
    """The only choice of a row, behind its prompt: one text to be read."""

    row: Choosing

    @property
    def tokens(self) -> list[int]:
        """Those whose likelihood is wanted."""
        return self.row.choices[0]

    @property
    def prompt(self) -> list[int]:
        """What is read to predict them."""
        return [*self.row.prompt, *self.tokens[:-1]]


@dataclass(frozen=True)
class _Longer:
    """A choice of several tokens, one of several choices."""

    prompt: list[int]
    row: int
    """Which of the batch it continues."""
    choice: int
    """Which of that row's choices it is."""
    tokens: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.tokens)


def choose(network: Network, rows: Sequence[Choosing], batch_tokens: int) -> Iterator[tuple[int, Answer]]:
    """Yield (index, answer): the log-probabilities (nats) of each row's choices, and their numbers of tokens.

    The only choice of a row is read together with its prompt, in one pass; several share the pass over their prompt.
    """
    alone = [row for row in rows if len(row.choices) == 1]
    for is_conditioned in (True, False):
        yield from _read(network, [row for row in alone if row.ask.is_conditioned is is_conditioned], batch_tokens)
    yield from _compare(network, [row for row in rows if len(row.choices) > 1], batch_tokens)


def _answer(row: Choosing, logprobs: list[float]) -> Answer:
    if not all(map(math.isfinite, logprobs)):
        return failure("the model's logits are not numbers", len(row.prompt))
    counts = tuple(map(len, row.choices))
    return Answer("", True, len(row.prompt), 0, logprobs=tuple(map(rounded, logprobs)), num_choice_tokens=counts)


def _read(network: Network, rows: Sequence[Choosing], batch_tokens: int) -> Iterator[tuple[int, Answer]]:
    prefix = network.prefix([row.prompt for row in rows])
    vocabulary = num_words(network.model)
    texts = [_Text(row) for row in rows]
    for group in cut(texts, lambda text: max(text.row.num_tokens_at_most / batch_tokens, len(text.tokens) * vocabulary / MOST_NUMBERS)):
        batch = network.start(group, prefix)
        width = max(len(text.tokens) for text in group)
        targets_BT = torch.tensor([[0] * (width - len(text.tokens)) + text.tokens for text in group], device=batch.mask_BT.device)
        logprob_BT = _logprobs(network, batch, targets_BT)
        for text, logprob_T in zip(group, logprob_BT, strict=True):
            total = float(logprob_T[width - len(text.tokens) :].double().sum())
            yield text.row.index, _answer(text.row, [total])


def _compare(network: Network, rows: Sequence[Choosing], batch_tokens: int) -> Iterator[tuple[int, Answer]]:
    prefix = network.prefix([row.prompt for row in rows])
    for group in cut(rows, lambda row: row.num_tokens_at_most / batch_tokens):
        batch = network.start(group, prefix)
        logprob_BV = network.forward(batch).logits[:, -1].float().log_softmax(dim=-1)
        totals = [[float(logprob_BV[i, choice[0]]) for choice in row.choices] for i, row in enumerate(group)]
        for i, c, logprob in _rests(network, batch, batch_tokens):
            totals[i][c] += logprob
        for row, logprobs in zip(group, totals, strict=True):
            yield row.index, _answer(row, logprobs)


def _rests(network: Network, batch: Batch[Choosing], batch_tokens: int) -> Iterator[tuple[int, int, float]]:
    """Yield (row of the batch, choice, log-probability of what follows its first token) for choices of several tokens."""
    longer = [
        _Longer(row.prompt, i, c, choice) for i, row in enumerate(batch.rows) for c, choice in enumerate(row.choices) if len(choice) > 1
    ]
    vocabulary = num_words(network.model)
    for group in cut(longer, lambda one: max(one.num_tokens / batch_tokens, len(one.tokens) * vocabulary / MOST_NUMBERS)):
        for one, logprob in zip(group, _continue(network, batch, group), strict=True):
            yield one.row, one.choice, logprob


@torch.inference_mode()
def _continue(network: Network, batch: Batch[Choosing], group: list[_Longer]) -> list[float]:
    """Return the log-probability of each choice after its first token, with the past of its prompt."""
    width = max(len(one.tokens) for one in group) - 1
    device = batch.mask_BT.device
    rows_C = torch.tensor([one.row for one in group], device=device)
    # Padded on the right: what stands there sees the choice, and the choice does not see it.
    ids_CT = torch.tensor([one.tokens + [0] * (width + 1 - len(one.tokens)) for one in group], device=device)
    padding_CT = torch.tensor([[t >= len(one.tokens) - 1 for t in range(width)] for one in group], device=device)
    mask_CT = pad(batch.mask_BT[rows_C], (0, width), value=1)
    positions_CT = batch.positions_BT[rows_C, -1:] + 1 + torch.arange(width, device=device)
    more = Batch(group, ids_CT[:, :-1], mask_CT, positions_CT, taken(batch.cache, rows_C))
    logprob_CT = _logprobs(network, more, ids_CT[:, 1:])
    found: list[float] = logprob_CT.masked_fill(padding_CT, 0.0).double().sum(dim=1).tolist()
    return found


@torch.inference_mode()
def _logprobs(network: Network, batch: Batch[_Text] | Batch[_Longer], targets_BT: torch.Tensor) -> torch.Tensor:
    """Return the log-probability (BT) of each target at the batch's last T positions.

    The positions are read piece by piece, each with the past of those before, so that a long text's logits never exist as a whole.
    """
    num_rows, num_last = targets_BT.shape
    width, before = batch.ids_BT.shape[1], batch.ids_BT.shape[1] - num_last
    step = max(1, MOST_NUMBERS // (num_rows * num_words(network.model)))
    found = []
    for start in range(0, num_last, step):
        end = min(start + step, num_last)
        columns = slice(before + start if start else 0, before + end)
        mask_BT = batch.mask_BT[:, : batch.mask_BT.shape[1] - (width - columns.stop)]
        piece = replace(batch, ids_BT=batch.ids_BT[:, columns], mask_BT=mask_BT, positions_BT=batch.positions_BT[:, columns])
        logits_BTV = network.forward(piece, num_last=end - start).logits.float()
        found.append(logits_BTV.gather(2, targets_BT[:, start:end, None])[..., 0] - logits_BTV.logsumexp(dim=-1))
    return torch.cat(found, dim=1)
