"""Driving an operator by hand: every question, and what comes of its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdbuild.elicitors import Answered, Conversation, Elicitor, Made, Rejected, Scene
from kdbuild.records import Dropped, Row
from kdbuild.teachers import Answer, Ask, Signal

Reply = Callable[[Ask], str | Answer]
ALL = {"teacher": frozenset(Signal), "student": frozenset(Signal)}


@dataclass
class Driven:
    """What an operator asked and made."""

    rounds: list[list[Ask]] = field(default_factory=list)
    """The questions, as it asked them together."""
    rows: list[Row] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    @property
    def asks(self) -> list[Ask]:
        return [ask for asks in self.rounds for ask in asks]


def drive(operator: Elicitor, rows: Sequence[Row], reply: Reply, scene: Scene | None = None) -> Driven:
    """Run an operator over rows; `reply` answers each question with a text, or with a whole `Answer`."""
    scene = scene or Scene(Path(), actor=operator.actors[0], gives=ALL)
    driven = Driven()
    talks = [operator.gather(sorted(rows, key=lambda row: row.id), scene)] if operator.pooled else [operator.elicit(r, scene) for r in rows]
    for talk in talks:
        _finish(talk, reply, driven)
    return driven


def _finish(talk: Conversation, reply: Reply, driven: Driven) -> None:
    answers: list[Answered] | None = None
    try:
        while True:
            asks = list(next(talk) if answers is None else talk.send(answers))
            driven.rounds.append(asks)
            answers = []
            for ask in asks:
                said = reply(ask)
                answer = said if isinstance(said, Answer) else Answer(said, True, 3, len(said.split()) + 1)
                answers.append(Answered(answer, f"{len(driven.asks):056x}{len(answers):08x}"))
    except StopIteration as end:
        result = end.value
    if isinstance(result, Rejected):
        driven.rejected.append(result)
        return
    made = result if isinstance(result, Made) else Made(result)
    driven.rows += made.rows
    driven.dropped += made.dropped


@pytest.fixture(name="drive")
def _drive() -> Callable[..., Driven]:
    return drive
