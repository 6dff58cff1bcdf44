"""Tools of a file: functions of Python, a list of objects, or the operations of an OpenAPI description."""

from __future__ import annotations

import json
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdbuild.errors import RowError
from kdbuild.seeds import _openapi
from kdbuild.seeds._files import Place, check_file, read_records, shorten
from kdbuild.seeds._signatures import functions
from kdbuild.seeds._yaml import place_of, read_yaml

Tool = dict[str, Any]


def read_tools(path: Path, name: str) -> Iterator[tuple[Place, Tool]]:
    """Yield (place, tool) of every tool in a file.

    Raises:
        SourceError: the file is not there.
        RowError: it cannot be read; names file:line.
    """
    suffix = path.suffix.lower()
    if suffix == ".py":
        check_file(path, name)
        return of_python(path, name, name)
    if suffix in (".yaml", ".yml"):
        return _of_yaml(path, name)
    if suffix == ".json" and (document := _description(path)) is not None:
        return _openapi.operations(document, name)
    return read_records(path, name)


def of_python(path: Path, name: str, callable_of: str) -> Iterator[tuple[Place, Tool]]:
    """Yield the functions of a Python file; `callable_of` (a module or a path) is what stands before the function in `callable`.

    Raises:
        RowError: it is not Python.
    """
    try:
        with tokenize.open(path) as file:
            text = file.read()
        found = list(functions(text))
    except SyntaxError as error:
        place = f"{name}:{error.lineno}" if error.lineno else name
        raise RowError(f"{place} is not Python: {shorten(error.msg)}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RowError(f"{name} is not Python: {shorten(str(error))}") from None
    for line, tool in found:
        yield f"{name}:{line}", {**tool, "callable": f"{callable_of}:{tool['name']}"}


def _of_yaml(path: Path, name: str) -> Iterator[tuple[Place, Tool]]:
    value, lines = read_yaml(path, name)
    if isinstance(value, dict) and _is_description(value):
        yield from _openapi.operations(value, name)
        return
    if not isinstance(value, list) or not value:
        raise RowError(f"{name} holds no tools", hint="a YAML file of tools holds a list of objects with `name`, or an OpenAPI description")
    for i, item in enumerate(value):
        place = place_of(name, lines, i)
        if not isinstance(item, dict):
            raise RowError(f"{place} is not an object: {shorten(str(item))}", hint="a tool has a `name`, and a `description`, `parameters`")
        yield place, item


def _description(path: Path) -> dict[str, Any] | None:
    """Return a JSON file that is an OpenAPI description, None for any other."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads it as a list says what is wrong
    return value if isinstance(value, dict) and _is_description(value) else None


def _is_description(value: dict[str, Any]) -> bool:
    return "openapi" in value or "swagger" in value
