"""Shared wording."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from datasketch import MinHash, MinHashLSH

from kdbuild.elicitors._words import words
from kdbuild.records import Message, Row
from kdbuild.selectors import KEEP, Scene, Verdict, _shingles
from kdbuild.selectors._shingles import Index, hashes_per_band, jaccard, runs_of, sets_of
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


def runs_by_hand(text: str, num_words: int) -> list[tuple[str, ...]]:
    found = words(text)
    return [tuple(found[at : at + num_words]) for at in range(max(1, len(found) - num_words + 1))] if found else []


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
        signature.update_batch([one.encode() for one in set(map(" ".join, runs_by_hand(text, 3)))])
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
    set_of = sets_of(runs_of(["a b c d e", "A, b c d x", ""], 2))
    assert jaccard(set_of(0), set_of(1)) == 0.6
    assert jaccard(set_of(2), set_of(2)) == 0.0


@pytest.mark.parametrize("num_words", [1, 2, 3, 8, 10**30])
def test_runs_have_the_same_hash_where_they_have_the_same_words(num_words: int) -> None:
    """Against runs as tuples of words, of texts that hold every sort of character, some of them large or without words."""
    rng = random.Random(num_words)
    ascii, other = "aAbBzZ09_ \n\t.-'\x00\x7f", "é中日ßİK\ud800ไ\u0301ñΣς"
    given = ["".join(rng.choices(ascii + rng.choice(["", other]), k=rng.randint(0, 40))) for _ in range(3000)]
    given += ["", "x" * 70_000, "ab ba " * 20_000]
    runs = runs_of(given, num_words)
    assert len(runs.offset_T) == len(given) + 1
    hash_of: dict[tuple[str, ...], int] = {}
    for i, text in enumerate(given):
        expected = runs_by_hand(text, num_words)
        found = runs.of(i).tolist()
        assert len(found) == len(expected)
        assert [hash_of.setdefault(run, hash) for run, hash in zip(expected, found, strict=True)] == found
    assert len(set(hash_of.values())) == len(hash_of) > 1000


def test_hashes_do_not_depend_on_what_stands_beside() -> None:
    given = ["one two three four", "", "两个 words", "One"]
    together = runs_of(given, 3)
    for i, text in enumerate(given):
        assert runs_of([text], 3).of(0).tolist() == together.of(i).tolist()


def test_short_texts_are_one_run() -> None:
    assert [len(runs_of([text], 3).of(0)) for text in ("One two", "one two three four", "!?")] == [1, 2, 0]
    given = [row("1", "Hi there"), row("2", "hi there!"), row("3", "Hi"), row("4", "!"), row("5", "!"), row("6", "")]
    assert [v.because_of for v in MinhashDedup(max_jaccard=0.7).judge(given, SCENE)] == [None, "1", None, None, None, None]


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_a_pair_at_the_limit_is_hardly_missed(limit: float) -> None:
    per_band = hashes_per_band(limit)
    assert (1 - limit**per_band) ** (128 // per_band) <= 5e-5
    assert per_band == 128 or (1 - limit ** (per_band + 1)) ** (128 // (per_band + 1)) > 5e-5


def test_more_texts_than_are_hashed_or_remembered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [row(f"r{i:03}", text) for i, text in enumerate(texts(5, 120))]
    whole = MinhashDedup(max_jaccard=0.6).judge(given, SCENE)
    monkeypatch.setattr(_shingles, "_CHUNK_CHARS", 500)
    monkeypatch.setattr(_shingles, "_SIGNED", 7)
    monkeypatch.setattr(_shingles, "_REMEMBERED", 3)
    assert MinhashDedup(max_jaccard=0.6).judge(given, SCENE) == whole


def test_the_order_of_rows_and_rows_unlike_any_change_nothing() -> None:
    given = [row(f"r{i:03}", text) for i, text in enumerate(texts(6, 200))]
    whole = dict(zip((one.id for one in given), MinhashDedup(max_jaccard=0.6).judge(given, SCENE), strict=True))
    more = given + [row(f"a{i:03}", f"x{i} y{i} z{i} v{i}") for i in range(100)]
    random.Random(0).shuffle(more)
    found = dict(zip((one.id for one in more), MinhashDedup(max_jaccard=0.6).judge(more, SCENE), strict=True))
    assert {id: found[id] for id in whole} == whole
    assert all(found[id] == KEEP for id in found if id not in whole)


def test_long_and_foreign_texts() -> None:
    long = " ".join(f"w{i}" for i in range(16_000))
    given = [row("1", long), row("2", long + " end"), row("3", "请写一首关于大海的诗"), row("4", "请写一首关于大海的诗。")]
    assert [v.because_of for v in MinhashDedup(max_jaccard=0.9).judge(given, SCENE)] == [None, "1", None, "3"]


@pytest.mark.parametrize("given", [[], ["", "!"]])
def test_no_bands_without_words(given: list[str]) -> None:
    assert Index(runs_of(given, 3), 0.7).like_any().tolist() == []
