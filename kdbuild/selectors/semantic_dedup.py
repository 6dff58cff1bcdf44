"""Drop rows whose meaning is near another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Verdict, drop
from kdbuild.selectors._greedy import Greedy
from kdbuild.selectors._text import Part, meaning, turns

if TYPE_CHECKING:
    from kdbuild.selectors._similarity import Match

_REASONS: dict[Part, str] = {
    "prompt": "prompt close in meaning to a kept row's",
    "answer": "answer close in meaning to a kept row's",
    "both": "close in meaning to a kept row",
}


class SemanticDedup(Greedy):
    """Keeps a row if no row kept before it, the best or by id, has an embedding as near as `max_cosine`.

    The comparison is exact up to 150,000 rows, every row with every kept one; beyond it, rows are compared within cells of rows alike,
    and select.json says which share of what should be dropped was found (`recall`, against all rows, for a sample). Cosines are rounded to
    six decimals before they are compared with the limit, so equal texts are always at 1.0; two rows whose cosine lies within what another
    batch size or processor moves (about 1e-7) of the limit may fall on either side of it. A dropped row names the most similar of the kept
    rows before it.
    """

    kind_revision: ClassVar[int] = 2
    source: ClassVar[str | None] = (
        "Abbas et al. 2023, SemDeDup, arXiv 2303.09540, here greedy; by score: Liu et al. 2023, DEITA, arXiv 2312.15685, Repr Filter"
    )
    block: ClassVar[str | None] = "select.dedup"
    needs_embedder: ClassVar[bool] = True

    kind: Literal["semantic-dedup"] = "semantic-dedup"
    max_cosine: float = Field(ge=-1, le=1, examples=[0.92])
    """Cosine similarity at and above which a row is dropped; 0.9 to 0.95 is usual."""
    of: Part = "both"
    """What is compared: the `prompt`, the `answer`, or `both`, each without system turns."""

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; a dropped row names the kept one nearest to it, with their cosine to four decimals.

        Raises:
            StageError: a row lacks the score.
        """
        verdicts = [KEEP] * len(rows)
        compared = [(i, row) for i, row in self.taken(rows, scene) if turns(row, self.of)]
        num_fixed = sum(i < 0 for i, _ in compared)
        if num_fixed == len(compared):
            return verdicts
        match = self._cover([meaning(row, self.of) for _, row in compared], num_fixed, scene)
        for (i, _), kept, cosine in zip(compared, match.index_Q.tolist(), match.cosine_Q.tolist(), strict=True):
            if kept >= 0:
                verdicts[i] = drop(_REASONS[self.of], because_of=compared[kept][1].id, score=round(cosine, 4))
        return verdicts

    def _cover(self, texts: Sequence[str], num_fixed: int, scene: Scene) -> Match:
        """Return the greedy cover: from the near pairs that are known, where the stage remembers such, else from the vectors.

        Both are the same as long as every pair is compared; beyond that, what comes out must not depend on what is remembered.
        """
        from kdbuild.selectors._cells import MAX_EXACT, cover

        near = scene.embedder.near(texts, self.max_cosine) if len(texts) <= MAX_EXACT and hasattr(scene.embedder, "near") else None
        if near is not None:
            return near.cover(self.max_cosine, num_fixed=num_fixed)  # type: ignore[no-any-return]
        found = cover(scene.embedder.embed(texts), self.max_cosine, num_fixed=num_fixed)
        scene.facts.update(found.facts)
        return found.match
