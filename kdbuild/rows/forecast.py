"""What an elicit stage would ask, found by running its operators against the stored answers. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbuild.records import Row
from kdbuild.rows.conversations import Question, Talks, start
from kdbuild.rows.store import Store
from kdbuild.spec.sections import ElicitSection


@dataclass(frozen=True)
class Forecast:
    """What an elicit stage would ask now."""

    missing: tuple[Question, ...]
    """The calls still to be made that are known now, each once."""
    complete: bool
    """Whether these are all; False where what is asked next depends on answers that are not there yet (then they are the fewest)."""
    keys: dict[str, list[str]]
    """Row id to the keys of the answers it needs, as far as known: what `Store.last_run` is compared with."""

    @property
    def num_calls(self) -> int:
        """Number of calls known to be missing."""
        return len(self.missing)

    @property
    def max_new_tokens(self) -> int:
        """Most tokens these calls can generate."""
        return sum(question.ask.max_new_tokens for question in self.missing)

    @property
    def prompt_characters(self) -> int:
        """Characters of the questions, for an estimate of prompt tokens."""
        return sum(len(message.content) for question in self.missing for message in question.ask.messages)


def missing_asks(section: ElicitSection, rows: Sequence[Row], store: Store, root: Path) -> Forecast:
    """Return what the elicit stage with this section would ask about `rows`, given what is stored.

    Raises:
        KdbuildError: what the stage itself would stop at before any call (a template that does not render).
    """
    keys: dict[str, list[str]] = {row.id: [] for row in rows}
    if section.teacher is None:
        return Forecast((), True, keys)
    identity = section.teacher.teacher.answer_identity(root)
    allowed = section.accept_failed_frac * len(rows)
    for operator in section.operators:
        talks, missing = start(operator, rows, root, identity, store, allowed_failures=allowed)
        allowed -= len(talks.failed)
        collect_keys(keys, talks)
        if missing:
            return Forecast(tuple(missing), operator.asks_once and operator is section.operators[-1], keys)
        rows = talks.rows
    return Forecast((), True, keys)


def collect_keys(keys: dict[str, list[str]], talks: Talks) -> None:
    """Add the keys of what each row was asked, and is being asked, to `keys`."""
    for talk in talks.talks:
        known = keys.setdefault(talk.row.id, [])
        asked = [key for key, _ in talk.used] + [question.key for question in talk.questions]
        known += [key for key in dict.fromkeys(asked) if key not in known]
