"""Reading specs and params.yaml: the dialect is DVC's, defaults lie under a spec's own values, every error has its line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kdbuild.errors import SpecError
from kdbuild.kinds import Model
from kdbuild.spec import document, wording
from kdbuild.spec.model import Params
from kdbuild.spec.problems import Problem, dotted, render
from kdbuild.spec.source import read_params, read_spec

SPEC = """\
target: {skill: summaries}
phases:
  sft:
    elicit: [{kind: label}]
  late:
    on: sft
    elicit: [{kind: label, max_new_tokens: 8}]
    train: {num_epochs: 5}
"""


def ruamel(text: str) -> object:
    """Read text as DVC does."""
    return YAML(typ="safe").load(text)


def read(tmp_path: Path, text: str, params: str = "") -> object:
    (tmp_path / "specs").mkdir(exist_ok=True)
    (tmp_path / "specs" / "a.yaml").write_text(text)
    (tmp_path / "params.yaml").write_text(params)
    return read_spec(tmp_path / "specs" / "a.yaml", read_params(tmp_path / "params.yaml"))


# --- the dialect -----------------------------------------------------------------------------------------------------

SCALARS = {
    "1e-4": 1e-4,
    "5e-4": 5e-4,
    "5.0e-4": 5e-4,
    "012": 12,
    "0o14": 12,
    "0x1f": 31,
    "yes": "yes",
    "no": "no",
    "on": "on",
    "off": "off",
    "1:30": "1:30",
    "1_000": 1000,
    "~": None,
    "null": None,
    "true": True,
    "True": True,
    ".5": 0.5,
    "1.": 1.0,
    "-0": 0,
    "'1'": "1",
    '"1e-4"': "1e-4",
    "!!str 12": "12",
    "1.2.3": "1.2.3",
}


@pytest.mark.parametrize("scalar", SCALARS)
def test_scalars_are_read_as_dvc_reads_them(scalar: str) -> None:
    text = f"a: {scalar}\n"
    found = document.parse(text, "x.yaml").value["a"]
    assert (type(found), found) == (type(SCALARS[scalar]), SCALARS[scalar])
    assert ruamel(text) == {"a": SCALARS[scalar]}


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {x: 1, y: 2}\nb:\n  z: 3\n  <<: *a\n  y: 5\n",
        "a: &a {x: 1}\nb: &b {x: 2, w: 3}\nc:\n  <<: [*a, *b]\n  q: 1\n",
        "a: &a {x: {deep: [1, 2]}}\nb: {<<: *a, x: 1}\n",
        "a: &a [1, 2]\nb: *a\nc: [*a, *a]\n",
        "%YAML 1.2\n---\na: yes\n",
        "\ufeffa: 1\n".removeprefix("\ufeff"),
        "a: |\n  two\n  lines\nb: >-\n  one\n  line\n",
        "? a\n: 1\n",
        "{a: 1, 'b': \"two\"}",
        "a: 1\r\nb: 2\r\n",
    ],
)
def test_structures_are_read_as_dvc_reads_them_in_the_same_order(text: str) -> None:
    found = document.parse(text, "x.yaml")
    assert found.problems == []
    assert repr(found.value) == repr(ruamel(text))


PARTS = ["a", "b", ":", ": ", "- ", "[", "]", "{", "}", ",", "\n", "  ", "'", '"', "1", "&a ", "*a", "#", "|", "~", "<<: ", "=", "!!int "]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=25))
def test_any_text_is_read_as_dvc_reads_it_or_refused(parts: list[str]) -> None:
    text = "".join(parts)
    found = document.parse(text, "x.yaml")
    try:
        expected = ruamel(text)
    except (YAMLError, ValueError, TypeError, IndexError):
        expected = None
    if not found.problems:
        assert repr(found.value) == repr(expected)
    for problem in found.problems:
        assert problem.message
        assert problem.line is None or 1 <= problem.line <= len(found.lines)


def test_lines_of_keys_and_values() -> None:
    found = document.parse("a: 1\nb:\n  - x\n  - c: >\n      text\n    d: [1,\n      2]\n", "x.yaml")
    assert found.line_of(("b",)) == 2
    assert found.line_of(("b", 0)) == 3
    assert found.line_of(("b", 1, "c")) == 4
    assert found.value_line_of(("b", 1, "d", 1)) == 7
    assert found.line_of(("b", 1, "absent")) == 4
    assert found.line_of(()) == 1


def test_an_own_key_replaces_the_lines_of_a_merged_one() -> None:
    found = document.parse("a: &a\n  x: {y: 1}\nb:\n  <<: *a\n  x: {z: 1}\n", "x.yaml")
    assert found.value["b"] == {"x": {"z": 1}}
    assert found.line_of(("b", "x")) == 5
    assert found.line_of(("b", "x", "y")) == 5
    assert found.line_of(("a", "x", "y")) == 2


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000, "? " * 3000, "a: " + "[" * 500 + "]" * 500])
def test_nesting_that_would_crash_the_parser_is_refused(text: str) -> None:
    found = document.parse(text, "x.yaml")
    assert [problem.message for problem in found.problems] == ["values are nested more than 64 deep"]


@pytest.mark.parametrize("scalar", ["2026-13-45", "!!int", "!!float x", "1" * 5000])
def test_a_scalar_that_is_not_what_it_looks_like(scalar: str) -> None:
    found = document.parse(f"a: {scalar}\n", "x.yaml")
    assert [(p.at, p.line) for p in found.problems] == [(("a",), 1)]
    assert "but is none" in found.problems[0].message
    assert len(found.problems[0].message) < 120


def test_a_large_flat_file_is_read() -> None:
    text = "a: [" + ", ".join("{b: [1]}" for _ in range(2000)) + "]\n"
    assert len(document.parse(text, "x.yaml").value["a"]) == 2000


def test_an_anchor_with_a_mistake_is_told_once() -> None:
    found = document.parse("a: &a {x: .nan}\nb: *a\nc: {<<: *a}\n", "x.yaml")
    assert [(p.at, p.line) for p in found.problems] == [(("a", "x"), 1)]


def test_line_breaks_are_those_of_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"specs/a\.yaml:3: foo: unknown key `foo`"):
        read(tmp_path, "target: {skill: x}\r\nphases: {}\rfoo: 1\n")


# --- defaults --------------------------------------------------------------------------------------------------------


def test_defaults_lie_under_a_specs_own_values(tmp_path: Path) -> None:
    spec = read(tmp_path, SPEC, "defaults: {held_out_frac: 0.5, train: {num_epochs: 3, batch_tokens: 64}}\n")
    assert spec.held_out_frac == 0.5
    assert [(p.train.num_epochs, p.train.batch_tokens) for p in spec.phases.values()] == [(3, 64), (5, 64)]


def test_a_default_does_not_win_over_a_value_that_equals_the_built_in_one(tmp_path: Path) -> None:
    spec = read(tmp_path, "held_out_frac: 0.2\n" + SPEC, "defaults: {held_out_frac: 0.5, accept_failed_frac: 0.1}\n")
    assert (spec.held_out_frac, spec.accept_failed_frac) == (0.2, 0.1)


def test_defaults_do_not_count_as_said_by_the_spec(tmp_path: Path) -> None:
    assert "train" not in read(tmp_path, SPEC).phases["sft"].model_fields_set


def test_wrong_defaults_are_an_error_of_params_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, SPEC, "defaults:\n  train: {num_epochs: 0}\n")
    assert caught.value.message.startswith("params.yaml:2: defaults.train.num_epochs: must be at least 1, but is `0`\n")


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n"])
def test_params_may_be_absent_or_empty(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    assert read_params(tmp_path / "params.yaml") == Params()


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(SpecError, match="cannot be read"):
        read_params(tmp_path / "params.yaml")


def test_all_errors_of_a_file_in_the_order_of_its_lines(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, "foo: 1\ntarget: {skill: 3}\nphases: {a: {elicit: [{kind: label, top_p: 2}, {kind: labl}]}}\nheld_out_frac: x\n")
    starts = [block.split(": ")[:2] for block in caught.value.message.split("\n\n")]
    assert starts == [
        ["specs/a.yaml:1", "foo"],
        ["specs/a.yaml:2", "target.skill"],
        ["specs/a.yaml:3", "phases.a.elicit[0].top_p"],
        ["specs/a.yaml:3", "phases.a.elicit[1]"],
        ["specs/a.yaml:4", "held_out_frac"],
    ]


# --- wording ---------------------------------------------------------------------------------------------------------


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
        ("word: tow", "word: must be one or two, but is `tow`. Did you mean `two`?"),
        ("word: three", "word: must be one or two, but is `three`"),
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


def test_a_revision_of_a_kind_cannot_be_set_by_a_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"elicit\[0\]\.kind_revision: unknown key"):
        read(tmp_path, SPEC.replace("{kind: label}", "{kind: label, kind_revision: 2}"))


def test_render_without_a_line() -> None:
    assert render(Problem((), "odd", hint="mend it"), document.Document("specs/a.yaml")) == "specs/a.yaml: odd\nhint: mend it"
