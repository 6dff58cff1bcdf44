"""A stage's embedder: what an earlier build embedded or compared is not embedded or compared again, and changes no result."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from kdbuild.embedders.fake import Fake
from kdbuild.records import Message, Row
from kdbuild.rows.vectors import NAME
from kdbuild.selectors import Scene, Verdict
from kdbuild.selectors.semantic_dedup import SemanticDedup
from kdbuild.spec.model import Params
from kdbuild.spec.sections import EmbedderUse
from kdbuild.stages.job import Job
from kdbuild.stages.vectors import Vectors


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text the embedder is given."""
    given: list[str] = []
    batches = Fake.batches

    def counting(self: Fake, texts: Sequence[str], weights: Path | None) -> Iterator[tuple[list[int], np.ndarray]]:
        given.extend(texts)
        return batches(self, texts, weights)

    monkeypatch.setattr(Fake, "batches", counting)
    return given


def vectors(root: Path, dimension: int = 64) -> Vectors:
    """Return the embedder as a new process of the stage would open it."""
    (root / ".dvc").mkdir(parents=True, exist_ok=True)
    use = EmbedderUse.model_validate({"embedder": {"kind": "fake", "dimension": dimension}, "weights": None})
    return Vectors(Job(root, "s", "select", "p", {}, Params()), use)


def texts(count: int, seed: int = 0) -> list[str]:
    """Return different texts, about a third of which are near another."""
    rng = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        if made and rng.random() < 0.3:
            made[f"{rng.choice(list(made)[-50:])} more{rng.randrange(9)}"] = None
        else:
            made[" ".join(f"w{rng.randrange(3000)}" for _ in range(9))] = None
    return list(made)


def judged(root: Path, given: Sequence[str], selector: SemanticDedup) -> tuple[list[Verdict], Vectors]:
    opened = vectors(root)
    rows = [Row(f"{i:05d}", (Message("user", text), Message("assistant", "", train=True))) for i, text in enumerate(given)]
    return selector.judge(rows, Scene(root, embedder=opened)), opened


def test_only_new_texts_are_embedded_and_compared(tmp_path: Path, read: list[str]) -> None:
    given = texts(1010)
    first, new, selector = given[:1000], given[1000:], SemanticDedup(max_cosine=0.9, of="prompt")
    _, opened = judged(tmp_path, first, selector)
    assert (len(read), opened.num_embedded, opened.num_compared) == (1000, 1000, 1000 * 999 // 2)
    read.clear()
    mixed = [*new[:5], *first, *new[5:]]
    verdicts, opened = judged(tmp_path, mixed, selector)
    assert sorted(read) == sorted(new)
    assert (opened.num_embedded, opened.num_compared) == (10, 10 * 1000 + 45)
    assert verdicts == judged(tmp_path / "fresh", mixed, selector)[0]
    read.clear()
    tighter, opened = judged(tmp_path, mixed, SemanticDedup(max_cosine=0.95, of="prompt"))
    assert (read, opened.num_compared) == ([], 0), "a higher limit needs nothing new"
    assert tighter == judged(tmp_path / "fresh tight", mixed, SemanticDedup(max_cosine=0.95, of="prompt"))[0]


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_edits_gives_what_a_run_from_nothing_gives(tmp_path: Path, seed: int) -> None:
    rng, every = random.Random(seed), texts(260, seed)
    now = rng.sample(every, 100)
    dropped = 0
    for step in range(8):
        edit = rng.choice(["add", "remove", "change", "shuffle", "repeat", "limit"])
        now = {
            "add": [*now, *rng.sample(every, 20)],
            "remove": rng.sample(now, len(now) - 15),
            "change": [f"{text} changed" if rng.random() < 0.1 else text for text in now],
            "repeat": [*now, *rng.sample(now, 5)],
        }.get(edit, rng.sample(now, len(now)))
        limit = rng.choice([0.8, 0.9, 0.97]) if edit == "limit" else 0.85
        selector = SemanticDedup(max_cosine=limit, of="prompt")
        verdicts, _ = judged(tmp_path / "kept", now, selector)
        assert verdicts == judged(tmp_path / f"fresh {step}", now, selector)[0], edit
        dropped += sum(verdict.reason is not None for verdict in verdicts)
    assert dropped > 20


def test_a_lost_or_torn_cache_changes_nothing(tmp_path: Path, read: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given, selector = texts(300), SemanticDedup(max_cosine=0.9, of="prompt")
    expected, _ = judged(tmp_path, given, selector)
    (found,) = (tmp_path / ".dvc/kdbuild").rglob(NAME)
    for log in found.parent.glob(f"{NAME}-*"):
        log.unlink()
    found.write_bytes(b"\0" * 100_000)
    read.clear()
    assert judged(tmp_path, given, selector)[0] == expected
    assert sorted(read) == sorted(given)
    assert capsys.readouterr().err.count("embeds again") == 1


def test_another_embedder_shares_nothing(tmp_path: Path, read: list[str]) -> None:
    given = texts(20)
    one, other = vectors(tmp_path).embed(given), vectors(tmp_path, dimension=32).embed(given)
    assert (one.shape, other.shape, len(read)) == ((20, 64), (20, 32), 40)


def test_equal_texts_and_none(tmp_path: Path, read: list[str]) -> None:
    opened = vectors(tmp_path)
    one, other, again = opened.embed(["tea", "law", "tea"])
    assert read == ["tea", "law"]
    assert one.tobytes() == again.tobytes() == Fake(dimension=64).embed(["tea"], None)[0].tobytes()
    assert one.tobytes() != other.tobytes()
    assert len(opened.embed([])) == 0
    near = opened.near([], 0.9)
    assert near is not None
    assert len(near.cover(0.9).index_Q) == 0


def test_a_kill_costs_the_last_group_only(tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbuild.stages.vectors._GROUP", 100)
    monkeypatch.setattr("kdbuild.embedders.fake._BATCH", 50)
    given = texts(1000)
    direction, left = Fake._direction, [2000]

    def failing(self: Fake, word: str) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return direction(self, word)

    with monkeypatch.context() as patch:
        patch.setattr("kdbuild.embedders.fake.Fake._direction", failing)
        with pytest.raises(KeyboardInterrupt):
            vectors(tmp_path).embed(given)
    read.clear()
    whole = vectors(tmp_path).embed(given)
    assert 0 < len(read) < 1000
    assert len(read) % 100 == 0
    assert whole.tobytes() == Fake(dimension=64).embed(given, None).tobytes()
