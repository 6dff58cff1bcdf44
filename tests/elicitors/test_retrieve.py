"""Passages are found for rows."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import bm25s
import numpy as np
import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene, _index
from kdbuild.elicitors._bm25 import Bm25
from kdbuild.elicitors._index import Passage
from kdbuild.elicitors._words import words
from kdbuild.elicitors.retrieve import Retrieve
from kdbuild.embedders.fake import Fake
from kdbuild.errors import RowError, SpecError
from kdbuild.records import Message, Row
from kdbuild.seeds import _docstrings

CATS = ("the cat sat", "the cat the dog", "a bird")


class Embedder:
    """What a stage hands to an operator."""

    def __init__(self) -> None:
        self.fake = Fake()

    def embed(self, texts):
        return self.fake.embed(texts, None)


def row_of(name: str, prompt: str, *passages: str, **fields) -> Row:
    context = tuple({"doc_id": f"{name}-{i}", "text": text, "score": None} for i, text in enumerate(passages))
    return Row(name, (Message("user", prompt),), context=context, **fields)


def corpus_of(tmp_path: Path, *texts: str) -> Scene:
    lines = [json.dumps({"id": f"p{i}", "text": text}) for i, text in enumerate(texts)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Scene(tmp_path, embedder=Embedder())


def nobody(ask):
    raise AssertionError("it asks nobody")


# --- BM25 --------------------------------------------------------------------------------------------------------------------


def test_bm25_by_hand():
    # N = 3, mean length 3; `the` and `cat` are in 2 passages each: log(1 + 1.5 / 2.5). Norms 1.5 * (0.25 + 0.75 * length / 3).
    idf = math.log(1.6)
    expected = [idf * (1 / 2.5 + 1 / 2.5), idf * (1 / 2.875 + 2 / 3.875), 0.0]
    assert Bm25(CATS).scores("cat the") == pytest.approx(expected)
    assert Bm25(CATS).scores("the cat the") == pytest.approx([idf * 3 / 2.5, idf * (1 / 2.875 + 4 / 3.875), 0.0])
    assert Bm25(CATS).scores("fish") == pytest.approx([0.0, 0.0, 0.0])


@pytest.mark.parametrize("texts", [[], [""], ["", "!"]])
def test_bm25_of_nothing(texts):
    assert Bm25(texts).scores("cat").tolist() == [0.0] * len(texts)


@pytest.fixture(scope="module")
def documents() -> list[str]:
    texts = {text for module, source in _docstrings.files_of("python", []) for _, text in _docstrings.docstrings(module, source)}
    return sorted(texts)


def queries_of(documents: list[str], count: int) -> list[str]:
    """Draw a few words of as many passages."""
    draw = random.Random(7)
    found = (draw.choice(documents) for _ in range(10 * count))
    return [" ".join(draw.sample(words(text), 6)) for text in found if len(words(text)) >= 12][:count]


def test_bm25_is_as_the_reference_has_it(documents):
    assert len(documents) >= 2000
    reference = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    reference.index([words(text) for text in documents], show_progress=False)
    ours = Bm25(documents)
    hits, expected_hits = 0, 0
    for query in queries_of(documents, 300):
        expected = reference.get_scores(words(query)).astype(np.float64)
        score_N = ours.scores(query)
        np.testing.assert_allclose(score_N, expected, rtol=2e-5, atol=2e-5)
        best = {i for i, _ in _index.ranked(score_N, 10)}
        # Where the tenth place is shared, either choice is right: those above it are the same.
        floor = np.sort(expected)[-10]
        assert set(np.flatnonzero(expected > floor + 1e-4)) <= best <= set(np.flatnonzero(expected >= floor - 1e-4))
        hits += len(best)
        expected_hits += min(10, int((expected > 0).sum()))
    assert hits == expected_hits


# --- ranking -----------------------------------------------------------------------------------------------------------------


def test_ranked_is_a_stable_sort_of_rounded_scores():
    draw = np.random.default_rng(3)
    score_N = draw.integers(0, 30, 500) / 10 + draw.normal(0, 1e-8, 500)
    score_N[::7] = -np.inf
    expected = sorted((i for i in range(500) if score_N[i] > -np.inf), key=lambda i: (-round(float(score_N[i]), 6), i))
    for count in (1, 7, 100, 600):
        assert [i for i, _ in _index.ranked(score_N, count)] == expected[:count]
    assert _index.ranked(np.full(3, -np.inf), 2) == []
    assert _index.ranked(score_N, 0) == []


def test_cosines_of_an_embedding_index(documents):
    passages = [Passage(str(i), text) for i, text in enumerate(documents[:300])]
    index, queries = _index.build("embedding", passages, Embedder().embed), queries_of(documents, 100)
    vectors, asked = (Fake().embed([*texts], None).astype(np.float64) for texts in ([p.text for p in passages], queries))
    for one, score_N in zip(asked, index.scores(queries), strict=True):
        expected = [float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)) for other in vectors]
        assert score_N == pytest.approx(expected, abs=1e-6)


def test_a_fused_ranking_by_hand():
    class Fixed:
        def __init__(self, *scores: float) -> None:
            self._scores = np.array(scores)

        def scores(self, queries):
            yield from (self._scores for _ in queries)

    none = -np.inf
    # Places: 1, 2, 3, none and 2, none, 1, none.
    (score_N,) = _index.FusedIndex([Fixed(9, 8, 7, none), Fixed(0.1, none, 0.4, none)]).scores(["q"])
    assert score_N[:3] == pytest.approx([1 / 61 + 1 / 62, 1 / 62, 1 / 63 + 1 / 61])
    assert score_N[3] == none


# --- the operator --------------------------------------------------------------------------------------------------------------


def test_the_best_passages_are_added_to_the_context(drive, tmp_path):
    scene = corpus_of(tmp_path, *CATS, "the dog and the cat and the dog")
    retrieve = Retrieve(corpus="corpus.jsonl", k=2)
    assert (retrieve.files(), retrieve.needs, retrieve.needs_embedder) == (("corpus.jsonl",), frozenset(), False)
    driven = drive(retrieve, [row_of("r", "Where is the dog?", "known")], nobody, scene)
    (row,) = driven.rows
    assert [one["doc_id"] for one in row.context] == ["r-0", "p3", "p1"]
    assert [one["text"] for one in row.context[1:]] == ["the dog and the cat and the dog", "the cat the dog"]
    expected = sorted(Bm25([*CATS, "the dog and the cat and the dog"]).scores("where is the dog"))[:-3:-1]
    assert [one["score"] for one in row.context[1:]] == pytest.approx(expected, abs=1e-6)
    assert (row.id, row.keys) == ("r", ())


def test_what_a_row_has_is_not_found_again(drive, tmp_path):
    scene = corpus_of(tmp_path, *CATS)
    rows = [row_of("r", "the cat", "the cat sat"), Row("s", (Message("user", "the cat"),), context=({"doc_id": "p1", "text": "cut"},))]
    one, other = drive(Retrieve(corpus="corpus.jsonl"), rows, nobody, scene).rows
    assert [passage["doc_id"] for passage in one.context] == ["r-0", "p1"]
    assert [passage["doc_id"] for passage in other.context] == ["p1", "p0"]


def test_what_cannot_be_found_is_dropped_with_a_reason(drive, tmp_path):
    answers = {"r": None, "s": "a fish", "t": "zebra"}
    rows = [row_of(name, "cat") for name in answers]
    rows = [row if (text := answers[row.id]) is None else row.with_answer(text, ended=True, keys=[]) for row in rows]
    driven = drive(Retrieve(corpus="corpus.jsonl", query="answer"), rows, nobody, corpus_of(tmp_path, *CATS))
    assert [row.id for row in driven.rows] == ["s"]
    assert [(one.id, one.by, one.reason) for one in driven.dropped] == [
        ("r", "retrieve", "no answer to search with"),
        ("t", "retrieve", "nothing found"),
    ]


def test_rows_are_the_corpus_without_the_row_itself(drive):
    rows = [row_of(f"r{i}", f"about {text}", text) for i, text in enumerate(CATS)]
    made = {row.id: [one["doc_id"] for one in row.context] for row in drive(Retrieve(k=1), rows, nobody).rows}
    assert made == {"r0": ["r0-0", "r1-0"], "r1": ["r1-0", "r0-0"]}


def test_demonstrations_of_other_rows(drive):
    rows = [row_of(name, prompt, gold=gold) for name, prompt, gold in [("a", "Two plus two?", "4"), ("b", "Two plus three?", "5")]]
    rows.append(row_of("c", "Two plus two?", gold="4"))
    made = {row.id: [one["text"] for one in row.context] for row in drive(Retrieve(passage="demonstration"), rows, nobody).rows}
    # `a` and `c` are the same demonstration, which neither finds.
    assert made == {"a": ["Two plus three?\n\n5"], "b": ["Two plus two?\n\n4"], "c": ["Two plus three?\n\n5"]}


def test_tools_of_rows(drive):
    tool = {"name": "sleep", "description": "Wait for some seconds."}
    rows = [row_of("a", "seconds"), Row("b", (Message("user", "none"),), tool=tool)]
    driven = drive(Retrieve(passage="tool"), rows, nobody)
    assert [(row.id, [one["text"] for one in row.context]) for row in driven.rows] == [("a", ["sleep: Wait for some seconds."])]


def test_hard_negatives_come_after_the_positive(drive, tmp_path):
    texts = ("red cat cat", "red cat", "red dog dog dog", "blue", "red bird bird bird bird")
    scene = corpus_of(tmp_path, *texts)
    row = replace_context(row_of("r", "red cat"), "p1", "red cat")
    (made,) = drive(Retrieve(corpus="corpus.jsonl", k=0, negatives=2), [row], nobody, scene).rows
    # `red cat cat` has the rare word twice; of the two with `red` alone the shorter one comes first, and `blue` shares no word.
    assert [(one["text"], one["source"]) for one in made.candidates] == [(texts[2], "negative"), (texts[4], "negative")]
    assert made.candidates[0]["score"] > made.candidates[1]["score"]
    assert made.scores == {"positive_rank": 2.0}
    assert made.context == row.context


def test_negatives_of_a_positive_that_is_not_found_are_the_best(drive, tmp_path):
    scene = corpus_of(tmp_path, "red cat", "red dog dog", "blue whale")
    rows = [replace_context(row_of("r", "red cat"), "p2", "blue whale"), replace_context(row_of("s", "red cat"), "x", "elsewhere")]
    for row in drive(Retrieve(corpus="corpus.jsonl", k=0, negatives=2), rows, nobody, scene).rows:
        assert [one["text"] for one in row.candidates] == ["red cat", "red dog dog"]
        assert row.scores == {}


def replace_context(row: Row, doc_id: str, text: str) -> Row:
    return Row(row.id, row.messages, context=({"doc_id": doc_id, "text": text, "score": None},))


@pytest.mark.parametrize("by_index", ["embedding", "hybrid"])
def test_meanings(drive, tmp_path, by_index):
    retrieve = Retrieve(corpus="corpus.jsonl", k=2, by_index=by_index)
    assert retrieve.needs_embedder
    scene = corpus_of(tmp_path, "a bird", "the dog barks", "the cat sat")
    (row,) = drive(retrieve, [row_of("r", "the cat")], nobody, scene).rows
    assert [one["doc_id"] for one in row.context] == ["p2", "p1"]
    with pytest.raises(SpecError, match="there is no embedder"):
        drive(retrieve, [row_of("r", "the cat")], nobody, Scene(tmp_path))


def test_rows_do_not_depend_on_each_other_where_the_corpus_is_a_file(drive, tmp_path):
    scene = corpus_of(tmp_path, *CATS)
    rows = [row_of("r", "the cat"), row_of("s", "a dog")]
    together = drive(Retrieve(corpus="corpus.jsonl"), rows, nobody, scene).rows
    assert together == [row for one in rows for row in drive(Retrieve(corpus="corpus.jsonl"), [one], nobody, scene).rows]


def test_what_it_reads_and_writes():
    assert (Retrieve().reads, Retrieve().writes) == (("prompt", "context"), ("context",))
    plain = Retrieve(corpus="c", query="rationale", negatives=1)
    assert (plain.reads, plain.writes) == (("rationale", "context"), ("context", "candidates", "scores"))
    assert Retrieve(corpus="c", k=0, negatives=1).writes == ("candidates", "scores")
    with pytest.raises(ValidationError, match="nothing is retrieved"):
        Retrieve(k=0)


# --- corpora -------------------------------------------------------------------------------------------------------------------


def test_a_folder_of_files(tmp_path):
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "docs" / "b.md").write_text("# One\n\nfirst paragraph\n\n" + "long " * 30, encoding="utf-8")
    (tmp_path / "docs" / "deep" / "a.jsonl").write_text('{"doc_id": 7, "text": "seven"}\n\n{"text": "first paragraph"}\n', encoding="utf-8")
    (tmp_path / "docs" / "c.bin").write_bytes(b"\xff")
    found = _index.read_corpus(tmp_path, "docs", 60).passages
    assert [one.text for one in found][:2] == ["# One\n\nfirst paragraph", "long long long long long long long long long long long long"]
    assert [one.doc_id for one in found if one.text == "seven"] == ["7"]
    assert all(len(one.text) <= 60 for one in found)
    # A text's name does not depend on where it stands.
    (tmp_path / "docs" / "b.md").rename(tmp_path / "docs" / "z.md")
    assert sorted(_index.read_corpus(tmp_path, "docs", 60).passages, key=str) == sorted(found, key=str)


def test_nothing_is_lost_by_cutting():
    text = "one two\n\n" + "abc" * 20 + " tail\n\n\n\nlast words here"
    assert "".join("".join(_index.pieces(text, 20)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("c.jsonl", b"{]", RowError, r"c\.jsonl:1 is not JSON"),
        ("c.jsonl", b'{"text": "a"}\n{"body": "b"}', RowError, r"c\.jsonl:2 has no `text`"),
        ("c.jsonl", b'{"text": "a", "id": [1]}', RowError, "the id is not"),
        ("c.jsonl", b'{"text": "\\ud800"}', RowError, "half of a character"),
        ("c.jsonl", b"[" * 100_000, RowError, "is not JSON"),
        ("c.txt", b"\xff\xfe", RowError, "is not UTF-8"),
        ("c.txt", b"\n\n", RowError, "holds no passages"),
        ("c.pdf", b"x", SpecError, "not of a known format"),
    ],
)
def test_what_is_no_corpus(tmp_path, name, content, error, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says):
        _index.read_corpus(tmp_path, name, 100)


def test_a_corpus_stays_inside_the_project(tmp_path):
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (tmp_path / "project" / "docs").mkdir(parents=True)
    (tmp_path / "project" / "docs" / "link.txt").symlink_to(tmp_path / "secret.txt")
    for corpus in ("../secret.txt", "docs"):
        with pytest.raises(SpecError, match="not inside the project"):
            _index.read_corpus(tmp_path / "project", corpus, 100)
