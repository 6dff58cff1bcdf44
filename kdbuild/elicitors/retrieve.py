"""Passages that go with a row are found in a corpus; nobody is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Conversation, Elicitor, Made, Scene
from kdbuild.elicitors._extent import Extent, plus
from kdbuild.records import Dropped, Row
from kdbuild.teachers import Signal

if TYPE_CHECKING:
    from kdbuild.elicitors._index import Corpus, Passage

_ANSWER = "answer|gold"
ROWS = "rows"
NEGATIVE = "negative"


class Retrieve(Elicitor):
    """Add the best `k` passages of a corpus to each row's `context`, and hard negatives to its `candidates`.

    A passage that the row has already, or that is of the row itself, is not found again. Negatives are the passages after the row's own
    first one (its positive) in the ranking, or the best where that one is not found; `scores` then hold `positive_rank`.
    Demonstrations and tools are found in the same way: a corpus of them, or `passage: demonstration | tool` of rows.
    """

    kind: Literal["retrieve"] = "retrieve"
    source: ClassVar[str | None] = (
        "Robertson et al. 1995, BM25 in Lucene's variant (Kamphuis et al. 2020, table 1), k1 1.5, b 0.75; "
        "Karpukhin et al. 2020 (2004.04906), equation 1 and section 3.2: dense retrieval, hard negatives; "
        "Cormack et al. 2009: reciprocal rank fusion"
    )
    block: ClassVar[str | None] = "gen.retrieve"
    asks_once: ClassVar[bool] = True
    pooled: ClassVar[bool] = True

    corpus: str = ROWS
    """`rows`, or a file (`.jsonl` of `text` and `id`, `.txt`, `.md`) or folder of such files of the project."""
    passage: Literal["context", "prompt", "answer", "rationale", "demonstration", "tool"] = "context"
    """What of the rows makes the corpus, where it is `rows`; a demonstration is prompt and answer."""
    query: Literal["prompt", "answer", "rationale"] = "prompt"
    """What of a row it searches with: its last turn before the answer, its answer or its rationale."""
    by_index: Literal["bm25", "embedding", "hybrid"] = "bm25"
    """`bm25` compares words, `embedding` meanings (it needs `embedder:`), `hybrid` fuses both rankings."""
    k: int = Field(5, ge=0)
    """Passages added to a row's context."""
    negatives: int = Field(0, ge=0)
    """Hard negatives: candidates whose source is `negative`."""
    passage_chars: int = Field(800, ge=40)
    """Longest passage of a text file."""

    @model_validator(mode="after")
    def _finds_something(self) -> Self:
        if not self.k and not self.negatives:
            raise PydanticCustomError("retrieve_nothing", "with `k: 0` and `negatives: 0` nothing is retrieved")
        return self

    @property
    def needs(self) -> frozenset[Signal]:
        """Nobody is asked."""
        return frozenset()

    @property
    def needs_embedder(self) -> bool:  # type: ignore[override]
        """Whether its index compares meanings."""
        return self.by_index != "bm25"

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what it searches with and, of negatives, what they are negatives of."""
        own = {"demonstration": ("prompt", _ANSWER), "answer": (_ANSWER,)}.get(self.passage, (self.passage,)) if self.corpus == ROWS else ()
        return tuple(dict.fromkeys((self.query, *own, *(["context"] if self.negatives else []))))

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what it adds to."""
        return (*(["context"] if self.k else []), *(["candidates", "scores"] if self.negatives else []))

    def files(self) -> tuple[str, ...]:
        """Return the corpus, where it is not the rows."""
        return () if self.corpus == ROWS else (self.corpus,)

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=0, candidates=plus(given.candidates, self.negatives))

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Find passages for one row alone."""
        return self.gather([row], scene)

    def gather(self, rows: Sequence[Row], scene: Scene) -> Conversation:
        """Index the corpus once, and search it with every row."""
        from kdbuild.elicitors import _index

        corpus = self._corpus(rows, scene)
        queries = {row.id: query for row in rows if (query := self._query(row))}
        dropped = [self._dropped(row, f"no {self.query} to search with") for row in rows if row.id not in queries]
        searching = [row for row in rows if row.id in queries]
        if not corpus.passages or not searching:
            return Made([], [*dropped, *(self._dropped(row, "the corpus is empty") for row in searching)])
        index = _index.build(self.by_index, corpus.passages, scene.embedder.embed if scene.embedder is not None else None)
        made = []
        for row, score_N in zip(searching, index.scores(list(queries.values())), strict=True):
            found = self._found(row, corpus, score_N)
            if found is None:
                dropped.append(self._dropped(row, "nothing found"))
            else:
                made.append(found)
        return Made(made, dropped)
        yield []  # a conversation without questions

    def _dropped(self, row: Row, reason: str) -> Dropped:
        return Dropped(row.id, self.kind, reason, text=self._query(row))

    # --- what is searched, and with what ---------------------------------------------------------------------------------------

    def _query(self, row: Row) -> str:
        prompt = row.prompt
        text = {"prompt": prompt[-1].content if prompt else "", "answer": row.answer, "rationale": row.rationale}[self.query]
        return (text or "").strip()

    def _corpus(self, rows: Sequence[Row], scene: Scene) -> Corpus:
        from kdbuild.elicitors import _index

        if self.corpus != ROWS:
            return _index.read_corpus(scene.root, self.corpus, self.passage_chars)
        found = _index.Corpus()
        for row in rows:
            for name, text in self._of_row(row):
                if text.strip():
                    found.add(_index.Passage(name, text), row.id)
        return found

    def _of_row(self, row: Row) -> Iterator[tuple[str, str]]:
        if self.passage == "context":
            yield from ((str(one.get("doc_id") or row.id), str(one.get("text") or "")) for one in row.context)
            return
        prompt, answer = row.prompt[-1].content if row.prompt else "", row.answer or row.gold or ""
        tool = row.tool or {}
        texts = {
            "prompt": prompt,
            "answer": answer,
            "rationale": row.rationale or "",
            "demonstration": f"{prompt}\n\n{answer}" if prompt and answer else "",
            "tool": ": ".join(part for name in ("name", "description") if (part := tool.get(name))),
        }
        yield row.id, texts[self.passage]

    # --- what is found -----------------------------------------------------------------------------------------------------------

    def _found(self, row: Row, corpus: Corpus, score_N: Any) -> Row | None:
        """Return the row with what was found, or None where nothing was."""
        own = corpus.of_row(row)
        context = [{"doc_id": one.doc_id, "text": one.text, "score": score} for one, score in self._best(corpus, score_N, own)]
        negatives, rank = self._after_positive(row, corpus, score_N, own) if self.negatives else ([], None)
        if not context and not negatives:
            return None
        candidates = [{"text": one.text, "source": NEGATIVE, "score": score} for one, score in negatives]
        scores = {**row.scores, **({} if rank is None else {"positive_rank": float(rank)})}
        return replace(row, context=(*row.context, *context), candidates=(*row.candidates, *candidates), scores=scores)

    def _best(self, corpus: Corpus, score_N: Any, own: set[int]) -> list[tuple[Passage, float]]:
        from kdbuild.elicitors import _index

        order = _index.ranked(score_N, self.k + len(own)) if self.k else []
        return [(corpus.passages[i], score) for i, score in order if i not in own][: self.k]

    def _after_positive(self, row: Row, corpus: Corpus, score_N: Any, own: set[int]) -> tuple[list[tuple[Passage, float]], int | None]:
        """Return the hard negatives, and the place of the positive (from 1; None where it is not found)."""
        from kdbuild.elicitors import _index

        positive = corpus.positive_of(row)
        before = _index.num_at_least(score_N, positive) if positive is not None else 0
        order = _index.ranked(score_N, before + self.negatives + len(own))
        rank = next((place for place, (i, _) in enumerate(order, 1) if i == positive), None)
        after = [(corpus.passages[i], score) for i, score in order[rank or 0 :] if i not in own]
        return after[: self.negatives], rank
