"""Expressions over scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbuild.selectors._expression import ExpressionError, mean, parse, quantile, std

SCORES = {"a": 2.0, "b": -0.5, "rules.length": 0.25, "teacher-rating": 7.0, "clarity step 1": 3.0, "größe": 4.0}


def value(text: str, scores=SCORES, rows=(SCORES,)):
    expression = parse(text)
    taken = expression.taken(rows)
    found = (clause.evaluate(scores, taken) for clause in expression.clauses)
    return all(found) if expression.is_condition else next(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 2.0),
        ("-a + 1e-1", -1.9),
        ("a * (b - 1) / 3", -1.0),
        ("teacher-rating - a", 5.0),
        ("rules.length * 4", 1.0),
        ("'clarity step 1' + größe", 7.0),
        ("abs(b) + sqrt(größe) + exp(log(a))", 4.5),
        ("min(a, b, 9) - max(a, 1)", -2.5),
        ("\n a\n +\t1 ", 3.0),
    ],
)
def test_numbers(text: str, expected: float) -> None:
    assert value(text) == pytest.approx(expected, abs=1e-12)
    assert not parse(text).is_condition


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < 3 and b < 0", True),
        ("a < 3 and b > 0 or a == 2", True),
        ("a < 3 and (b > 0 or a != 2)", False),
        ("not b > 0 and 1 < a <= 2", True),
        ("1 < a < 2", False),
        ("b > 0 and a / (b + 0.5) > 1", False),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    """The last one divides by zero only where its first part holds."""
    assert value(text) is expected
    assert parse(text).is_condition


def test_what_is_taken_over_all_rows() -> None:
    rows = [{"a": float(x)} for x in (1, 2, 3, 4)]
    assert value("mean(a)", rows[0], rows) == 2.5
    assert value("std(a)", rows[0], rows) == pytest.approx(math.sqrt(1.25))
    assert value("quantile(a, 0.5) + a", rows[3], rows) == 6.5
    assert value("quantile(abs(a - mean(a)), 1)", rows[0], rows) == 1.5


def test_names_are_scores_in_the_order_of_the_text() -> None:
    expression = parse("ifd < 1 and rules.length > 0.5 and rating >= quantile(rating, 0.8) - ifd")
    assert expression.names == ("ifd", "rules.length", "rating")
    assert [clause.names for clause in expression.clauses] == [("ifd",), ("rules.length",), ("rating", "ifd")]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", 1),
        ("a <", 3),
        ("a) + (b", 2),
        ("  a ++ ", 6),
        ("a < 1 and größe ** 2 > 1", 11),
        ("größe > 1 and nosuch(a) > 1", 15),
        ("a and b", 1),
        ("1 < 2 and a > 1", 1),
        ("(a > 1) + 1", 2),
        ("a in b", 6),
        ("quantile(a, b) > 1", 13),
        ("quantile(a, 2) > 1", 13),
        ("quantile(a) > 1", 1),
        ("min(a)", 1),
        ("a > 1e999", 5),
        ("a > True", 5),
        ("a > 1j", 5),
        ("a # b", 3),
        ("[a]", 1),
        ("a[0]", 1),
        ("lambda: a", 1),
        ("a if a > 1 else b", 1),
        ("(a := 1)", 2),
        ("f'{a}'", 1),
        ("().__class__.__bases__", 1),
        ("__import__('os').system('x')", 1),
        ("a.__class__()", 1),
        ("abs(*a)", 5),
        ("abs(x=a)", 1),
    ],
)
def test_what_is_no_expression_is_refused_with_its_place(text: str, at: int) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert error.value.at == at


@pytest.mark.parametrize("text", ["(" * 400 + "a" + ")" * 400, "-" * 900 + "a", "not " * 200 + "a > 1", "a" * 1001, "a\x00b"])
def test_too_deep_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        parse(text)


@given(st.text(alphabet="ab1.()<>=+-*/ '\"andorté\n", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    at = 1
    try:
        parse(text)
    except ExpressionError as error:
        at = error.at
    assert 1 <= at <= max(len(text), 1)


REAL = st.floats(-1e6, 1e6)


@given(st.lists(REAL, min_size=1, max_size=30), st.floats(0, 1))
def test_statistics_are_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(np.quantile(values, share), rel=1e-9, abs=1e-6)
    assert mean(values) == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert std(values) == pytest.approx(np.std(values), rel=1e-6, abs=1e-4)
    assert quantile(values[::-1], share) == quantile(values, share)
