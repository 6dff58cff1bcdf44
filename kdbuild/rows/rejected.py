"""What an elicit stage makes of the answers that are stored, and which of them it cannot use. Asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbuild.records import Dropped, Row
from kdbuild.rows.conversations import Talk, Talks
from kdbuild.rows.forecast import setting_of
from kdbuild.rows.store import Store
from kdbuild.spec.sections import ElicitSection
from kdbuild.teachers import Ask


@dataclass(frozen=True)
class Stored:
    """What stored answers come to."""

    rows: list[Row]
    """The rows that the last operator looked at makes."""
    rejected: list[Dropped]
    """What could not be used, of every operator."""
    keys: frozenset[str]
    """Keys of the answers that nothing was made of and that were rejected."""
    questions: dict[str, tuple[str, Ask]]
    """Key of an answer to the operator that asked for it, and its question."""
    unseen: str | None = None
    """The operator from which on nothing is known without the embedder's model, which is not loaded here."""


def look(section: ElicitSection, rows: Sequence[Row], store: Store, root: Path) -> Stored:
    """Return what the operators of a stage make of the answers stored so far."""
    setting = setting_of(section, rows, root)
    made, parts, unseen = list(rows), list[Talks](), None
    for operator in section.operators:
        if operator.needs_embedder:
            unseen = operator.kind
            break
        part = Talks(operator, made, setting, store, failures=True)
        part.advance()
        parts.append(part)
        made = part.rows
    rejected = [one for part in parts for one in part.dropped if not one.reason.startswith("failed: ")]
    used = {key for part in parts for row in part.rows for key in row.keys}
    questions = {key: (part.operator.kind, ask) for part in parts for (key, _), (ask, _) in part.answers.items()}
    return Stored(made, rejected, frozenset(_keys_rejected(parts) - used), questions, unseen)


def _keys_rejected(parts: Sequence[Talks]) -> set[str]:
    """Return the keys of the answers in conversations that rejected something; every row made names those that it was made of."""
    talks = [talk for part in parts for talk in part.talks if part.rejects(talk)]
    return {key for talk in talks for key in _answered(talk)}


def _answered(talk: Talk) -> set[str]:
    return {key for (key, _), (_, answer) in talk.used.items() if answer.failed is None}
