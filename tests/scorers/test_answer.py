"""Whether an answer comes to the right one."""

from __future__ import annotations

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbuild.records import Message, Row
from kdbuild.scorers import _symbolic
from kdbuild.scorers.answer import Answer


def row(text: str, gold: str | None, prompt: str = "Q?", **fields) -> Row:
    return Row("r", (Message("user", prompt), Message("assistant", text, train=True)), gold=gold, **fields)


def value(score, text: str, gold: str, prompt: str = "Q?", **fields) -> tuple[float, float]:
    (found,) = score(Answer(**fields), [row(text, gold, prompt)]).rows.values()
    return found.scores["answer"], found.scores["answer.read"]


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("He has 3 + 4 = 7.\nAnswer: 7 apples", "7", 1.0),
        ("It costs $1,250.50 in all.", "#### 1250.5", 1.0),
        ("First 5, then 6, so it is 11 km.", "11", 1.0),
        ("So the sum is \\boxed{\\frac{3}{4}} of it, from 1.", "0.75", 1.0),
        ("Answer: 1 1/2 cups", "3/2", 1.0),
        ("Answer: -4", "4", 0.0),
        ("Answer: 0.3333333", "1/3", 1.0),
        ("Answer: 0.333", "1/3", 0.0),
        ("11 people came, so the answer is 12", "12", 1.0),
    ],
)
def test_numbers(score, text, gold, expected):
    assert value(score, text, gold, answers="number") == (expected, 1.0)


def test_what_has_no_number_is_wrong_and_unread(score):
    assert value(score, "I do not know.", "4", answers="number") == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: (B)", 1.0),
        ("Thinking of A first.\nAnswer: B. nine metres", 1.0),
        ("Answer: nine metres", 1.0),
        ("Answer: A", 0.0),
        ("B", 1.0),
    ],
)
def test_choices(score, text, expected):
    assert value(score, text, "B", "How tall?\nA) five metres\nB) nine metres", answers="choice")[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("Answer: the Oak!", 1.0), ("oak", 1.0), ("Answer: oak tree", 0.0), ("An oak, I think", 0.0)]
)
def test_texts_as_squad_compares_them(score, text, expected):
    assert value(score, text, "An oak", answers="text")[0] == expected


def test_spans(score):
    scorer = Answer(answers="span")
    assert scorer.names == ("answer", "answer.read", "answer.f1")
    (found,) = score(scorer, [row("It was in the New York harbour", "New York")]).rows.values()
    # Without articles 6 words of which 2 are right: precision 1/3, recall 1, F1 = 2 * 2 / (6 + 2) with "it was in new york harbour".
    assert found.scores == {"answer": 1.0, "answer.read": 1.0, "answer.f1": 0.5}
    (found,) = score(scorer, [row("York is new", "New York")]).rows.values()
    # Not in one piece; 2 of 3 words, all of the gold: F1 = 4 / 5.
    assert found.scores == {"answer": 0.0, "answer.read": 1.0, "answer.f1": 0.8}
    (found,) = score(scorer, [row("He is from Newark", "New")]).rows.values()
    assert found.scores["answer"] == 0.0


def test_the_label_can_be_compared_instead(score):
    scorer = Answer(of="label", answers="number")
    assert score(scorer, [row("print(7)", "7", label="7.0")]).values("answer") == [1.0]
    assert score(scorer, [row("print(7)", "7")]).reasons == {"r": "no label to score"}


def test_what_cannot_be_compared_is_set_apart(score):
    assert score(Answer(), [row("x", None)]).reasons == {"r": "no right answer to compare with"}
    assert score(Answer(answers="number"), [row("4", "many")]).reasons == {"r": "the right answer cannot be read"}
    assert score(Answer(), [row(" ", "x")]).reasons == {"r": "no answer to score"}


# --- formulas ----------------------------------------------------------------------------------------------------------------

x, y = sympy.symbols("x y", positive=True)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (r"\frac{x^2-1}{x-1}", "x + 1", True),
        (r"\dfrac12", "0.5", True),
        (r"2\sqrt{2}", r"\sqrt8", True),
        (r"\sqrt[3]{27}", "3", True),
        ("x = 5", "5", True),
        ("y = (x+1)^2", "x^2 + 2x + 1", True),
        (r"\sin^2 x + \cos^2 x", "1", True),
        (r"\left(1, \frac{1}{2}\right)", "(1, 0.5)", True),
        ("(1, 2)", "(2, 1)", False),
        (r"\{2, 1\}", r"\{1, 2\}", True),
        (r"2\frac{1}{2}", "2.5", True),
        ("2 1/2", "5/2", True),
        (r"5\text{ cm}", "5", True),
        (r"90^\circ", "90", True),
        ("1,000", "10^3", True),
        ("-x^2", "(-x)^2", False),
        ("|x - 3|", "|3 - x|", True),
        (r"e^{i\pi}", "-1", True),
        ("x", "y", False),
        ("x + 1", "x - 1", False),
        (r"\log(x^2)", r"2\ln x", True),
        (r"x \in [0, 1)", r"x \in [0, 1)", True),
        (r"x \in [0, 1)", r"x \in [0, 1]", False),
        ("9**9**9**9**9", "1", False),
        ("1/0", "2/0", False),
        ("", "", False),
    ],
)
def test_formulas(one, other, expected):
    assert _symbolic.are_equal(one, other) == expected
    assert _symbolic.are_equal(other, one) == expected


leaves = st.sampled_from([x, y, sympy.Integer(1), sympy.Integer(2), sympy.Rational(1, 3)])
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(lambda a, b: a / (b * b + 1), inner, inner),
        st.builds(lambda a: a**2, inner),
        st.builds(lambda a: sympy.sqrt(a * a + 1), inner),
        st.builds(sympy.sin, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(expressions)
def test_an_expression_is_equal_to_what_sympy_makes_of_it(expression):
    """sympy writes it as LaTeX and, expanded, as a program does."""
    latex, expanded = sympy.latex(expression), str(sympy.expand(expression))
    if len(latex) < 300 and len(expanded) < 300:
        assert _symbolic.are_equal(latex, expanded)
        assert not _symbolic.are_equal(f"{latex} + 1/7", expanded)


@settings(max_examples=60, deadline=None)
@given(expressions, expressions)
def test_two_expressions_are_equal_where_sympy_finds_them_so(one, other):
    difference = (one - other).equals(0)
    if difference is not None and max(len(str(one)), len(str(other))) < 300:
        assert _symbolic.are_equal(str(one), str(other)) == difference


@given(st.text(alphabet="0123456789xy+-*/^(){}[],|\\ .=fracsqrt", max_size=120))
def test_any_text_is_read_or_not(text):
    assert isinstance(_symbolic.are_equal(text, "x"), bool)


@pytest.mark.parametrize("text", ["(" * 390, "-" * 390, "2^" * 190 + "2", "\\sqrt" * 70 + "2", "{" * 100_000, "sin" * 120, "|" * 300])
def test_nothing_is_too_deep(text):
    assert not _symbolic.are_equal(text, "7")


def test_answers_that_are_formulas(score):
    assert value(score, r"So $x = \boxed{\frac{\pi}{2}}$.", r"\pi/2", answers="formula") == (1.0, 1.0)
    assert value(score, "Answer: $x+2$", "2 + x", answers="formula") == (1.0, 1.0)
    assert value(score, "Answer: no idea", "2 + x", answers="formula")[0] == 0.0
    assert value(score, "Answer: __import__('os').system('x')", "2", answers="formula") == (0.0, 0.0)
