"""Whether a text is new to a growing pool: its highest ROUGE-L F-measure with any text of it, exact, as rouge-score computes it.

ROUGE-L (Lin 2004, equations 2 to 4, beta 1) of texts of m and n words with a longest common subsequence of L words is 2L / (m + n). It
reaches a limit t only where L >= t (m + n) / 2, and L is at most the number of words that both hold, counted as often as they stand there.
So with the words of every text in one order, the rarest first, two texts that reach it share a word among the first m - k + 1 of the one
and n - l + 1 of the other, k and l being the least L that any partner could be reached with (the prefix filter; Chaudhuri et al. 2006,
Xiao et al. 2008). Texts are listed under these words alone; of what is found there bags of words decide next, and the subsequence last.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from kdbuild.elicitors._words import words

_SLACK = 1e-9
"""Bounds are rounded in floating point; the comparison that decides is not a bound."""


class Pool:
    """Texts by id, searched for the one most like another."""

    def __init__(self, max_rouge_l: float, corpus: Iterable[str] = ()) -> None:
        """Texts with at least `max_rouge_l` (in (0, 1]) to one of the pool are not new to it.

        `corpus` is what the pool's texts will be like: which words are rare there makes a search fast and changes nothing that it finds.
        """
        self._limit = max_rouge_l
        self._num_holding = Counter(word for text in corpus for word in set(words(text)))
        self._texts: list[tuple[str, list[str], frozenset[int]]] = []
        self._holding: dict[int, list[int]] = defaultdict(list)
        """Token to the texts that have it among their first."""
        self._numbers: dict[tuple[str, int], int] = {}
        """Number of a token: of the first, second, ... place of a word in a text."""

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, name: str, text: str) -> None:
        """Put a text into the pool."""
        found = words(text)
        tokens = self._tokens(found)
        for token in self._first(tokens):
            self._holding[token].append(len(self._texts))
        self._texts.append((name, found, frozenset(tokens)))

    def nearest(self, text: str) -> tuple[str, float] | None:
        """Return (id, ROUGE-L) of the text most like this one, of equal ones the smallest id; None where all are below the limit."""
        mine = words(text)
        tokens = self._tokens(mine)
        possible = {index for token in self._first(tokens) for index in self._holding.get(token, ())}
        bag, places = frozenset(tokens), places_of(mine) if possible else {}
        best, floor = None, self._limit
        for index in sorted(possible):
            name, theirs, held = self._texts[index]
            least = floor * (len(mine) + len(theirs)) / 2 - _SLACK
            if min(len(mine), len(theirs)) < least or len(bag & held) < least:
                continue
            score = f_measure(common_length(places, len(mine), theirs), len(mine), len(theirs))
            if score >= floor and (best is None or (-score, name) < best):
                best, floor = (-score, name), score
        return None if best is None else (best[1], -best[0])

    def _tokens(self, found: Sequence[str]) -> list[int]:
        """Return the words in the order that all texts have in common."""
        seen: Counter[str] = Counter()
        tokens = []
        for word in found:
            tokens.append((self._num_holding[word], word, seen[word]))
            seen[word] += 1
        return [self._numbers.setdefault((word, place), len(self._numbers)) for _, word, place in sorted(tokens)]

    def _first(self, tokens: list[int]) -> list[int]:
        """Return the tokens of which any partner within the limit has one among its own first."""
        least = math.ceil(self._limit * len(tokens) / (2 - self._limit) - _SLACK)  # shared with a partner of the shortest length possible
        return tokens[: len(tokens) - least + 1] if least else tokens


def f_measure(num_common: int, num_words: int, num_other: int) -> float:
    """Return the F-measure of a common subsequence, in rouge-score's own order of operations: on a limit the last bit decides."""
    if not num_common:
        return 0.0
    precision, recall = num_common / num_words, num_common / num_other
    return 2 * precision * recall / (precision + recall)


def places_of(text: Sequence[str]) -> dict[str, int]:
    """Return for each word the positions it stands at, as bits."""
    found: dict[str, int] = {}
    for i, word in enumerate(text):
        found[word] = found.get(word, 0) | 1 << i
    return found


def common_length(places: dict[str, int], num_words: int, other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence: a step for each word of `other` (Hyyrö 2004)."""
    every = (1 << num_words) - 1
    unmatched = every
    for word in other:
        both = unmatched & places.get(word, 0)
        unmatched = ((unmatched + both) | (unmatched - both)) & every
    return num_words - unmatched.bit_count()
