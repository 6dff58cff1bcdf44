"""Distributions of which some tokens are named, put into other words: merged, fused, cut to k."""

# Shape suffixes: T positions of one row, K named tokens.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdbuild.teachers._features import Array, Distributions


@dataclass(frozen=True)
class Masses:
    """Probabilities of named tokens and of all others, at the positions of one row."""

    ids_TK: Array
    """Tokens; -1 names none, and counts among the others. A token may be named more than once."""
    mass_TK: Array
    """Probabilities (float64)."""
    tail_T: Array
    """Probability of all other tokens."""

    @classmethod
    def of(cls, signals: Distributions) -> Masses:
        """Return what stored signals say."""
        assert signals.ids_TK is not None
        return cls(signals.ids_TK, np.exp(signals.logprobs_TK.astype(np.float64)), np.exp(signals.tail_T.astype(np.float64)))

    def weighted(self, weight: float) -> Masses:
        """Return the share of a mixture that these are."""
        return Masses(self.ids_TK, self.mass_TK * weight, self.tail_T * weight)


def mixture(parts: Sequence[Masses]) -> Masses:
    """Return the sum. A token that one part does not name lies in that part's tail, so the sum may say less of it than is true."""
    return Masses(
        np.concatenate([part.ids_TK for part in parts], 1),
        np.concatenate([part.mass_TK for part in parts], 1),
        np.sum([part.tail_T for part in parts], 0),
    )


def merged(masses: Masses, k: int) -> Masses:
    """Return the `k` likeliest tokens, each named once; what is left over goes to the others.

    Places that are left are filled with the likeliest token again, with no mass; -1 where none is named.
    """
    length, width = masses.ids_TK.shape
    order = np.argsort(masses.ids_TK, axis=1, kind="stable")
    ids, mass = np.take_along_axis(masses.ids_TK, order, 1), np.take_along_axis(masses.mass_TK, order, 1)
    first = np.ones((length, width), bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(first)
    summed = np.zeros(length * width)
    if len(starts):
        summed[starts] = np.add.reduceat(mass.reshape(-1), starts)
    summed = summed.reshape(length, width)
    tail = masses.tail_T + np.where(ids < 0, summed, 0.0).sum(1)
    summed[ids < 0] = 0.0
    order = np.argsort(-summed, axis=1, kind="stable")
    ids, summed = np.take_along_axis(ids, order, 1), np.take_along_axis(summed, order, 1)
    tail = tail + summed[:, k:].sum(1)
    ids, summed = ids[:, :k].copy(), summed[:, :k]
    return Masses(np.where(summed > 0, ids, ids[:, :1]), summed, tail)


def weights(nats: Sequence[float], num_tokens: int, fusion: str) -> list[float]:
    """Return the share of each teacher in the fused distribution of a row.

    Args:
        nats: -log p(answer) of each, summed over its own tokens: the text is the same, so these compare across tokenizers.
        num_tokens: tokens of the answer, for `average`.
        fusion: `min-cross-entropy` (all to the least; the first of equal ones) or `average` (exp(-cross-entropy), normalised).

    Source: Wan et al. 2024, FuseLLM, arXiv:2401.10491, section 3.3 (MinCE, AvgCE).
    """
    if fusion == "min-cross-entropy":
        least = min(range(len(nats)), key=lambda i: nats[i])
        return [float(i == least) for i in range(len(nats))]
    scores = np.exp(-(np.array(nats) - min(nats)) / max(num_tokens, 1))
    return [float(share) for share in scores / scores.sum()]
