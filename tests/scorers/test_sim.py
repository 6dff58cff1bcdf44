"""Nearness in meaning, against scikit-learn."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.neighbors import NearestNeighbors

from kdbuild.embedders.fake import Fake
from kdbuild.records import Message, Row
from kdbuild.scorers import Scene
from kdbuild.scorers._nearest import mean_cosines
from kdbuild.scorers.sim import Sim

EMBEDDER = Fake(dimension=64)


class Vectors:
    """The stage's embedder, without weights."""

    def embed(self, texts):
        return EMBEDDER.embed(texts, None)


SCENE = Scene(Path(), embedder=Vectors())


def row(name: str, prompt: str, answer: str | None = None, **more) -> Row:
    turns = (Message("user", prompt), *([Message("assistant", answer, train=True)] if answer is not None else []))
    return Row(name, turns, **more)


def cosine(one: str, other: str) -> float:
    first, second = EMBEDDER.embed([one, other], None).astype(float)
    return float(first @ second)


ROWS = [row(f"r{i:02d}", " ".join(random.Random(i).choices(["oak", "fir", "elm", "ash", "sea", "river", "lake"], k=4))) for i in range(30)]


# --- the sets ------------------------------------------------------------------------------------------------------------------


def test_cosine_with_a_goal(score):
    driven = score(Sim(goal="oak and elm", of="prompt"), ROWS, scene=SCENE)
    assert driven.values("sim") == pytest.approx([cosine("oak and elm", one.messages[0].content) for one in ROWS], abs=2e-6)
    assert driven.asks == []
    far = score(Sim(goal="oak and elm", of="prompt", measure="distance"), ROWS, scene=SCENE).values("sim")
    assert far == pytest.approx([1 - value for value in driven.values("sim")], abs=2e-6)


def test_the_nearest_of_several_goals_or_the_mean_of_some(score):
    goals = ["oak and elm", "river", "a blue whale"]
    given = [row("r", "oak by the river")]
    near = sorted((cosine(goal, "oak by the river") for goal in goals), reverse=True)
    assert score(Sim(goal=goals), given, scene=SCENE).values("sim") == pytest.approx(near[:1], abs=2e-6)
    assert score(Sim(goal=goals, k=2), given, scene=SCENE).values("sim") == pytest.approx([sum(near[:2]) / 2], abs=2e-6)


def test_distance_to_the_nearest_other_rows_is_scikit_learn_s(score):
    driven = score(Sim(k=6, measure="distance"), ROWS, scene=SCENE)
    vectors = EMBEDDER.embed([one.messages[0].content for one in ROWS], None).astype(float)
    found = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(vectors).kneighbors(vectors)[0]
    assert driven.values("sim") == pytest.approx(found[:, 1:].mean(axis=1), abs=2e-6)


def test_a_pool_s_rows_but_the_row_itself(score):
    scene = replace(SCENE, pools={"before": [ROWS[0], row("p", "oak fir"), row("q", " ")]})
    scorer = Sim(pool="before")
    assert scorer.pools == ("before",)
    driven = score(scorer, [ROWS[0], row("other", ROWS[0].messages[0].content)], scene=scene)
    assert driven.rows["other"].scores["sim"] == 1.0
    assert driven.rows["r00"].scores["sim"] == pytest.approx(cosine(ROWS[0].messages[0].content, "oak fir"), abs=2e-6)
    empty = replace(SCENE, pools={"before": []})
    assert score(scorer, ROWS[:1], scene=empty).reasons == {"r00": "nothing to compare with"}


# --- what is compared ----------------------------------------------------------------------------------------------------------


def test_parts_of_a_row(score):
    full = row("r", "name a tree", "an oak", context=({"doc_id": "d", "text": "trees of europe"},))
    texts = {"prompt": "name a tree", "answer": "an oak", "both": "name a tree\n\nan oak", "context": "trees of europe"}
    for of, text in texts.items():
        assert score(Sim(goal="oak", of=of), [full], scene=SCENE).values("sim") == pytest.approx([cosine("oak", text)], abs=2e-6)
        bare = score(Sim(goal="oak", of=of), [Row("r", (Message("user", " "),))], scene=SCENE)
        assert bare.reasons == {"r": f"no {'text' if of == 'both' else of} to compare"}


def test_candidates_have_a_value_each_and_are_not_their_own_neighbours(score):
    split = row("a", "q", candidates=({"text": "an oak"}, {"text": "an oak tree"}, {"text": ""}))
    others = [row("b", "q", "a fir"), row("c", "q", "an oak")]
    driven = score(Sim(of="answer"), [split, *others], scene=SCENE)
    assert driven.rows["a"].candidates[0]["score"] == 1.0
    assert driven.rows["a"].candidates[1]["scores"] == {"sim": pytest.approx(cosine("an oak tree", "an oak"), abs=2e-6)}
    assert "score" not in driven.rows["a"].candidates[2]
    assert driven.rows["c"].scores["sim"] == 1.0


# --- edges ---------------------------------------------------------------------------------------------------------------------


def test_edges(score):
    assert score(Sim(), [], scene=SCENE).rows == {}
    assert score(Sim(), ROWS[:1], scene=SCENE).reasons == {"r00": "nothing to compare with"}
    equal = [row(f"e{i}", "the same") for i in range(5)]
    assert score(Sim(k=3), equal, scene=SCENE).values("sim") == [1.0] * 5
    odd = [row("long", "wort " * 20_000), row("thai", "สวัสดี ชาวโลก"), row("han", "你好 世界")]
    assert len(score(Sim(k=9), odd, scene=SCENE).values("sim")) == 3
    for wrong in ({"goal": "a", "pool": "b"}, {"goal": " "}, {"goal": ["a", ""]}, {"goal": []}):
        with pytest.raises(ValidationError):
            Sim(**wrong)


def test_the_order_of_the_rows_does_not_matter(score):
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert score(Sim(k=4), shuffled, scene=SCENE).rows == score(Sim(k=4), ROWS, scene=SCENE).rows


@pytest.mark.parametrize("k", [1, 3, 50])
def test_mean_cosines_are_those_of_brute_force_with_near_and_equal_vectors(k, monkeypatch):
    monkeypatch.setattr("kdbuild.scorers._nearest._PRODUCT", 2000)  # several blocks
    rng = np.random.default_rng(0)
    base = rng.normal(size=(40, 16)).astype(np.float32)
    base[10:20], base[20:25] = base[0], base[0] + 1e-4 * rng.normal(size=(5, 16))
    queries = np.concatenate([base[:12], rng.normal(size=(3, 16)).astype(np.float32), np.zeros((1, 16), np.float32)])
    own = [[i] if i < 12 else [] for i in range(16)]
    unit = base.astype(float) / np.linalg.norm(base.astype(float), axis=1, keepdims=True)
    expected = []
    for query, excluded in zip(queries.astype(float), own, strict=True):
        near = np.sort(np.delete(unit @ query / (np.linalg.norm(query) or 1.0), excluded))[::-1]
        expected.append(near[:k].mean())
    np.testing.assert_allclose(mean_cosines(queries, base, own, k), expected, atol=1e-6)
