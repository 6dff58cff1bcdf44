"""YAML with lines: the dialect is DVC's, what is told has its line, nothing crashes the parser."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from kdbuild.spec import document


def ruamel(text: str) -> object:
    """Read text as DVC does."""
    return YAML(typ="safe").load(text)


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
