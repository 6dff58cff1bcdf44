"""Whether a question brings back the passage that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from kdbuild.elicitors import Rejected, Scene
from kdbuild.records import Row
from kdbuild.scorers import Scores
from kdbuild.scorers._pooled import Pooled
from kdbuild.scorers._without import with_context

if TYPE_CHECKING:
    from kdbuild.elicitors._index import Corpus

_ROWS = "rows"


class Roundtrip(Pooled):
    """One over the rank of a row's own passage (its `context`) among all passages, by its question, and `.found`: whether that is at most
    `k`; both 0 where it does not match at all.

    The question is what the user says last, without passages that stand in it. Of several own passages the best one counts, and the others
    are not in its way; a passage as good as it comes before it, so that a question which fits all of them finds none.
    """

    kind: Literal["roundtrip"] = "roundtrip"
    source: ClassVar[str | None] = "Dai et al. 2022, Promptagator (2209.11755), section 3.2: consistency filtering with k 1"
    block: ClassVar[str | None] = "score.roundtrip"
    parts: ClassVar[tuple[str, ...]] = ("", "found")
    by_candidate: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ("prompt", "context")

    k: int = Field(1, ge=1)
    """Last rank at which a passage counts as found."""
    by_index: Literal["bm25", "embedding", "hybrid"] = "bm25"
    """`bm25` compares words, `embedding` meanings (it needs `embedder:`), `hybrid` fuses both rankings."""
    corpus: str = _ROWS
    """What the passages are found among besides those of the rows: nothing (`rows`), or a file or folder of the project, as `retrieve`
    reads them."""
    passage_chars: int = Field(800, ge=40)
    """Longest passage of a text file."""

    @property
    def needs_embedder(self) -> bool:  # type: ignore[override]
        """Whether its index compares meanings."""
        return self.by_index != "bm25"

    def files(self) -> tuple[str, ...]:
        """Return the corpus, where it is not the rows alone."""
        return () if self.corpus == _ROWS else (self.corpus,)

    def values(self, rows: Sequence[Row], scene: Scene) -> list[Scores | Rejected]:
        """Index all passages once, and search them with every question."""
        from kdbuild.elicitors import _index

        corpus = self._corpus(rows, scene)
        questions = [_question(row) for row in rows]
        unfit = [_unfit(row, question) for row, question in zip(rows, questions, strict=True)]
        asked = [question for question, rejected in zip(questions, unfit, strict=True) if rejected is None]
        if not asked:
            return [one for one in unfit if one is not None]
        index = _index.build(self.by_index, corpus.passages, scene.embedder.embed if scene.embedder is not None else None)
        scores = iter(index.scores(asked))
        return [rejected or self._value(next(scores), corpus.of_row(row)) for row, rejected in zip(rows, unfit, strict=True)]

    def _corpus(self, rows: Sequence[Row], scene: Scene) -> Corpus:
        from kdbuild.elicitors import _index

        found = _index.Corpus() if self.corpus == _ROWS else _index.read_corpus(scene.root, self.corpus, self.passage_chars)
        for row in rows:
            for one in row.context:
                if (text := str(one.get("text") or "")).strip():
                    found.add(_index.Passage(str(one.get("doc_id") or row.id), text), row.id)
        return found

    def _value(self, score_N: Any, own: set[int]) -> Scores:
        rank = _rank(score_N, own)
        return {"": 1 / rank if rank else 0.0, "found": float(0 < rank <= self.k)}


def _rank(score_N: Any, own: set[int]) -> int:
    """Return the place of the best of a row's own passages among those that are not its own, from 1; 0 where it does not match."""
    import numpy as np

    from kdbuild.elicitors._index import NUM_DECIMALS

    score_N, at = score_N.round(NUM_DECIMALS), sorted(own)
    best = score_N[at].max()
    if best == -np.inf:
        return 0
    others_N = np.delete(score_N, at)
    return 1 + int((others_N >= best).sum())


def _question(row: Row) -> str:
    said = [turn.content for turn in with_context(row)[1] if turn.role == "user"]
    return said[-1].strip() if said else ""


def _unfit(row: Row, question: str) -> Rejected | None:
    if not any(str(one.get("text") or "").strip() for one in row.context):
        return Rejected("no passage to find")
    return None if question else Rejected("no question to search with")
