"""Texts as sets of runs of words, and which of many sets may be alike: MinHash signatures in bands (Broder 1997; Leskovec et al. 2014).

The hashing is rensa's. What it proposes is decided by the sets themselves, so a false proposal costs time and nothing else; a pair whose
similarity is at the limit is missed with a probability below `MAX_MISSED_FRAC`, a more similar one with a smaller one.

Shape suffixes: N texts, M hashes of a signature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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


def bands(sets: Sequence[frozenset[str]], limit: float) -> list[list[bytes]]:
    """Return for each set what its bands hold; sets are proposed where a band of theirs, the same one, holds the same."""
    import rensa

    if not sets:
        return []
    width = 4 * hashes_per_band(limit)
    matrix = rensa.RMinHash.digest_matrix_from_token_sets(sets, NUM_HASHES, SEED)
    signatures_NM = np.array(matrix.to_rows(), np.uint32)
    starts = range(0, 4 * NUM_HASHES - width + 1, width)
    return [[row[at : at + width] for at in starts] for row in (one.tobytes() for one in signatures_NM)]
