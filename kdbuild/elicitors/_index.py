"""Passages, where they come from, and the ways to find them.

Shape suffixes: N passages, Q queries, D dimension of an embedding.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kdbuild import canonical
from kdbuild.elicitors._bm25 import Bm25
from kdbuild.errors import RowError, SpecError
from kdbuild.inside import inside
from kdbuild.records import Row

NUM_DECIMALS = 6
"""Scores are rounded to this before passages are put in order, so that equal ones are equal."""
RRF_K = 60
"""Cormack et al. 2009: 1 / (60 + rank), summed over rankings."""
SUFFIXES = (".jsonl", ".txt", ".md")

_BLOCK = 64
"""Queries at a time: with 100,000 passages their similarities are 50 MiB."""
_ROUNDING = 2 * 10.0**-NUM_DECIMALS
_DEPTH = 1000
"""Places of each ranking that a fused one counts."""


@dataclass(frozen=True)
class Passage:
    """What can be found."""

    doc_id: str
    text: str


class Corpus:
    """Passages, each text once, and whose they are."""

    def __init__(self, passages: Iterable[Passage] = ()) -> None:
        self.passages: list[Passage] = []
        self._by_text: dict[str, int] = {}
        self._by_id: dict[str, list[int]] = defaultdict(list)
        self._by_row: dict[str, list[int]] = defaultdict(list)
        for passage in passages:
            self.add(passage)

    def add(self, passage: Passage, row: str | None = None) -> None:
        """Add a passage; `row` is the id of the row it is of, where the corpus is rows."""
        at = self._by_text.setdefault(passage.text, len(self.passages))
        if at == len(self.passages):
            self.passages.append(passage)
        self._by_id[passage.doc_id].append(at)
        if row is not None:
            self._by_row[row].append(at)

    def of_row(self, row: Row) -> set[int]:
        """Return the positions of what a row has already: its own passages, and those its context names by id or holds."""
        return {*self._by_row.get(row.id, ()), *(at for known in row.context for at in self._of(known))}

    def positive_of(self, row: Row) -> int | None:
        """Return the position of the first passage of a row's context, None where the corpus has it not."""
        return next(iter(self._of(row.context[0])), None) if row.context else None

    def _of(self, known: Mapping[str, Any]) -> list[int]:
        at = self._by_text.get(str(known.get("text")))
        return [*([at] if at is not None else []), *self._by_id.get(str(known.get("doc_id")), ())]


Embed = Callable[[Sequence[str]], Any]
"""Texts to vectors."""


class Index(Protocol):
    """Scores of all passages for queries."""

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield, for each query, the score of each passage: float64 of shape (N,); -inf for one that does not match at all."""


# --- where passages come from ------------------------------------------------------------------------------------------------


def read_corpus(root: Path, corpus: str, passage_chars: int) -> Corpus:
    """Return the passages of a file or folder of the project, each text once, in the order of files and lines.

    A `.jsonl` record has a `text`, and a `doc_id` or `id`, else the digest of the text stands for it. Text files are cut at blank lines
    into passages of at most `passage_chars` (a longer paragraph at a word).

    Raises:
        SpecError: it leaves the project, is not there, or is of another format.
        RowError: a record is not what it should be, or there is no passage; names the place.
    """
    place = inside(root, corpus)
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    base = root.resolve()
    found = Corpus()
    for path in files:
        for passage in _read(inside(root, str(path.relative_to(base))), path.relative_to(base).as_posix(), passage_chars):
            found.add(passage)
    if not found.passages:
        raise RowError(f"corpus {corpus} holds no passages", hint=f"it is a file or a folder of files ending with {', '.join(SUFFIXES)}")
    return found


def _read(path: Path, name: str, passage_chars: int) -> Iterator[Passage]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SpecError(f"corpus {name} is not of a known format", hint=f"a corpus is made of {', '.join(SUFFIXES)} files")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RowError(f"{name} is not UTF-8", hint="save the file as UTF-8") from None
    if suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _record(line, f"{name}:{number}")
        return
    for piece in pieces(text, passage_chars):
        yield Passage(_name(piece), piece)


def _record(line: str, place: str) -> Passage:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise RowError(f"{place} is not JSON", hint='a passage is one JSON object a line, such as {"id": "p1", "text": "..."}') from None
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise RowError(f"{place} has no `text`", hint='a passage is one JSON object a line, such as {"id": "p1", "text": "..."}')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(f"{place}: `text` holds half of a character (a lone surrogate)") from None
    name = next((record[key] for key in ("doc_id", "id") if record.get(key) is not None), None)
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise RowError(f"{place}: the id is not a text or a whole number")
    return Passage(str(name) if name is not None else _name(text), text)


def _name(text: str) -> str:
    return canonical.digest(["kdbuild-passage/1", text])[:16]


def pieces(text: str, max_chars: int) -> Iterator[str]:
    """Yield the paragraphs of a text, joined as far as they fit into `max_chars`; a longer one is cut at words."""
    held = ""
    for paragraph in (part for block in text.split("\n\n") for part in _cut(block.strip(), max_chars) if part):
        if held and len(held) + 2 + len(paragraph) > max_chars:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph
    if held:
        yield held


def _cut(text: str, max_chars: int) -> Iterator[str]:
    while len(text) > max_chars:
        space = text.rfind(" ", 0, max_chars + 1)
        end = space if space > 0 else max_chars
        yield text[:end].rstrip()
        text = text[end:].lstrip()
    yield text


# --- how passages are found --------------------------------------------------------------------------------------------------


def ranked(score_N: np.ndarray, count: int) -> list[tuple[int, float]]:
    """Return the `count` best (position, rounded score), best first; equal ones stay in order, what does not match is left out."""
    matching = int((score_N > -np.inf).sum())
    count = min(count, matching)
    if count <= 0:
        return []
    # What rounds up to the last place's score may lie a little below it.
    floor = np.partition(score_N, len(score_N) - count)[len(score_N) - count] - _ROUNDING
    near = np.flatnonzero(score_N >= floor)
    rounded = score_N[near].round(NUM_DECIMALS)
    best = np.lexsort((near, -rounded))[:count]
    return [(int(near[i]), float(rounded[i])) for i in best]


def num_at_least(score_N: np.ndarray, position: int) -> int:
    """Return how many passages may stand before or at the place of one; 0 where that one does not match."""
    score = score_N[position]
    return int((score_N >= score - _ROUNDING).sum()) if score > -np.inf else 0


class WordIndex:
    """BM25; a passage that shares no word with the query does not match."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._bm25 = Bm25([passage.text for passage in passages])

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield BM25 scores."""
        for query in queries:
            score_N = self._bm25.scores(query)
            yield np.where(score_N > 0, score_N, -np.inf)


class MeaningIndex:
    """Cosine of embeddings, of every passage: no approximation."""

    def __init__(self, passages: Sequence[Passage], embed: Embed) -> None:
        self._embed = embed
        self._passage_ND = _unit(embed([passage.text for passage in passages]))

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield cosines."""
        query_QD = _unit(self._embed(queries))
        for start in range(0, len(query_QD), _BLOCK):
            yield from query_QD[start : start + _BLOCK] @ self._passage_ND.T


class FusedIndex:
    """Reciprocal rank fusion of several indexes (Cormack et al. 2009): the sum of 1 / (60 + place)."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self._indexes = indexes

    def scores(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield fused scores; a passage beyond the first 1,000 of every index does not match."""
        for score_N, *others in zip(*(index.scores(queries) for index in self._indexes), strict=True):
            fused_N = np.zeros(len(score_N))
            for one_N in (score_N, *others):
                for place, (position, _) in enumerate(ranked(one_N, _DEPTH), 1):
                    fused_N[position] += 1 / (RRF_K + place)
            yield np.where(fused_N > 0, fused_N, -np.inf)


def build(kind: str, passages: Sequence[Passage], embed: Embed | None) -> Index:
    """Return an index: `bm25`, `embedding` or `hybrid`, of which the latter two need `embed`."""
    if kind == "bm25":
        return WordIndex(passages)
    if embed is None:
        raise SpecError(f"an index by {kind} compares meanings, and there is no embedder", hint="add `embedder:` to params.yaml")
    meaning = MeaningIndex(passages, embed)
    return meaning if kind == "embedding" else FusedIndex([WordIndex(passages), meaning])


def _unit(vectors: Any) -> np.ndarray:
    vector_ND = np.asarray(vectors, dtype=np.float64)
    norm_N = np.sqrt((vector_ND * vector_ND).sum(axis=1, keepdims=True))
    unit_ND: np.ndarray = np.divide(vector_ND, norm_N, out=np.zeros_like(vector_ND), where=norm_N > 0)
    return unit_ND
