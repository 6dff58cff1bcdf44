"""Selectors: which rows go on, and why the others do not."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdbuild.elicitors import Scene
from kdbuild.kinds import Kind
from kdbuild.records import Row


@dataclass(frozen=True)
class Verdict:
    """What a selector says of one row."""

    reason: str | None
    """Why it is dropped; None keeps it. Never holds a threshold: an edit that drops the same rows must leave the same bytes."""
    because_of: str | None = None
    """Id of the kept row that makes this one superfluous; `<set>/<id>` of the item of an evaluation that it was found in."""
    score: float | None = None
    row: Row | None = None
    """The row as it goes on, where it does not go on as it came (a candidate was chosen as its answer)."""
    matched: str | None = None
    """Text of what `because_of` names, where that is neither a row nor a row of a pool: the report shows it beside the dropped row."""


KEEP = Verdict(None)


def drop(reason: str, *, because_of: str | None = None, score: float | None = None, matched: str | None = None) -> Verdict:
    """Return the verdict that drops a row."""
    return Verdict(reason, because_of, score, matched=matched)


class Selector(Kind):
    """Base of every selector: pure, and the order of the rows does not matter (they come sorted by id)."""

    family: ClassVar[str] = "selectors"
    needs_embedder: ClassVar[bool] = False

    @property
    def reads(self) -> tuple[str, ...]:
        """The scores that a row must have; `*` stands for any text inside a name."""
        return ()

    @property
    def pools(self) -> tuple[str, ...]:
        """Data sets that earlier phases selected, `<phase>` or `<spec>/<phase>`, whose rows it compares with (`scene.pools`)."""
        return ()

    @property
    def completes(self) -> bool:
        """Whether it gives rows their answer: then held-out rows go through it too, and through the scorers before it."""
        return False

    def files(self) -> tuple[str, ...]:
        """Return the project's files it reads: dependencies of the stage."""
        return ()

    @abstractmethod
    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row, in order. `scene.embedder` is there where `needs_embedder`.

        Raises:
            StageError: the rows must not go on at all (a contaminated set that may not be).
        """


__all__ = ["KEEP", "Scene", "Selector", "Verdict", "drop"]
