"""Greedy k-center against a plain loop in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbuild.records import Message, Row
from kdbuild.selectors import Scene
from kdbuild.selectors._farthest import farthest_first, spread
from kdbuild.selectors._similarity import NUM_DECIMALS, unit
from kdbuild.selectors.kcenter import KCenter


def plain(vectors: np.ndarray, num_rows: int, fixed: np.ndarray) -> list[int]:
    wide, taken = vectors.astype(np.float64), fixed.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    taken /= np.linalg.norm(taken, axis=1, keepdims=True)
    order = [] if len(fixed) else [0]
    while len(order) < num_rows:
        nearest = np.concatenate([wide @ wide[order].T, wide @ taken.T], axis=1).round(NUM_DECIMALS).max(axis=1)
        nearest[order] = 2
        order.append(int(nearest.argmin()))
    return order


def grouped(seed: int, count: int, dimension: int = 8) -> np.ndarray:
    """Return unit vectors, many of them equal or nearly so."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 3), dimension))
    spread = rng.choice([0.0, 0.0, 1e-4, 0.5], size=(count, 1))
    return unit((centres[rng.integers(0, len(centres), count)] + spread * rng.standard_normal((count, dimension))).astype(np.float32))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), num_rows=st.integers(1, 40), num_fixed=st.integers(0, 5))
def test_picks_equal_the_plain_loop(seed: int, count: int, num_rows: int, num_fixed: int) -> None:
    vectors = grouped(seed, count + num_fixed)
    fixed, rows = vectors[:num_fixed], vectors[num_fixed:]
    num_rows = min(num_rows, count)
    assert farthest_first(rows, num_rows, fixed)[0] == plain(rows, num_rows, fixed)


def test_many_rows_and_threads() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((3000, 48)).astype(np.float32))
    with threadpoolctl.threadpool_limits(1, "blas"):
        one = farthest_first(vectors, 200)
    with threadpoolctl.threadpool_limits(4, "blas"):
        assert farthest_first(vectors, 200) == one
    assert one[0] == plain(vectors, 200, vectors[:0])


def scene(pools: dict[str, list[Row]] | None = None, **degrees: float) -> Scene:
    """Embed a text as the direction it names."""

    def embed(texts):
        radians = np.deg2rad([degrees[text] for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)

    return Scene(Path(), embedder=SimpleNamespace(embed=embed), pools=pools or {})


def row(text: str) -> Row:
    return Row(text, (Message("user", text),))


def kept(selector: KCenter, rows: list[Row], given: Scene) -> list[str]:
    return [r.id for r, v in zip(rows, selector.judge(rows, given), strict=True) if v.reason is None]


def test_by_hand() -> None:
    """From a at 0 degrees the farthest is c at 170, then b at 60 (60 from a; d at 150 is 20 from c); cos 20 is the radius: 0.3473."""
    rows, given = [row(name) for name in "abcd"], scene(a=0, b=60, c=170, d=150)
    assert kept(KCenter(num_rows=2), rows, given) == ["a", "c"]
    assert kept(KCenter(num_rows=3), rows, given) == ["a", "b", "c"]
    assert given.facts["radius"] == pytest.approx(2 * np.sin(np.deg2rad(10)), abs=1e-4)
    assert kept(KCenter(num_rows=9), rows, given) == ["a", "b", "c", "d"]


def test_rows_of_pools_count_as_kept() -> None:
    rows, given = [row(name) for name in "abc"], scene({"old": [row("z")]}, a=0, b=60, c=170, z=172)
    assert kept(KCenter(num_rows=1, against=["old"]), rows, given) == ["a"]
    assert kept(KCenter(num_rows=2, against=["old"]), rows, given) == ["a", "b"]


def test_equal_rows_come_by_id_and_rows_without_the_part_go() -> None:
    rows = [row(name) for name in "abc"]
    assert kept(KCenter(num_rows=2), rows, scene(a=5, b=5, c=5)) == ["a", "b"]
    answered = replace(rows[2], messages=(*rows[2].messages, Message("assistant", "a", train=True)))
    verdicts = KCenter(num_rows=3, of="answer").judge([*rows[:2], answered], scene(a=5))
    assert [v.reason for v in verdicts] == ["nothing to compare", "nothing to compare", None]


def test_spread_draws_by_squared_distance() -> None:
    """Three places: two rows at 0 degrees, one at 60 and one at 180; after a draw at 0, squared distances are 1 and 4."""
    radians = np.deg2rad([0, 0, 60, 180])
    vectors = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    rng, second = np.random.default_rng(1), []
    for _ in range(4000):
        order = spread(vectors, 2, rng.integers(0, 2**63, 4).astype(np.uint64))
        if order[0] in (0, 1):
            second.append(order[1])
    assert np.mean(np.array(second) == 3) == pytest.approx(0.8, abs=0.03)
    assert set(second) == {2, 3}
    assert sorted(spread(vectors, 4, np.arange(4, dtype=np.uint64)))[-2:] == [2, 3]
    assert len(spread(vectors, 4, np.arange(4, dtype=np.uint64))) == 3
