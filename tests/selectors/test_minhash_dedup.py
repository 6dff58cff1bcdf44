"""Shared wording."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from datasketch import MinHash, MinHashLSH

from kdbuild.records import Message, Row
from kdbuild.selectors import KEEP, Scene, Verdict, _shingles
from kdbuild.selectors._shingles import hashes_per_band, jaccard, shingles
from kdbuild.selectors.minhash_dedup import MinhashDedup

SCENE = Scene(Path())


def row(id: str, prompt: str, answer: str = "") -> Row:
    return Row(id, (Message("user", prompt), Message("assistant", answer, train=True)))


def texts(seed: int, count: int) -> list[str]:
    """Texts of about 40 words, half of which are edits of another."""
    rng = random.Random(seed)
    made: list[list[str]] = []
    for _ in range(count):
        if made and rng.random() < 0.5:
            found = list(rng.choice(made))
            for _ in range(rng.randint(0, 6)):
                found[rng.randrange(len(found))] = f"w{rng.randrange(3000)}"
        else:
            found = [f"w{rng.randrange(3000)}" for _ in range(rng.randint(20, 60))]
        made.append(found)
    return [" ".join(found) for found in made]


def exact(given: list[str], limit: float, num_words: int) -> list[int | None]:
    """Every text with every kept one, written without kdbuild's own functions; index of the most similar kept one, or None."""
    kept: list[tuple[int, set[tuple[str, ...]]]] = []
    found: list[int | None] = []
    for i, text in enumerate(given):
        words = text.split()
        mine = {tuple(words[at : at + num_words]) for at in range(len(words) - num_words + 1)}
        alike = [(-len(mine & other) / len(mine | other), j) for j, other in kept]
        best = min(alike, default=(0.0, -1))
        found.append(best[1] if -best[0] >= limit else None)
        if found[-1] is None:
            kept.append((i, mine))
    return found


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.7, 0.9])
def test_what_is_kept_is_what_exact_jaccard_keeps(limit: float) -> None:
    given = texts(int(limit * 10), 400)
    verdicts = MinhashDedup(max_jaccard=limit).judge([row(f"r{i:03}", text) for i, text in enumerate(given)], SCENE)
    expected = exact(given, limit, 3)
    assert 30 < sum(one is not None for one in expected) < 300
    assert [v.because_of for v in verdicts] == [None if one is None else f"r{one:03}" for one in expected]


def test_datasketch_drops_the_same_but_for_its_estimate() -> None:
    """A peer, which estimates what is decided here: nearly all of its decisions are the same."""
    given = texts(11, 300)
    lsh, theirs = MinHashLSH(0.7, 128), []
    for i, text in enumerate(given):
        signature = MinHash(128)
        signature.update_batch([one.encode() for one in shingles(text, 3)])
        theirs.append(bool(lsh.query(signature)))
        if not theirs[-1]:
            lsh.insert(str(i), signature)
    ours = [v.reason is not None for v in MinhashDedup(max_jaccard=0.7).judge([row(f"r{i:03}", t) for i, t in enumerate(given)], SCENE)]
    assert sum(one == other for one, other in zip(ours, theirs, strict=True)) > 280


def test_by_hand() -> None:
    """Runs of two: ab bc cd de against ab bc cd dx: 3 of 5."""
    given = [row("1", "a b c d e"), row("2", "A, b c d x"), row("3", "e d c b a")]
    step = MinhashDedup(max_jaccard=0.6, num_words=2)
    assert step.judge(given, SCENE) == [KEEP, Verdict("shares most of its wording with a kept row", because_of="1", score=0.6), KEEP]
    assert MinhashDedup(max_jaccard=0.61, num_words=2).judge(given, SCENE) == [KEEP] * 3
    assert jaccard(shingles("a b c d e", 2), shingles("a b c d x", 2)) == 0.6


def test_short_texts_are_one_run() -> None:
    assert shingles("One two", 3) == {"one two"}
    assert shingles("one two three four", 3) == {"one two three", "two three four"}
    assert shingles("!?", 3) == frozenset()
    given = [row("1", "Hi there"), row("2", "hi there!"), row("3", "Hi"), row("4", "!"), row("5", "!"), row("6", "")]
    assert [v.because_of for v in MinhashDedup(max_jaccard=0.7).judge(given, SCENE)] == [None, "1", None, None, None, None]


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_a_pair_at_the_limit_is_hardly_missed(limit: float) -> None:
    per_band = hashes_per_band(limit)
    assert (1 - limit**per_band) ** (128 // per_band) <= 1e-4
    assert per_band == 128 or (1 - limit ** (per_band + 1)) ** (128 // (per_band + 1)) > 1e-4


def test_more_texts_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbuild.selectors import minhash_dedup

    given = [row(f"r{i:03}", text) for i, text in enumerate(texts(5, 120))]
    whole = MinhashDedup(max_jaccard=0.6).judge(given, SCENE)
    monkeypatch.setattr(minhash_dedup, "_CHUNK", 7)
    monkeypatch.setattr(minhash_dedup, "_REMEMBERED", 3)
    assert MinhashDedup(max_jaccard=0.6).judge(given, SCENE) == whole


def test_long_and_foreign_texts() -> None:
    long = " ".join(f"w{i}" for i in range(16_000))
    given = [row("1", long), row("2", long + " end"), row("3", "请写一首关于大海的诗"), row("4", "请写一首关于大海的诗。")]
    assert [v.because_of for v in MinhashDedup(max_jaccard=0.9).judge(given, SCENE)] == [None, "1", None, "3"]


def test_no_bands_without_texts() -> None:
    assert _shingles.Index(0.7).signatures([]) == []
