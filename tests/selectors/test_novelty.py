"""ROUGE-L against what is kept, as rouge-score decides it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from kdbuild.elicitors._novelty import f_measure
from kdbuild.records import Message, Row
from kdbuild.selectors import KEEP, Scene, Verdict
from kdbuild.selectors.novelty import Novelty

SCENE = Scene(Path())
SCORER = RougeScorer(["rougeL"], use_stemmer=False)


def row(id: str, prompt: str, answer: str = "", **scores: float) -> Row:
    return Row(id, (Message("system", "Be brief."), Message("user", prompt), Message("assistant", answer, train=True)), scores=scores)


def texts(seed: int, count: int) -> list[str]:
    """Short texts of few words, many of them edits of another: pairs on both sides of the limit, and on it."""
    rng = random.Random(seed)
    vocabulary = [f"w{int(rng.paretovariate(0.7))}" for _ in range(120)]
    made: list[str] = []
    for _ in range(count):
        found = rng.choice(made).split() if made and rng.random() < 0.6 else rng.choices(vocabulary, k=rng.randint(1, 14))
        for _ in range(rng.randint(0, max(1, len(found) // 2))):
            found[rng.randrange(len(found))] = rng.choice(vocabulary)
        made.append(" ".join(found))
    return made


def by_rouge_score(rows: list[Row], limit: float) -> list[tuple[str, float] | None]:
    """The loop of self-instruct."""
    kept: list[Row] = []
    verdicts: list[tuple[str, float] | None] = []
    for one in rows:
        scores = [(-SCORER.score(other.prompt[-1].content, one.prompt[-1].content)["rougeL"].fmeasure, other.id) for other in kept]
        best = min(scores, default=(0.0, ""))
        verdicts.append((best[1], -best[0]) if -best[0] >= limit else None)
        if verdicts[-1] is None:
            kept.append(one)
    return verdicts


@pytest.mark.parametrize("limit", [0.4, 0.5, 0.7, 0.8, 1.0])
def test_decisions_are_those_of_rouge_score(limit: float) -> None:
    given = [row(f"r{i:03}", text) for i, text in enumerate(texts(int(limit * 10), 220))]
    verdicts = Novelty(max_rouge_l=limit).judge(given, SCENE)
    expected = by_rouge_score(given, limit)
    assert 20 < sum(one is not None for one in expected) < 210
    for verdict, one in zip(verdicts, expected, strict=True):
        assert (verdict.because_of, verdict.score) == ((None, None) if one is None else (one[0], round(one[1], 4)))


def test_the_measure_is_rouge_scores_to_the_last_bit() -> None:
    """Six common words of seven and eight are 0.8; rouge-score computes a little less, and keeps the row."""
    one, other = "a b c d e f g", "a b c d e f x y"
    assert SCORER.score(one, other)["rougeL"].fmeasure == f_measure(6, 7, 8) < 0.8 == 2 * 6 / (7 + 8)
    assert Novelty(max_rouge_l=0.8).judge([row("1", one), row("2", other)], SCENE) == [KEEP, KEEP]


def test_by_hand() -> None:
    """Common: write, poem, about, the, sea, of 5 and 6 words: 10/11."""
    given = [row("1", "Write: poem about the sea"), row("2", "Write a poem about the sea!"), row("3", "Sea the about poem write")]
    assert Novelty().judge(given, SCENE) == [KEEP, Verdict("prompt worded like a kept row's", because_of="1", score=0.9091), KEEP]


def test_what_is_compared() -> None:
    given = [row("1", "boil some tea", "heat the water"), row("2", "boil some tea", "ask a waiter"), row("3", "brew it", "heat the water")]
    found = {of: [v.because_of for v in Novelty(of=of).judge(given, SCENE)] for of in ("prompt", "answer", "both")}
    assert found == {"prompt": [None, "1", None], "answer": [None, None, "1"], "both": [None, None, None]}


def test_other_scripts_count_too() -> None:
    poems = ["请写一首关于大海的诗", "请写一首关于大山的诗", "Напиши стих о море", "напиши стих о море!"]
    given = [row(str(i), poem) for i, poem in enumerate(poems, 1)]
    assert [v.because_of for v in Novelty().judge(given, SCENE)] == [None, "1", None, "3"]


def test_long_texts_and_texts_without_words() -> None:
    long = " ".join(f"w{i % 977}" for i in range(20_000))
    assert len(long) > 90_000
    given = [row("1", long), row("2", long + " end"), row("3", "!?"), row("4", "!?"), row("5", "")]
    assert [v.because_of for v in Novelty().judge(given, SCENE)] == [None, "1", None, None, None]


def test_adding_to_pools_is_as_having_had_them() -> None:
    made = texts(3, 160)
    everything = [row(f"r{i:03}", text) for i, text in enumerate(made)]
    old = [r for r, v in zip(everything[:100], Novelty().judge(everything[:100], SCENE), strict=True) if v.reason is None]
    added = Novelty(against=["before"]).judge(everything[100:], Scene(Path(), pools={"before": old}))
    assert added == Novelty().judge(everything, SCENE)[100:]
