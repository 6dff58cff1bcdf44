"""How much texts are like each other: ROUGE-L between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdbuild.elicitors import _novelty

NUM_DECIMALS = 6
"""Agreement is rounded to this before answers are compared, so that equal ones are equal."""


def agreement(texts: Sequence[Sequence[str]]) -> list[float]:
    """Return how much each text (its words) is like the others: its mean ROUGE-L F1 with them, 0 where there are none."""
    return [agreement_with(one, [other for j, other in enumerate(texts) if j != i]) for i, one in enumerate(texts)]


def agreement_with(text: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    """Return the mean ROUGE-L F1 of a text with others, 0 where there are none."""
    return round(_mean(f1(text, other) for other in others), NUM_DECIMALS)


def f1(one: Sequence[str], other: Sequence[str]) -> float:
    """Return ROUGE-L F1 (Lin 2004, equations 2 to 4, beta 1): twice the longest common subsequence over both lengths."""
    if not one or not other:
        return 0.0
    return 2 * _novelty.common_length(_novelty.places_of(one), len(one), other) / (len(one) + len(other))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
