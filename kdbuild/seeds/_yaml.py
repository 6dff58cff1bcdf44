"""A YAML file as plain values, and the line of each entry of its outer lists and mappings. Dates are texts; aliases are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbuild.errors import RowError
from kdbuild.seeds._files import Place, check_file, shorten

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null"))

Lines = dict[tuple[str | int, ...], int]
"""Path into the values to the line (from 1) where the value stands; two levels deep."""


def read_yaml(path: Path, name: str) -> tuple[Any, Lines]:
    """Return what a YAML file holds, and its lines; `name` is what the file is called in errors.

    Raises:
        SourceError: the file is not there.
        RowError: it is not YAML in UTF-8, or is nested too deep; names file:line.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    text = _text(path, name)
    try:
        _check_events(YAML(typ="safe").parse(text), name)
        yaml = YAML(typ="safe")
        node = yaml.compose(text)
        lines: Lines = {}
        return (None if node is None else _value(node, (), lines, name, yaml.constructor)), lines
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RowError(f"{place} is not YAML: {shorten(why)}", hint="put quotes around texts with `:`, `#` or brackets in them") from None


def place_of(name: str, lines: Lines, *at: str | int) -> Place:
    """Return where the value at a path stands."""
    return f"{name}:{lines[at]}" if at in lines else name


def _text(path: Path, name: str) -> str:
    check_file(path, name)
    raw = path.read_bytes()
    if len(raw) > MAX_BYTES:
        raise RowError(f"{name} has {len(raw)} bytes; a YAML file of seeds has at most {MAX_BYTES}", hint="write them as JSONL")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + raw.count(b"\n", 0, error.start)
        raise RowError(f"{name}:{line} is not UTF-8", hint="save the file as UTF-8") from None


def _check_events(events: Any, name: str) -> None:
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if kind == "AliasEvent":
            raise RowError(f"{name}:{event.start_mark.line + 1} holds an alias, which is not read here", hint="write the value out")
        if depth > MAX_DEPTH + 2:  # the composer recurses in C and would crash
            raise RowError(f"{name}:{event.start_mark.line + 1}: values are nested more than {MAX_DEPTH} deep")


def _value(node: Any, at: tuple[str | int, ...], lines: Lines, name: str, constructor: Any) -> Any:
    if len(at) <= 2:
        lines[at] = node.start_mark.line + 1
    place = f"{name}:{node.start_mark.line + 1}"
    if node.id == "sequence":
        return [_value(item, (*at, i), lines, name, constructor) for i, item in enumerate(node.value)]
    if node.id == "mapping":
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.id != "scalar":
                raise RowError(f"{place}: a key is a text")
            key = str(key_node.value)
            if key in found:
                raise RowError(f"{name}:{key_node.start_mark.line + 1}: `{shorten(key)}` is given twice")
            found[key] = _value(value_node, (*at, key), lines, name, constructor)
        return found
    if str(node.tag) == f"{_TAG}timestamp":
        return node.value
    if str(node.tag) not in _SCALARS:
        raise RowError(f"{place}: the tag `{shorten(str(node.tag).replace(_TAG, '!!'))}` has no meaning here", hint="remove it")
    try:
        return constructor.construct_object(node, deep=True)
    except (ValueError, IndexError, OverflowError):
        raise RowError(f"{place} holds no value: {shorten(str(node.value))}", hint="put quotes around a text") from None
