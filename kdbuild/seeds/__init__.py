"""Seeds: where prompts come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from kdbuild.kinds import Kind
from kdbuild.records import Row

FEW_SEEDS = 20
"""Below so many seeds a split by seed leaves too little on one side: what is made of them is split by its own id (DESIGN 3)."""


class Seeds(Kind):
    """Base of every source of rows."""

    family: ClassVar[str] = "seeds"

    @property
    def writes(self) -> tuple[str, ...]:
        """What its rows have: `prompt`, `answer` or fields of `Row`; `*` is whatever the data holds."""
        return ("prompt",)

    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """Return the project's files or folders the rows are read from: dependencies of the stage.

        Empty for what lies outside the project, and where the spec itself holds the rows.
        """

    def outside(self) -> dict[str, Any] | None:
        """Return what identifies a source outside the project (its version, as found now), or None for one inside.

        A source outside is copied by a `seeds` stage into a hashed output first; what this returns is part of that stage's key.

        Raises:
            SourceError: the source is not there.
        """
        return None

    @abstractmethod
    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the seed rows; `root` is the project's folder. Ids are unique and do not depend on order, file or path.

        Raises:
            RowError: a row is not what it should be; names file:line.
            SourceError: the source is not there.
        """
