"""Reading final answers."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kdbuild.elicitors._answers import gold_of, number_in, options_in, plain, same, split, value_of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", Fraction(18)),
        ("18.", Fraction(18)),
        ("$1,234.50 in all", Fraction("1234.5")),
        ("-7", Fraction(-7)),
        ("−7 degrees", Fraction(-7)),
        ("-$3", Fraction(-3)),
        ("$-3", Fraction(-3)),
        ("3 + 15 = 18", Fraction(18)),
        ("10-4", Fraction(10)),
        ("3/4", Fraction(3, 4)),
        ("1 1/2 cups", Fraction(3, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"$\boxed{42}$", Fraction(42)),
        ("50%", Fraction(50)),
        (".5", Fraction(1, 2)),
        ("2e3", Fraction(2000)),
        ("H2O: 5", Fraction(5)),
        ("x = 4 = four", Fraction(4)),
        ("none", None),
        ("1/0", None),
        ("9" * 5000, None),
        ("1e999999999", Fraction(1)),
        ("", None),
    ],
)
def test_numbers(text, number):
    assert number_in(text) == number


def test_the_last_number_of_a_text():
    assert number_in("3 boxes of 6 make 18 pieces", last=True) == 18


@pytest.mark.parametrize(
    ("number", "text"), [(Fraction(18), "18"), (Fraction(3, 4), "0.75"), (Fraction(-1, 3), "-1/3"), (Fraction(1000), "1000")]
)
def test_one_way_to_write_a_number(number, text):
    assert plain(number) == text


def test_the_last_marker_counts_and_is_found_in_bold_or_inside_a_line():
    assert split("Answer: 1?\nno\nAnswer: 2", "Answer:", "number").written == "2"
    assert split("So.\n**Final answer:** 3", "final answer:", "number").written == "3"
    assert split("So.\n**Answer**: 3", "Answer:", "number").written == "3"
    found = split("We see that Answer: 4", "Answer:", "number")
    assert (found.rationale, found.written, found.whole) == ("We see that", "4", False)
    assert split("So.\nAnswer:\n\n5\nmore", "Answer:", "number").written == "5"
    assert split("So.\nAnswer: one\ntwo\n\nthree", "Answer:", "text").written == "one\ntwo"
    assert split("Answering 4", "Answer:", "number") is None
    assert split("Two and two. So the answer is 4.", "Answer:", "number").written == "4."
    assert split("The answer isn't 4", "Answer:", "number") is None
    assert split("The answer is 4.", "####", "number") is None


@pytest.mark.parametrize(
    ("gold", "form", "value"),
    [
        ("3*6=<<3*6=18>>18 apples\n#### 1,800", "number", "1800"),
        ("There were 3 and then 5, so 8", "number", "8"),
        ("(B)", "choice", "B"),
        ("b", "choice", "B"),
        ("The Nile", "text", "The Nile"),
        ("because it rains\nAnswer: wet", "text", "wet"),
        ("no number", "number", None),
    ],
)
def test_gold(gold, form, value):
    assert gold_of(gold, form, "Answer:") == value


@pytest.mark.parametrize(
    ("written", "letter"),
    [
        ("A", "A"),
        ("A.", "A"),
        ("A dog", None),
        ("I think so", None),
        ("The answer is C", "C"),
        ("B because it is", "B"),
        ("it is (D)", "D"),
        ("", None),
    ],
)
def test_letters_without_listed_options(written, letter):
    assert value_of(written, "choice") == letter


def test_an_option_that_begins_with_an_article():
    options = options_in("Which?\n(A) A cat\n(B) A dog\n")
    assert options == {"A": "A cat", "B": "A dog"}
    assert value_of("A dog", "choice", options) == "B"
    assert value_of("C", "choice", options) is None


def test_what_is_the_same():
    assert same("0.333333333", "1/3", "number")
    assert not same("0.333", "1/3", "number")
    assert same("The Nile!", "nile", "text")
    assert same("+", "+", "text")
    assert not same("+", "-", "text")
    assert not same("A", "B", "choice")
