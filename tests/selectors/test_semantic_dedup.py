"""Nearness of meaning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from kdbuild.embedders.fake import Fake
from kdbuild.records import Message, Row
from kdbuild.selectors import KEEP, Scene, Verdict, _cells
from kdbuild.selectors.semantic_dedup import SemanticDedup


def row(id: str, prompt: str, answer: str = "", system: str | None = None) -> Row:
    head = (Message("system", system),) if system else ()
    return Row(id, (*head, Message("user", prompt), Message("assistant", answer, train=True)))


def at_angles(**degrees: float):
    """Embed a text as the direction its first word names."""

    def embed(texts):
        radians = np.deg2rad([degrees[text.split()[0]] for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    return seen(embed)


def seen(embed) -> Scene:
    """Return a scene whose embedder is this function."""
    return Scene(Path(), embedder=SimpleNamespace(embed=embed))


def test_verdicts_by_hand() -> None:
    """cos 5 = 0.99619, cos 15 = 0.96593, cos 20 = 0.93969."""
    rows = [row("1", "a"), row("2", "b"), row("3", "c"), row("4", "d")]
    verdicts = SemanticDedup(max_cosine=0.95, of="prompt").judge(rows, at_angles(a=0, b=20, c=15, d=90))
    assert verdicts == [KEEP, KEEP, Verdict("prompt close in meaning to a kept row's", because_of="2", score=0.9962), KEEP]


def test_another_limit_with_the_same_kept_rows_gives_the_same_verdicts() -> None:
    rows = [row("1", "a"), row("2", "b"), row("3", "c"), row("4", "d")]
    embed = at_angles(a=0, b=30, c=27, d=2)
    tight = SemanticDedup(max_cosine=0.99).judge(rows, embed)
    loose = SemanticDedup(max_cosine=0.9).judge(rows, embed)
    assert tight == loose
    assert [v.because_of for v in tight] == [None, None, "2", "1"]


def test_what_is_compared() -> None:
    rows = [row("1", "tea pot", "boil"), row("2", "tea pot", "law"), row("3", "tax", "boil")]

    def dropped(of: str) -> list[str]:
        verdicts = SemanticDedup(max_cosine=0.95, of=of).judge(rows, seen(lambda texts: Fake().embed(texts, None)))
        return [r.id for r, v in zip(rows, verdicts, strict=True) if v.reason]

    assert (dropped("prompt"), dropped("answer"), dropped("both")) == (["2"], ["3"], [])


def test_a_shared_system_prompt_makes_no_row_like_another() -> None:
    system = "you are a helpful assistant and answer briefly " * 10
    rows = [row("1", "boil water", "heat it", system), row("2", "tax law", "pay it", system)]
    read: list[str] = []

    def embed(texts):
        read.extend(texts)
        return Fake().embed(texts, None)

    assert SemanticDedup(max_cosine=0.8).judge(rows, seen(embed)) == [KEEP, KEEP]
    assert read == ["boil water\n\nheat it", "tax law\n\npay it"]


@pytest.mark.parametrize("wrong", [1.1, -2, float("nan"), "high", None])
def test_a_limit_that_is_no_cosine_is_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        SemanticDedup.model_validate({"kind": "semantic-dedup", "max_cosine": wrong})


def scored(one: Row, quality: float) -> Row:
    return replace(one, scores={"quality": quality})


def test_the_best_of_near_rows_stays() -> None:
    """cos 10 = 0.98481. Best first b, then c and a in turn: a is near b alone, c is near b alone."""
    rows = [scored(row("1", "a"), 0.1), scored(row("2", "b"), 0.9), scored(row("3", "c"), 0.5), scored(row("4", "d"), 0.5)]
    verdicts = SemanticDedup(max_cosine=0.97, by_score="quality", of="prompt").judge(rows, at_angles(a=0, b=10, c=20, d=20))
    assert [v.because_of for v in verdicts] == ["2", None, "2", "2"]
    far = SemanticDedup(max_cosine=0.99, by_score="quality", of="prompt").judge(rows, at_angles(a=0, b=10, c=20, d=20))
    assert [v.because_of for v in far] == [None, None, None, "3"]


def test_rows_of_pools_never_lose_and_are_not_compared_with_each_other() -> None:
    """The pool's rows are alike; a new row is dropped for the nearer of them, however good it is."""
    pool = [row("p1", "x"), row("p2", "y")]
    rows = [scored(row("1", "a"), 1.0), scored(row("2", "b"), 0.0)]
    scene = replace(at_angles(a=2, b=90, x=0, y=1), pools={"old": pool})
    verdicts = SemanticDedup(max_cosine=0.9, by_score="quality", against=["old"], of="prompt").judge(rows, scene)
    assert [v.because_of for v in verdicts] == ["p2", None]
    assert SemanticDedup(max_cosine=0.9, against=["old"]).judge([], scene) == []


def test_how_well_cells_did_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cells, "MAX_EXACT", 3)
    rows = [row(str(i), name) for i, name in enumerate("abcd")]
    scene = at_angles(a=0, b=1, c=90, d=91)
    assert [v.because_of for v in SemanticDedup(max_cosine=0.99).judge(rows, scene)] == [None, "0", None, "2"]
    assert scene.facts["recall"] == 1.0
