"""Drop rows whose text equals another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._text import Part, normal_form, turns


class ExactDedup(Selector):
    """Keeps the first row, by id, of those with the same text: equal after case folding, Unicode NFC and joining runs of white space."""

    block: ClassVar[str | None] = "select.dedup"

    kind: Literal["exact-dedup"] = "exact-dedup"
    of: Part = "both"
    """What must be equal, turn by turn: the `prompt`, the `answer`, or `both`."""

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; a dropped row names the kept one with its text."""
        first: dict[tuple[tuple[str, str], ...], str] = {}
        what = "prompt and answer" if self.of == "both" else self.of
        verdicts = []
        for row in rows:
            text = tuple((turn.role, normal_form(turn.content)) for turn in turns(row, self.of))
            kept = first.setdefault(text, row.id) if text else row.id
            verdicts.append(KEEP if kept == row.id else drop(f"same {what} as a kept row", because_of=kept))
        return verdicts
