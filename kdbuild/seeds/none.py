"""No seeds: rows with nothing in them, for a teacher that writes from a fixed prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.records import Message, Row, row_id
from kdbuild.seeds import Seeds


class Nothing(Seeds):
    """So many rows that differ in their ids alone, by which a teacher's sampling is seeded."""

    block: ClassVar[str | None] = "seed.none"

    kind: Literal["none"] = "none"
    num_rows: int = Field(ge=1, examples=[100])
    """How many; more of them leaves those that were there as they are."""
    prompt: str | None = Field(None, pattern=r"\S")
    """The user's turn of every row, where an operator needs one (`label`); absent: the operator's own template asks."""

    @property
    def writes(self) -> tuple[str, ...]:
        """Return `prompt`, where there is one."""
        return () if self.prompt is None else ("prompt",)

    def files(self) -> tuple[str, ...]:
        """Return nothing: no file is read."""
        return ()

    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the rows."""
        messages = () if self.prompt is None else (Message("user", self.prompt),)
        for number in range(self.num_rows):
            yield Row(row_id({"none": number}), messages)
