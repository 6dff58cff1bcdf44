"""Elicitors: how a teacher is asked, and what is made of its answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdbuild.kinds import Kind
from kdbuild.records import Row
from kdbuild.teachers import Answer, Ask


@dataclass(frozen=True)
class Answered:
    """An answer handed back to an elicitor, with the key it is stored under."""

    answer: Answer
    key: str


@dataclass(frozen=True)
class Rejected:
    """What an elicitor returns for a row that its teacher's answer cannot be used for."""

    reason: str
    text: str = ""


Conversation = Generator[Sequence[Ask], Sequence[Answered], "list[Row] | Rejected"]
"""What `elicit` returns: it yields questions, is sent their answers in the same order, and returns the rows they make."""


class Elicitor(Kind):
    """Base of every way to ask.

    An elicitor is pure: `elicit` is a generator that yields questions and is sent their answers. The stage runs many of them at once and
    keeps the engine full; the planner runs the same generator against the stored answers and counts what is missing.
    """

    family: ClassVar[str] = "elicitors"
    asks_once: ClassVar[bool] = False
    """Whether it yields questions only once a row, so that a forecast of its calls is exact before any answer is there."""

    def files(self) -> tuple[str, ...]:
        """Return the project's files it reads (templates): dependencies of the stage."""
        return ()

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged templates it uses; their digests are part of the stage's key."""
        return ()

    @abstractmethod
    def elicit(self, row: Row, root: Path) -> Conversation:
        """Ask about one row; `root` is the project's folder."""
