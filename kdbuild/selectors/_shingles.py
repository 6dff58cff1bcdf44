"""Texts as sets of runs of words, and which of many sets may be alike: MinHash signatures in bands (Broder 1997; Leskovec et al. 2014).

The hashing is rensa's. What it proposes is decided by the sets themselves, so a false proposal costs time and nothing else; a pair whose
similarity is at the limit is missed with a probability below `MAX_MISSED_FRAC`, a more similar one with a smaller one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from kdbuild.elicitors._words import words

NUM_HASHES = 128
SEED = 42
MAX_MISSED_FRAC = 1e-4


def shingles(text: str, num_words: int) -> frozenset[str]:
    """Return the runs of `num_words` words of a text; a shorter text is one run, and one without words has none."""
    found = words(text)
    if len(found) <= num_words:
        return frozenset([" ".join(found)]) if found else frozenset()
    return frozenset(map(" ".join, zip(*(found[i:] for i in range(num_words)), strict=False)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the share of what either of two sets holds that both hold; 0 for empty sets."""
    num_common = len(one & other)
    return num_common / (len(one) + len(other) - num_common) if num_common else 0.0


def hashes_per_band(limit: float) -> int:
    """Return the most hashes a band can have so that a pair at the limit shares some whole band: fewer pairs are proposed in vain."""
    fitting = [r for r in range(1, NUM_HASHES + 1) if (1 - limit**r) ** (NUM_HASHES // r) <= MAX_MISSED_FRAC]
    return max(fitting, default=1)


class Index:
    """Sets by number, searched for those that may be alike."""

    def __init__(self, limit: float) -> None:
        """Sets with a Jaccard similarity of at least `limit` are to be found."""
        import rensa

        per_band = hashes_per_band(limit)
        num_bands = NUM_HASHES // per_band
        self._sign = rensa.RMinHash.from_token_sets
        self._num_hashes = num_bands * per_band
        self._bands = rensa.RMinHashLSH(limit, self._num_hashes, num_bands)

    def signatures(self, sets: Sequence[Collection[str]]) -> list[Any]:
        """Return what sets are put in and searched by; a shingle that is given twice counts once."""
        return list(self._sign(sets, self._num_hashes, SEED))

    def add(self, number: int, signature: Any) -> None:
        """Put a set in."""
        self._bands.insert(number, signature)

    def possible(self, signature: Any) -> set[int]:
        """Return the numbers of the sets that share a whole band with this one."""
        return set(self._bands.query(signature))
