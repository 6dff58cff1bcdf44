"""The order in which greedy selectors take rows."""

from __future__ import annotations

from collections.abc import Sequence

from kdbuild.errors import StageError
from kdbuild.records import Row


def order_of(rows: Sequence[Row], by_score: str | None) -> list[int]:
    """Return positions of the rows: the highest score first, equal ones (or all, without a score) by id.

    Raises:
        StageError: a row lacks the score.
    """
    if by_score is None:
        return sorted(range(len(rows)), key=lambda i: rows[i].id)
    return sorted(range(len(rows)), key=lambda i: (-score_of(rows[i], by_score), rows[i].id))


def score_of(row: Row, name: str) -> float:
    """Return a score of a row.

    Raises:
        StageError: the row lacks it.
    """
    try:
        return row.scores[name]
    except KeyError:
        has = ", ".join(sorted(row.scores)) or "none"
        hint = "put a scorer of that name before it, or go on from the phase whose scorer says `carry: true`: `on: <phase>`"
        raise StageError(f"row {row.id} has no score `{name}`; its scores: {has}", hint=hint) from None
