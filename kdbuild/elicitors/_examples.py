"""Examples that a question shows, from a JSONL file of the project."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from kdbuild.errors import SpecError
from kdbuild.inside import inside

COLUMNS = ("document", "text")


def read_examples(root: Path, path: str) -> tuple[dict[str, str], ...]:
    """Return the examples of a file: `document` and `text` (what was made of it).

    Raises:
        SpecError: the file is not inside the project or not there, or a line is not an example; names file:line.
    """
    found = inside(root, path)
    return _read(found, path, found.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _read(path: Path, name: str, version: int) -> tuple[dict[str, str], ...]:
    """`version` is there so that a file edited in between is read again."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{name} cannot be read: {error}", hint="examples are a JSONL file in UTF-8") from error
    found = tuple(_example(line, f"{name}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise SpecError(f"{name} holds no examples", hint="leave `examples:` out to show none")
    return found


def _example(line: str, place: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(value.get(column), str) and value[column].strip() for column in COLUMNS):
        raise SpecError(f"{place} is not an example", hint='each line is {"document": "...", "text": "..."}')
    return {column: value[column] for column in COLUMNS}
