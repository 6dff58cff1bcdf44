"""What an elicit stage would ask, found by running its operators against the stored answers. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbuild.elicitors import Scene
from kdbuild.records import Row
from kdbuild.rows.conversations import Question, Setting, Talks, start
from kdbuild.rows.store import Store
from kdbuild.seeds import FEW_SEEDS
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


def setting_of(section: ElicitSection, rows: Sequence[Row], root: Path, embedder: Any = None) -> Setting:
    """Return what the conversations of a stage about `rows` have in common."""
    gives = {word: use.teacher.gives for word, use in section.actors.items()}
    scene = Scene(root, gives=gives, few_seeds=section.from_seeds and len(rows) < FEW_SEEDS, embedder=embedder)
    identities = {word: use.teacher.answer_identity(root) for word, use in section.actors.items()}
    return Setting(scene, identities, section.held_out_frac)


def missing_asks(section: ElicitSection, rows: Sequence[Row], store: Store, root: Path) -> Forecast:
    """Return what the elicit stage with this section would ask about `rows`, given what is stored.

    Raises:
        KdbuildError: what the stage itself would stop at before any call (a template that does not render).
    """
    keys: dict[str, list[str]] = {row.id: [] for row in rows}
    setting = setting_of(section, rows, root)
    allowed = section.accept_failed_frac * len(rows)
    for i, operator in enumerate(section.operators):
        if operator.needs_embedder:
            # What it retrieves is not known without its model, which is not loaded to plan.
            return Forecast((), not any(later.needs for later in section.operators[i:]), keys)
        talks, missing = start(operator, rows, setting, store, allowed_failures=allowed)
        allowed -= len(talks.failed)
        collect_keys(keys, talks)
        if missing:
            last = not any(later.needs for later in section.operators[i + 1 :])
            return Forecast(tuple(missing), operator.asks_once and last, keys)
        rows = talks.rows
    return Forecast((), True, keys)


def collect_keys(keys: dict[str, list[str]], talks: Talks) -> None:
    """Add the keys of what each row was asked, and is being asked, to `keys`."""
    for talk in talks.talks:
        asked = [(ask.row, key) for (key, _), (ask, _) in talk.used.items()]
        asked += [(question.ask.row, question.key) for question in talk.questions]
        for row, key in asked:
            known = keys.setdefault(row, [])
            if key not in known:
                known.append(key)
