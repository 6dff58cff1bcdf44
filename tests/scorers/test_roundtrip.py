"""Does a question bring back its passage?"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdbuild.elicitors._bm25 import Bm25
from kdbuild.embedders.fake import Fake
from kdbuild.records import Message, Row
from kdbuild.scorers import Scene
from kdbuild.scorers.roundtrip import Roundtrip


class Vectors:
    """The stage's embedder, without weights."""

    def embed(self, texts):
        return Fake(dimension=128).embed(texts, None)


SCENE = Scene(Path(), embedder=Vectors())


def row(name: str, question: str, *passages: str) -> Row:
    context = tuple({"doc_id": f"{name}-{i}", "text": text, "score": None} for i, text in enumerate(passages))
    return Row(name, (Message("user", question),), context=context)


MAST = row("mast", "How high is the mast of the ship?", "The mast of the ship is 40 m high.")
KEEL = row("keel", "What of the ship is oak?", "The keel is oak.")
SAIL = row("sail", "How old is the moon?", "Sails are linen.")
ROWS = [MAST, KEEL, SAIL]


def values(driven, name: str) -> list[float]:
    return [driven.rows["mast"].scores[name], driven.rows["keel"].scores[name], driven.rows["sail"].scores[name]]


def test_rank_and_whether_it_is_among_the_first(score):
    """`What of the ship is oak` has four words of the mast's passage and two of the keel's, of which one is rare; SAIL's matches none."""
    driven = score(Roundtrip(), ROWS)
    assert values(driven, "roundtrip") == [1.0, 0.5, 0.0]
    assert values(driven, "roundtrip.found") == [1.0, 0.0, 0.0]
    assert values(score(Roundtrip(k=2), ROWS), "roundtrip.found") == [1.0, 1.0, 0.0]
    assert Roundtrip().names == ("roundtrip", "roundtrip.found")


@pytest.mark.parametrize("by_index", ["bm25", "embedding"])
def test_ranks_are_those_of_sorting_all_scores(score, by_index):
    rng = random.Random(0)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(50)]
    rows = [row(f"r{i:02d}", " ".join(rng.sample(text.split(), 2) + rng.choices(words, k=2)), text) for i, text in enumerate(texts)]
    driven = score(Roundtrip(by_index=by_index, k=3), rows, scene=SCENE)
    for i, one in enumerate(rows):
        question = one.messages[0].content
        if by_index == "bm25":
            scores = Bm25(texts).scores(question)
        else:
            vectors = Vectors().embed([question, *texts]).astype(float)
            scores = vectors[1:] @ vectors[0]
        better = int((np.round(scores, 6) >= round(scores[i], 6)).sum())
        assert driven.rows[one.id].scores == {"roundtrip": round(1 / better, 6), "roundtrip.found": float(better <= 3)}


def test_a_question_that_fits_all_alike_finds_none(score):
    vague = [row(f"v{i}", "What is it?", f"It is thing{i}.") for i in range(4)]
    assert score(Roundtrip(), vague).values("roundtrip") == [0.25] * 4


def test_equal_passages_are_one_and_own_ones_are_not_in_the_way(score):
    twice = [replace(MAST, id="a"), replace(MAST, id="b")]
    assert score(Roundtrip(), twice).values("roundtrip.found") == [1.0, 1.0]
    several = row("m", "How high is the mast?", "The mast is high, how high is the mast.", "A mast.")
    assert score(Roundtrip(), [several, KEEL]).rows["m"].scores["roundtrip"] == 1.0


def test_a_passage_inside_the_prompt_is_not_the_question(score):
    shown = replace(SAIL, messages=(Message("system", "Answer."), Message("user", "Sails are linen.\n\nHow old is the moon?")))
    assert score(Roundtrip(), [MAST, shown]).rows["sail"].scores["roundtrip"] == 0.0
    bare = replace(SAIL, messages=(Message("user", "Sails are linen."),))
    assert score(Roundtrip(), [MAST, bare]).reasons == {"sail": "no question to search with"}


def test_a_corpus_stands_beside_the_rows(score, tmp_path):
    (tmp_path / "more.txt").write_text("The mast of the ship is high, how high is the mast of the ship?")
    scorer = Roundtrip(corpus="more.txt")
    assert scorer.files() == ("more.txt",)
    assert score(scorer, [MAST], scene=Scene(tmp_path)).values("roundtrip") == [0.5]


def test_edges(score):
    assert score(Roundtrip(), []).rows == {}
    assert score(Roundtrip(), [row("r", "Why?"), MAST]).reasons == {"r": "no passage to find"}
    assert score(Roundtrip(), [MAST]).values("roundtrip") == [1.0]
    odd = [row("han", "船有多高", "船高四十米"), row("long", "word99", " ".join(f"word{i}" for i in range(15_000)))]
    assert score(Roundtrip(), odd).values("roundtrip") == [1.0, 1.0]
    shuffled = random.Random(2).sample(ROWS, 3)
    assert score(Roundtrip(), shuffled).rows == score(Roundtrip(), ROWS).rows
    assert (Roundtrip().needs_embedder, Roundtrip(by_index="hybrid").needs_embedder) == (False, True)
    assert len(score(Roundtrip(by_index="hybrid"), ROWS, scene=SCENE).rows) == 3
