"""From comparisons of pairs to a ranking: which pairs to compare, and how good each item is by what came of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

NUM_DECIMALS = 6
"""Scores are rounded to this before items are put in order."""

Pair = tuple[int, int]
"""Two items, the one with the lower index first."""
Wins = Mapping[Pair, float]
"""Pair to the probability that its first item is the better one."""

_TOLERANCE, _MOST_STEPS = 1e-12, 10_000
_PRIOR = 0.1


def pairs(num_items: int, max_rivals: int) -> list[Pair]:
    """Return the pairs to compare: all, or each item with `max_rivals` others (one fewer where that is odd), the next ones in a ring.

    Every item is in as many pairs as any other, and the ring connects them all.
    """
    if num_items - 1 <= max_rivals:
        return [(i, j) for i in range(num_items) for j in range(i + 1, num_items)]
    reach = range(1, max(max_rivals // 2, 1) + 1)
    return sorted({(min(i, j), max(i, j)) for i in range(num_items) for j in ((i + step) % num_items for step in reach)})


def win_rates(num_items: int, wins: Wins) -> list[float]:
    """Return each item's mean probability of winning, over the pairs it is in."""
    won: list[list[float]] = [[] for _ in range(num_items)]
    for (i, j), probability in sorted(wins.items()):
        won[i].append(probability)
        won[j].append(1 - probability)
    return [round(math.fsum(values) / len(values), NUM_DECIMALS) for values in won]


def bradley_terry(num_items: int, wins: Wins) -> list[float]:
    """Return each item's mean probability of winning against each other item, by the strengths p that fit the comparisons best.

    P(i beats j) = p_i / (p_i + p_j) (Bradley and Terry 1952), fitted by minorisation-maximisation (Hunter 2004, equation 3). Each pair that
    was compared counts a tenth of a draw more, so that an item which wins or loses everything has a finite strength.
    """
    played = sorted(wins.items())
    won = [0.0] * num_items
    for (i, j), probability in played:
        won[i] += probability + _PRIOR / 2
        won[j] += 1 - probability + _PRIOR / 2
    strength = [1.0] * num_items
    for _ in range(_MOST_STEPS):
        before, weight = strength, [0.0] * num_items
        for (i, j), _probability in played:
            share = (1 + _PRIOR) / (before[i] + before[j])
            weight[i] += share
            weight[j] += share
        strength = [one / other for one, other in zip(won, weight, strict=True)]
        mean = math.exp(math.fsum(map(math.log, strength)) / num_items)
        strength = [value / mean for value in strength]
        if max(abs(math.log(new / old)) for new, old in zip(strength, before, strict=True)) < _TOLERANCE:
            break
    return [_mean_win(i, strength) for i in range(num_items)]


def _mean_win(item: int, strength: Sequence[float]) -> float:
    chances = [strength[item] / (strength[item] + other) for j, other in enumerate(strength) if j != item]
    return round(math.fsum(chances) / len(chances), NUM_DECIMALS)


def ordered(scores: Sequence[float]) -> tuple[int, ...]:
    """Return the items, best first; equal ones stay in the order they were given in."""
    return tuple(sorted(range(len(scores)), key=lambda i: -scores[i]))


# --- listwise ----------------------------------------------------------------------------------------------------------------


def windows(num_items: int, size: int, step: int) -> list[tuple[int, int]]:
    """Return (start, end) of the windows that slide from the last items to the first, `step` at a time (Sun et al. 2023, section 3.2)."""
    found, end = [], num_items
    while True:
        start = max(0, end - size)
        found.append((start, end))
        if start == 0:
            return found
        end -= step


def permuted(items: Sequence[int], said: Sequence[int]) -> tuple[list[int], int]:
    """Return a window's items in the order a judge gave (numbers from 1), and how many it named.

    A number given twice counts where it comes first; items it did not name follow in the order they were in.
    """
    named = list(dict.fromkeys(number - 1 for number in said if 1 <= number <= len(items)))
    rest = [i for i in range(len(items)) if i not in set(named)]
    return [items[i] for i in (*named, *rest)], len(named)


def places(ranking: Sequence[int]) -> list[float]:
    """Return, by item, the share of the others that a ranking puts after it."""
    scores = [0.0] * len(ranking)
    for place, item in enumerate(ranking):
        scores[item] = round((len(ranking) - 1 - place) / (len(ranking) - 1), NUM_DECIMALS)
    return scores
