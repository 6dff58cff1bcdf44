"""Pydantic's errors in our words: what is wrong, what was given, what was probably meant."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from kdbuild.kinds import Model
from kdbuild.spec import document, wording
from kdbuild.spec.problems import Problem, dotted, render


class Inner(Model):
    """A mapping inside."""

    size: int = Field(1, ge=1)
    """How large."""


class Outer(Model):
    """Every shape a field of a kind may have."""

    number: float = 0.0
    whole: int = Field(1, lt=10)
    flag: bool = False
    text: str = "a"
    word: Literal["one", "two"] = "one"
    short: str = Field("ab", min_length=2, max_length=3)
    code: str = Field("a1", pattern="^[a-z][0-9]$")
    few: list[int] = Field([1], min_length=1, max_length=2)
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = Inner()
    by_name: dict[str, Inner] = {}
    either: str | list[str] = "a"
    choice: Inner | list[Inner] | None = None
    words: frozenset[str] = frozenset()
    even: int = Field(2, multiple_of=2)
    marked: Annotated[int, Field(ge=0)] = 0


def messages(text: str) -> list[str]:
    found = document.parse(text, "x.yaml")
    try:
        valid = Outer.model_validate(found.value)
    except ValidationError as error:
        problems = wording.problems_of(error, found, Outer)
    else:
        problems = list(wording.coerced(valid, found.value))
    return [f"{dotted(p.at)}: {p.message}" for p in problems]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("number: fast", "number: must be a number, but is the text `fast`"),
        ("number: [1]", "number: must be a number, but is a list"),
        ("number: '1'", "number: must be a number, but is the text `1`"),
        ("number: true", "number: must be a number, but is `true`"),
        ("whole: 1.5", "whole: must be a whole number, but is `1.5`"),
        ("whole: 10", "whole: must be less than 10, but is `10`"),
        ("flag: maybe", "flag: must be `true` or `false`, but is the text `maybe`"),
        ("flag: yes", "flag: must be `true` or `false`, but is the text `yes`"),
        ("flag: 1", "flag: must be `true` or `false`, but is `1`"),
        ("text: 5", "text: must be text, but is `5`"),
        ("text:", "text: must be text, but is nothing"),
        ("word: tow", "word: must be `one` or `two`, but is `tow`. Did you mean `two`?"),
        ("word: three", "word: must be `one` or `two`, but is `three`"),
        ("short: a", "short: must be at least 2 characters long, but is `a`"),
        ("short: abcd", "short: must be at most 3 characters long, but is `abcd`"),
        ("code: zz", "code: must be of the form `^[a-z][0-9]$`, but is `zz`"),
        ("few: []", "few: must be a list of at least 1, but is of 0"),
        ("few: [1, 2, 3]", "few: must be a list of at most 2, but is of 3"),
        ("few: 1", "few: must be a list, but is `1`"),
        ("few: [x]", "few[0]: must be a whole number, but is the text `x`"),
        ("pair: [1]", "pair: value 2 is missing"),
        ("pair: a", "pair: must be a list, but is the text `a`"),
        ("inner: 1", "inner: must be a mapping, but is `1`"),
        ("inner: {siz: 2}", "inner.siz: unknown key `siz`. Did you mean `size`?"),
        ("by_name: {a: {size: 0}}", "by_name.a.size: must be at least 1, but is `0`"),
        ("by_name: [a]", "by_name: must be a mapping, but is a list"),
        ("either: 3", "either: must be text or a list, but is `3`"),
        ("either: [3]", "either[0]: must be text, but is `3`"),
        ("choice: {size: 0}", "choice.size: must be at least 1, but is `0`"),
        ("choice: [{size: 1}, {size: 0}]", "choice[1].size: must be at least 1, but is `0`"),
        ("choice: [{sise: 1}]", "choice[0].sise: unknown key `sise`. Did you mean `size`?"),
        ("choice: a", "choice: must be a mapping or a list, but is the text `a`"),
        ("words: 1", "words: must be a list, but is `1`"),
        ("even: 3", "even: must be a multiple of 2, but is `3`"),
        ("marked: -1", "marked: must be at least 0, but is `-1`"),
    ],
)
def test_wording(text: str, said: str) -> None:
    assert messages(text) == [said]


def test_what_is_right_says_nothing() -> None:
    text = "number: 1\nwhole: 2\nflag: true\nfew: [1, 2]\npair: [0, 1]\nchoice: [{size: 2}]\neither: [a]\nwords: [a]\nby_name: {a: {}}\n"
    assert messages(text) == []


def test_a_long_value_is_cut_and_secrets_are_masked() -> None:
    found = document.parse("number: " + "x" * 500 + "\napi_key: abc123\n", "x.yaml")
    try:
        Outer.model_validate(found.value)
    except ValidationError as error:
        text = "\n".join(render(p, found) for p in wording.problems_of(error, found, Outer))
    assert max(map(len, text.splitlines())) < 200
    assert "abc123" not in text
    assert "2 | api_key: ***" in text


def test_render_without_a_line() -> None:
    assert render(Problem((), "odd", hint="mend it"), document.Document("specs/a.yaml")) == "specs/a.yaml: odd\nhint: mend it"
