"""Quality as a linear function of other scores."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LinearRegression, Ridge

from kdbuild.records import Message, Row
from kdbuild.scorers._regression import fit
from kdbuild.scorers.linear import Linear


def row(name: str, scores: dict[str, float], meta: dict[str, str] | None = None) -> Row:
    return Row(name, (Message("user", "Q?"), Message("assistant", "A.", train=True)), scores=scores, meta=meta or {})


def test_coefficients_that_are_given(score):
    driven = score(Linear(indicators={"a": 2.0, "b": -0.5}, intercept=1.0), [row("r", {"a": 3.0, "b": 4.0, "c": 9.0})])
    assert driven.values("linear") == [5.0]  # 1 + 6 - 2


def test_a_missing_indicator_sets_the_row_apart(score):
    driven = score(Linear(indicators={"a": 2.0, "b": -0.5}), [row("r", {"a": 3.0}), row("s", {"a": 1.0, "b": 0.0})])
    assert driven.reasons == {"r": "an indicator is missing"}
    assert driven.values("linear") == [2.0]


def data(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3)) * [1.0, 10.0, 0.1] + [0.0, 50.0, -1.0]
    return x, x @ [0.5, -0.02, 3.0] + 2.0 + 0.1 * rng.normal(size=count)


@pytest.mark.parametrize("ridge", [0.0, 0.3, 25.0])
def test_the_fit_is_that_of_scikit_learn(ridge):
    x, y = data(40)
    peer = (Ridge(alpha=ridge, solver="svd") if ridge else LinearRegression()).fit(x, y)
    intercept, coefficients = fit(x.tolist(), y.tolist(), ridge)
    assert coefficients == pytest.approx(peer.coef_.tolist(), rel=1e-9)
    assert intercept == pytest.approx(float(peer.intercept_), rel=1e-9)
    if not ridge:
        solved, *_ = np.linalg.lstsq(np.c_[np.ones(40), x], y, rcond=None)
        assert [intercept, *coefficients] == pytest.approx(solved.tolist(), rel=1e-9)


def rows_of(x: np.ndarray, y: np.ndarray, known: int) -> list[Row]:
    """Rows with three indicators, of which the first `known` have their target."""
    return [
        row(f"r{i:03d}", dict(zip("abc", map(float, values), strict=True)), {"loss": repr(math.exp(target))} if i < known else {})
        for i, (values, target) in enumerate(zip(x, y, strict=True))
    ]


def test_it_is_fitted_on_the_rows_whose_target_is_known_and_predicts_all(score):
    x, y = data(30)
    rows = rows_of(x, y, known=20)
    peer = LinearRegression().fit(x[:20], y[:20])
    driven = score(Linear(indicators=["a", "b", "c"], target="meta.loss", log_target=True), random.Random(1).sample(rows, len(rows)))
    found = [driven.rows[one.id].scores["linear"] for one in rows]
    assert found == pytest.approx(peer.predict(x).tolist(), abs=1e-5)


def test_the_target_can_be_a_score(score):
    rows = [row(f"r{i}", {"a": float(i), **({"rating": 2.0 * i + 1} if i < 4 else {})}) for i in range(6)]
    assert score(Linear(indicators=["a"], target="rating"), rows).values("linear") == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]


def test_too_few_rows_to_fit_on_set_all_apart(score):
    x, y = data(5)
    for known in (0, 1, 3):
        driven = score(Linear(indicators=["a", "b", "c"], target="meta.loss"), rows_of(x, y, known))
        assert set(driven.reasons.values()) == {"too few rows with a known target to fit on"}
        assert len(driven.reasons) == 5
    assert len(score(Linear(indicators=["a", "b", "c"], target="meta.loss", ridge=0.1), rows_of(x, y, 3)).rows) == 5


def test_indicators_that_depend_on_each_other_need_ridge():
    x = [[float(i), 2.0 * i + 1] for i in range(6)]
    assert fit(x, [float(i) for i in range(6)], 0.0) is None
    intercept, (a, b) = fit(x, [float(i) for i in range(6)], 1e-6)
    assert [intercept + a * i + b * (2 * i + 1) for i in range(6)] == pytest.approx(range(6), abs=1e-5)
    # By symmetry of the penalty the weights are as the columns' slopes: 1 to 2.
    assert b == pytest.approx(2 * a)


def test_targets_that_are_no_numbers_are_unknown(score):
    rows = [row(f"r{i}", {"a": float(i)}, {"loss": text}) for i, text in enumerate(["1", "2", "3", "many", "nan", "inf", "-1", "0"])]
    found = score(Linear(indicators=["a"], target="meta.loss", log_target=True), rows)
    slope, base = np.polyfit([0.0, 1.0, 2.0], np.log([1.0, 2.0, 3.0]), 1)
    assert found.values("linear") == pytest.approx([base + slope * i for i in range(8)], abs=1e-5)


def test_candidates_by_their_own_scores(score):
    candidates = ({"text": "x", "scores": {"a": 1.0}}, {"text": "y", "scores": {"a": 3.0}}, {"text": "z"})
    given = Row("r", (Message("user", "Q?"),), candidates=candidates)
    (found,) = score(Linear(indicators={"a": 2.0}), [given]).rows.values()
    assert [one.get("score") for one in found.candidates] == [2.0, 6.0, None]


def test_it_runs_behind_what_it_reads():
    from kdbuild.scorers import Cost

    assert Linear(indicators={"a": 1.0}).cost == max(Cost)
    assert Linear(indicators=["a", "b"], target="rating").reads_scores == ("a", "b", "rating")
    assert Linear(indicators=["a"], target="meta.loss").reads_scores == ("a",)


@pytest.mark.parametrize(
    "fields",
    [
        {"indicators": ["a"]},
        {"indicators": {"a": 1.0}, "target": "b"},
        {"indicators": {"a": 1.0}, "ridge": 1.0},
        {"indicators": ["a"], "target": "a"},
        {"indicators": ["a", "a"], "target": "b"},
        {"indicators": ["a"], "target": "b", "intercept": 1.0},
        {"indicators": []},
    ],
)
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        Linear(**fields)
