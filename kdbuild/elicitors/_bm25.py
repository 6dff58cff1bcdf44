"""BM25 in Lucene's variant (Robertson et al. 1995; Kamphuis et al. 2020, table 1), as an inverted index of numpy arrays.

    score(q, d) = sum over words w of q of  log(1 + (N - n_w + 0.5) / (n_w + 0.5)) * tf / (tf + k1 * (1 - b + b * |d| / mean |d|))

A word that the query has twice counts twice. The weight of a word is never negative, so a passage that shares no word has score 0.
Scores are float64, added in the order of the query's words, and so a function of the texts alone.

Shape suffixes: T all words of all passages, W distinct words, E (word, passage) entries, N passages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kdbuild.elicitors._words import words

K1, B = 1.5, 0.75


class Bm25:
    """An index of passages."""

    def __init__(self, texts: Sequence[str], *, k1: float = K1, b: float = B) -> None:
        self.num_passages = len(texts)
        self._number: dict[str, int] = {}
        word_T, passage_T, length_N = self._numbered(texts)
        # One number a (word, passage): sorted by word, then by passage, and counted in one go.
        entry_E, tf_E = np.unique(word_T * max(self.num_passages, 1) + passage_T, return_counts=True)
        word_E, self._passage_E = np.divmod(entry_E, max(self.num_passages, 1))
        num_passages_W = np.bincount(word_E, minlength=len(self._number))
        idf_W = np.log1p((self.num_passages - num_passages_W + 0.5) / (num_passages_W + 0.5))
        mean_length = length_N.mean() if length_N.sum() else 1.0
        norm_N = k1 * (1 - b + b * length_N / mean_length)
        self._weight_E = idf_W[word_E] * tf_E / (tf_E + norm_N[self._passage_E])
        self._start_W = np.concatenate([[0], np.cumsum(num_passages_W)])

    def _numbered(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the number of each word, the passage it is in, and the passages' lengths in words."""
        number = self._number
        found = [np.array([number.setdefault(word, len(number)) for word in words(text)], np.int64) for text in texts]
        length_N = np.array([len(one) for one in found], np.int64)
        word_T = np.concatenate(found) if found else np.zeros(0, np.int64)
        return word_T, np.repeat(np.arange(len(found)), length_N), length_N

    def scores(self, query: str) -> np.ndarray:
        """Return each passage's score for a query: float64 of shape (N,)."""
        score_N = np.zeros(self.num_passages)
        for word, count in Counter(words(query)).items():
            at = self._number.get(word)
            if at is not None:
                entries = slice(self._start_W[at], self._start_W[at + 1])
                score_N[self._passage_E[entries]] += count * self._weight_E[entries]
        return score_N
