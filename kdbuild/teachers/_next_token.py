"""The next token of each row of a batch, and whether the row ends with it."""

# Shape suffixes: B rows of the batch, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from kdbuild.teachers import Ask
from kdbuild.teachers._rows import Writing

if TYPE_CHECKING:
    from kdbuild.teachers._grammar import Grammars

_HEAD_WORDS = 1024
"""Likeliest words that a draw looks at first."""
_TOKENS_PER_CHARACTER = 4
"""A character of UTF-8 has at most four bytes, and a token at least one."""


def next_tokens(logits_BV: torch.Tensor, rows: Sequence[Writing], grammars: Grammars) -> tuple[list[int], list[float]]:
    """Return each row's next token and its log-probability under the model's own distribution: not finite where there is no token."""
    logits_BV = logits_BV.float()
    matchers = {i: row.matcher for i, row in enumerate(rows) if row.matcher is not None}
    allowed_BV = grammars.masked(logits_BV, matchers) if matchers else logits_BV
    next_B = allowed_BV.argmax(dim=-1).tolist()
    for i, row in enumerate(rows):
        if row.generator is not None and torch.isfinite(allowed_BV[i].max()):
            next_B[i] = _draw(allowed_BV[i], row.ask, row.generator)
    chosen_BV = torch.tensor(next_B, device=logits_BV.device)[:, None]
    logprob_B = allowed_BV.gather(1, chosen_BV)[:, 0] - logits_BV.logsumexp(dim=-1)
    return next_B, logprob_B.tolist()


def stopped(row: Writing, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the row's last token completes one of its stop texts."""
    if not row.ask.stop:
        return False
    # The tail that the stop text and the last token can reach; decoding the whole answer each step would be quadratic.
    tail = _TOKENS_PER_CHARACTER * max(len(stop) for stop in row.ask.stop) + 1
    text = text_of(row.tokens[-tail:], tokenizer)
    return any(stop in text for stop in row.ask.stop)


def before_stop(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the stop texts in it."""
    found = [text.find(stop) for stop in stops]
    return text[: min((at for at in found if at >= 0), default=len(text))]


def text_of(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what tokens say, without those that are controls."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _draw(logits_V: torch.Tensor, ask: Ask, generator: torch.Generator) -> int:
    """Draw a token from the likeliest ones that have a share `top_p` of the probability, with one number of the row's own generator."""
    probs_V = torch.softmax(logits_V.double().cpu() / ask.temperature, dim=-1)
    chance = torch.rand((), generator=generator, dtype=torch.float64)
    # Putting a whole vocabulary in order takes ten times as long as its head, which nearly always has the token.
    for words_K in (_head(probs_V), torch.arange(len(probs_V))):
        token = _drawn(probs_V, words_K, ask.top_p, chance)
        if token is not None:
            return int(token)
    raise AssertionError("a whole vocabulary has every token")


def _drawn(probs_V: torch.Tensor, words_K: torch.Tensor, top_p: float, chance: torch.Tensor) -> torch.Tensor | None:
    """Return the token that `chance` in [0, 1) draws if it is one of these words, the likeliest; None where it is none of them."""
    all_words = len(words_K) == len(probs_V)
    probs_K, order_K = probs_V[words_K].sort(descending=True, stable=True)
    total_K = probs_K.cumsum(0)
    num_kept = 1 + int((total_K < top_p).sum()) if top_p < 1 else len(probs_V)
    if num_kept > len(words_K) and not all_words and top_p < 1:
        return None
    num_kept = min(num_kept, len(words_K)) if all_words else num_kept
    mass = total_K[num_kept - 1] if num_kept <= len(words_K) else probs_V.sum()
    place = min(int(torch.searchsorted(total_K, chance * mass, right=True)), num_kept - 1)
    return words_K[order_K[place]] if place < len(words_K) else None


def _head(probs_V: torch.Tensor) -> torch.Tensor:
    """Return the likeliest words, ascending: all above some probability, so that of equally likely ones none is left out."""
    least = probs_V.topk(min(_HEAD_WORDS, len(probs_V))).values[-1]
    return (probs_V > least).nonzero()[:, 0]
