"""Whether a text is new to a growing pool: its highest ROUGE-L F-measure with any text of it, exact.

ROUGE-L (Lin 2004, equations 2 to 4, beta 1) of texts of m and n words with a longest common subsequence of L words is 2L / (m + n). It
reaches a limit t only where L >= t (m + n) / 2. As L is at most the shorter length, other lengths are left out at once; and as a partner
shares at least k = t (m + n) / 2 of the m words, each holds one of any m - k + 1 of them: only texts that hold one of the rarest are
compared.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from kdbuild.elicitors._words import words

_SLACK = 1e-9
"""Bounds are rounded in floating point; the comparison that decides is not a bound."""


class Pool:
    """Texts by id, searched for the one most like another."""

    def __init__(self, max_rouge_l: float) -> None:
        """Texts with at least `max_rouge_l` (in (0, 1]) to one of the pool are not new to it."""
        self._limit = max_rouge_l
        self._texts: list[tuple[str, list[str], Counter[str]]] = []
        self._holding: dict[str, list[int]] = defaultdict(list)
        """Word to the texts that hold it."""

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, name: str, text: str) -> None:
        """Put a text into the pool."""
        found = words(text)
        counts = Counter(found)
        for word in counts:
            self._holding[word].append(len(self._texts))
        self._texts.append((name, found, counts))

    def nearest(self, text: str) -> tuple[str, float] | None:
        """Return (id, ROUGE-L) of the text most like this one, of equal ones the smallest id; None where all are below the limit."""
        mine = words(text)
        places, counts = places_of(mine), Counter(mine)
        best: tuple[float, str] | None = None
        for index in sorted(self._possible(counts, len(mine))):
            name, theirs, held = self._texts[index]
            least = self._limit * (len(mine) + len(theirs)) / 2 - _SLACK
            if min(len(mine), len(theirs)) < least or sum((counts & held).values()) < least:
                continue
            score = 2 * common_length(places, len(mine), theirs) / (len(mine) + len(theirs))
            if score >= self._limit and (best is None or (-score, name) < best):
                best = (-score, name)
        return None if best is None else (best[1], -best[0])

    def _possible(self, counts: Counter[str], num_words: int) -> set[int]:
        """Return the texts that hold one of the rarest words."""
        least = math.ceil(self._limit * num_words / (2 - self._limit) - _SLACK)  # shared with a partner of the shortest length possible
        skipped = least - 1  # occurrences that may all be shared without reaching it
        found: set[int] = set()
        for word in sorted(counts, key=lambda word: (-len(self._holding.get(word, ())), word)):
            skipped -= counts[word]
            if skipped < 0:
                found.update(self._holding.get(word, ()))
        return found


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
