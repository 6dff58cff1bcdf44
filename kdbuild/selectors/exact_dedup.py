"""Drop rows whose text equals another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Verdict, drop
from kdbuild.selectors._greedy import Greedy
from kdbuild.selectors._text import Part, normal_form, turns


class ExactDedup(Greedy):
    """Keeps one row of those with the same text: equal after case folding, Unicode NFC and joining runs of white space.

    It is the one with the highest score, or the first by id; none of them where a row of a pool has that text.
    """

    block: ClassVar[str | None] = "select.dedup"

    kind: Literal["exact-dedup"] = "exact-dedup"
    of: Part = "both"
    """What must be equal, turn by turn: the `prompt`, the `answer`, or `both`."""

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; a dropped row names the kept one with its text."""
        first: dict[tuple[tuple[str, str], ...], str] = {}
        reason = f"same {'prompt and answer' if self.of == 'both' else self.of} as a kept row"
        verdicts = [KEEP] * len(rows)
        for i, row in self.taken(rows, scene):
            text = tuple((turn.role, normal_form(turn.content)) for turn in turns(row, self.of))
            if not text:
                continue
            if text in first and i >= 0:
                verdicts[i] = drop(reason, because_of=first[text])
            first.setdefault(text, row.id)
        return verdicts
