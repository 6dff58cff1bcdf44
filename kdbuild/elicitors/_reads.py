"""What operators read, held against what rows have.

A name is `prompt`, `answer` or a field of `Row`; `meta.value` is one field of its meta, and `answer|gold` is either of two. What rows are
known to have is a set of single names; `*` among them stands for whatever the data holds, and a bare `meta` for a meta of unknown fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields

from kdbuild.elicitors import ANY, Conversing
from kdbuild.errors import StageError
from kdbuild.kinds import singular
from kdbuild.records import Row

_OF_ITSELF = frozenset({"id", "parents", "roots", "keys", "held_out", "messages"})
"""Fields of a row that say what it is, not what it holds."""


def has(row: Row, name: str) -> bool:
    """Return whether a row has what an operator reads under this name."""
    return any(_has_one(row, one) for one in name.split("|"))


def _has_one(row: Row, name: str) -> bool:
    field, _, key = name.partition(".")
    if key:
        return bool(getattr(row, field).get(key, "").strip())
    if field == "prompt":
        return bool(row.prompt)
    return bool(row.answer if field == "answer" else getattr(row, field))


def had_by(rows: Iterable[Row]) -> set[str]:
    """Return what any of the rows has."""
    names = ["prompt", "answer", *(f.name for f in fields(Row) if f.name not in _OF_ITSELF | {"meta"})]
    found: set[str] = set()
    for row in rows:
        found.update(name for name in names if name not in found and _has_one(row, name))
        found.update(f"meta.{key}" for key, value in row.meta.items() if value.strip())
    return found


def is_among(name: str, held: Collection[str]) -> bool:
    """Return whether what an operator reads is among what rows have."""
    return ANY in held or any(
        one in held or one.partition(".")[0] in held or any(other.startswith(f"{one}.") for other in held) for one in name.split("|")
    )


def shown(name: str) -> str:
    """Return what an operator reads, for a sentence."""
    return " or ".join(f"`{one}`" for one in name.split("|"))


def listed(held: Collection[str], whose: str = "rows") -> str:
    """Return what rows (or seeds) have, for a hint."""
    return f"the {whose} have: {', '.join(sorted(held)) or 'nothing'}"


def lacks(operator: Conversing, rows: Sequence[Row]) -> list[str]:
    """Return a clause for each thing that the operator reads and some of the rows lack: what, how many rows, and the first of them."""
    found = []
    for name in operator.reads:
        without = sorted(row.id for row in rows if not has(row, name))
        if without:
            found.append(f"{shown(name)}, which {len(without):,} of {len(rows):,} rows lack (the first: row `{without[0]}`)")
    return found


def require(operator: Conversing, rows: Sequence[Row]) -> None:
    """Refuse rows none of which has what the operator reads.

    Raises:
        StageError: names the operator, the field, how many rows lack it and the first of them.
    """
    for name in operator.reads if rows else ():
        if not any(has(row, name) for row in rows):
            first = min(row.id for row in rows)
            raise StageError(
                f"{called(operator)} reads {shown(name)}, which {len(rows):,} of {len(rows):,} rows lack (the first: row `{first}`)",
                hint=listed(had_by(rows)),
            )


def called(operator: Conversing) -> str:
    """Return what an operator, or a scorer, is called in a sentence."""
    return f"{'operator' if operator.family == 'elicitors' else singular(operator.family)} `{operator.kind}`"
