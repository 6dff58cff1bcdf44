"""Texts as sets of runs of words, held as 64-bit hashes, and which of many sets are alike (Broder 1997; Leskovec et al. 2014, section 3.4).

Words are what `kdbuild.elicitors._words` takes for words. They are found and hashed in the bytes of many texts at once by prefix sums of a
polynomial (Karp and Rabin 1987): no Python object a word, which is where a loop over words spends its time. Two different runs have the
same hash with a probability below 2^-55, so sets of hashes have the Jaccard similarity of the sets of runs.

Shape suffixes: B bytes of some texts, W their words, T texts, R runs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import rensa

from kdbuild.elicitors._words import words

NUM_HASHES = 128
SEED = 42
MAX_MISSED_FRAC = 5e-5
"""How often each of the two searches of `Index` may miss a pair at the limit; a more similar pair is missed less often."""

_CHUNK_CHARS = 1 << 16
"""Characters of texts hashed at a time: what bounds the memory, and few enough that the arrays stay in the core's cache."""
_SIGNED = 64
_REMEMBERED = 2_000
"""Sets kept at hand as Python's, made of arrays that are all kept."""
_BASE = 0x9E3779B97F4A7C15
"""Odd, so that its powers have inverses modulo 2^64, and 5 modulo 8, so that they repeat as late as any do."""
_LETTERS = b"abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Runs:
    """The runs of words of texts, a run that a text holds twice given twice."""

    hash_R: np.ndarray
    """uint64."""
    offset_T: np.ndarray
    """uint64, one more than texts: where each one's runs start in `hash_R`. A text without words has none."""

    def of(self, text: int) -> np.ndarray:
        """Return the hashes of one text's runs."""
        return self.hash_R[self.offset_T[text] : self.offset_T[text + 1]]


def runs_of(texts: Iterable[str], num_words: int) -> Runs:
    """Return the runs of `num_words` words of texts; a shorter text is one run."""
    hashes, counts = array("Q"), array("q")
    for chunk in _chunks(texts):
        hash_R, count_T = _hashed(chunk, num_words)
        hashes.frombytes(hash_R.data.cast("B") if len(hash_R) else b"")
        counts.extend(count_T.tolist())
    return Runs(np.frombuffer(hashes, np.uint64), _offsets(np.frombuffer(counts, np.int64)))


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Return the share of what either of two sets holds that both hold; 0 for empty sets."""
    num_common = len(one & other)
    return num_common / (len(one) + len(other) - num_common) if num_common else 0.0


def hashes_per_band(limit: float) -> int:
    """Return the most hashes a band can have so that a pair at the limit shares some whole band: fewer pairs are proposed in vain."""
    fitting = [r for r in range(1, NUM_HASHES + 1) if (1 - limit**r) ** (NUM_HASHES // r) <= MAX_MISSED_FRAC]
    return max(fitting, default=1)


class Index:
    """Texts by number, searched for those that may have a Jaccard similarity of at least `limit`.

    Two searches by bands: one over all texts tells which may be like any other, and most are like none; those alone are put in one by
    one and looked for among those put in.
    """

    def __init__(self, runs: Runs, limit: float) -> None:
        """Search among these texts."""
        per_band = hashes_per_band(limit)
        num_bands = NUM_HASHES // per_band
        self._runs, self._num_hashes = runs, num_bands * per_band
        self._bands = rensa.RMinHashLSH(limit, self._num_hashes, num_bands)

    def like_any(self) -> np.ndarray:
        """Return the numbers of the texts that may be like another, ascending. Texts without words are like none."""
        filled = np.flatnonzero(np.diff(self._runs.offset_T.astype(np.int64)))
        if not len(filled):
            return filled
        # Texts without runs take no place in `hash_R`: without them the offsets are those of the others.
        offsets = np.append(self._runs.offset_T[filled], self._runs.offset_T[-1])
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(self._runs.hash_R, offsets, self._num_hashes, SEED)
        like = np.array(self._bands.query_duplicate_flags_matrix_one_shot(matrix), bool)
        found: np.ndarray = filled[like]
        return found

    def signed(self, texts: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield texts with what they are put in and looked for by."""
        bytes_R = self._runs.hash_R.view("V8")
        starts, stops = self._runs.offset_T[texts].tolist(), self._runs.offset_T[texts + 1].tolist()
        for at in range(0, len(texts), _SIGNED):
            part = texts[at : at + _SIGNED].tolist()
            tokens = [bytes_R[start:stop].tolist() for start, stop in zip(starts[at : at + _SIGNED], stops[at : at + _SIGNED], strict=True)]
            yield from zip(part, rensa.RMinHash.from_token_sets(tokens, self._num_hashes, SEED), strict=True)

    def add(self, text: int, signature: Any) -> None:
        """Put a text in."""
        self._bands.insert(text, signature)

    def possible(self, signature: Any) -> list[int]:
        """Return the numbers of the texts put in that share a whole band with this one."""
        return list(self._bands.query(signature))


def sets_of(runs: Runs) -> Any:
    """Return a function from a text's number to the set of its runs, which keeps some at hand."""
    return lru_cache(_REMEMBERED)(lambda text: frozenset(runs.of(text).tolist()))


def _offsets(count_T: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(count_T, dtype=np.uint64)])


def _chunks(texts: Iterable[str]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    num_bytes = 0
    for text in texts:
        # Of ASCII text the bytes tell the words, once capitals count as small letters; of other text `words` does.
        chunk.append(text.encode() if text.isascii() else " ".join(words(text)).encode())
        num_bytes += len(chunk[-1])
        if num_bytes >= _CHUNK_CHARS:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _hashed(texts: Sequence[bytes], num_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the runs of some texts, one text's after the other's, and how many each has."""
    byte_B = np.frombuffer(b"\n" + b"\n".join(texts) + b"\n", np.uint8)
    edges = np.flatnonzero(np.diff(_IS_WORD[byte_B].view(np.int8)))
    sum_B = np.cumsum(_VALUES[byte_B] * _powers(len(byte_B)), dtype=np.uint64)
    before_W, last_W = edges[::2], edges[1::2]
    word_W = _mixed((sum_B[last_W] - sum_B[before_W]) * _inverse_powers(len(byte_B))[before_W])

    num_words = min(num_words, len(word_W) + 1)
    end_T = np.cumsum([len(text) + 1 for text in texts])
    end_word_T = np.searchsorted(before_W, end_T)
    count_T = np.diff(end_word_T, prepend=0)
    end_W = np.repeat(end_word_T, count_T)
    first_W = np.repeat(end_word_T - count_T, count_T)
    at_W = np.arange(len(word_W))
    start_R = np.flatnonzero((at_W + num_words <= end_W) | (at_W == first_W))
    stop_R = np.minimum(start_R + num_words, end_W[start_R])
    sum_W = np.concatenate([np.zeros(1, np.uint64), np.cumsum(word_W * _powers(len(word_W)), dtype=np.uint64)])
    hash_R = _mixed((sum_W[stop_R] - sum_W[start_R]) * _inverse_powers(len(word_W))[start_R])
    return hash_R, np.where(count_T > 0, np.maximum(count_T - num_words + 1, 1), 0)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Return hashes whose every bit depends on every bit (splitmix64's finish; Steele, Lea and Flood 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = hashes ^ (hashes >> np.uint64(31))
    return mixed


def _powers(count: int) -> np.ndarray:
    return _powers_of(_BASE, 1 << count.bit_length())[:count]


def _inverse_powers(count: int) -> np.ndarray:
    return _powers_of(pow(_BASE, -1, 1 << 64), 1 << count.bit_length())[:count]


@lru_cache(8)
def _powers_of(base: int, count: int) -> np.ndarray:
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)


def _letter_values() -> np.ndarray:
    """Return a value for each byte that can be in a word, drawn by digest, and 0 for the others; capitals have their small letters'."""
    values = np.zeros(256, np.uint64)
    for byte in [*b"0123456789", *_LETTERS, *range(128, 256)]:
        values[byte] = int.from_bytes(blake2b(bytes([byte]), digest_size=8, person=b"shingles").digest(), "little")
    values[list(_LETTERS.upper())] = values[list(_LETTERS)]
    return values


_VALUES = _letter_values()
_IS_WORD = _VALUES > 0
