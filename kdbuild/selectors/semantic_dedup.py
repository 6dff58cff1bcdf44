"""Drop rows whose meaning is near another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._text import Part, meaning, turns

_REASONS: dict[Part, str] = {
    "prompt": "prompt close in meaning to a kept row's",
    "answer": "answer close in meaning to a kept row's",
    "both": "close in meaning to a kept row",
}


class SemanticDedup(Selector):
    """Keeps a row if no row kept before it, in id order, has an embedding as near as `max_cosine`.

    The comparison is exact, every row with every kept one. Cosines are rounded to six decimals before they are compared with the limit, so
    equal texts are always at 1.0; two rows whose cosine lies within what another batch size or processor moves (about 1e-7) of the limit
    may fall on either side of it. A dropped row names the most similar of the kept rows before it.
    """

    source: ClassVar[str | None] = "Abbas et al. 2023, SemDeDup, arXiv 2303.09540; here exact and greedy, without clusters"
    block: ClassVar[str | None] = "select.dedup"
    needs_embedder: ClassVar[bool] = True

    kind: Literal["semantic-dedup"] = "semantic-dedup"
    max_cosine: float = Field(ge=-1, le=1, examples=[0.92])
    """Cosine similarity at and above which a row is dropped; 0.9 to 0.95 is usual."""
    of: Part = "both"
    """What is compared: the `prompt`, the `answer`, or `both`, each without system turns."""

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; a dropped row names the kept one nearest to it, with their cosine to four decimals."""
        from kdbuild.selectors._similarity import greedy_cover

        compared = [i for i, row in enumerate(rows) if turns(row, self.of)]
        verdicts = [KEEP] * len(rows)
        if not compared:
            return verdicts
        match = greedy_cover(scene.embedder.embed([meaning(rows[i], self.of) for i in compared]), self.max_cosine)
        for row, kept, cosine in zip(compared, match.index_Q.tolist(), match.cosine_Q.tolist(), strict=True):
            if kept >= 0:
                verdicts[row] = drop(_REASONS[self.of], because_of=rows[compared[kept]].id, score=round(cosine, 4))
        return verdicts
