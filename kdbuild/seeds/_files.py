"""Records of a file, each with where it stands: `file:line` as far as the format has lines.

JSONL and JSON are read without pyarrow. Nothing is repaired: what is not a record is an error that names its place.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdbuild.errors import RowError, SourceError

Place = str
"""`path:line`, or `path, row 3` where the format has no lines (counted from 1)."""
Record = dict[str, Any]


def read_records(path: Path, name: str) -> Iterator[tuple[Place, Record]]:
    """Yield the records of a file in file order; `name` is what the file is called in errors.

    Raises:
        SourceError: the file is not there.
        RowError: the file is empty or of the wrong format, or a record is not an object; names the place.
    """
    check_file(path, name)
    empty = True
    for place, record in READERS[path.suffix.lower()](path, name):
        empty = False
        yield place, record
    if empty:
        raise RowError(f"{name} holds no rows", hint="a seed file needs at least one row; leave `seeds:` out to have none")


def check_file(path: Path, name: str) -> None:
    """Refuse what is not a file.

    Raises:
        SourceError: it is a folder, or not there.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise SourceError(f"seed file {name} is {what}", hint="correct `path:` (relative to the project's folder), or put the file there")


def shorten(text: str, max_chars: int = 100) -> str:
    """Return text for one line of an error."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip()[: max_chars + 1])
    return shown if len(shown) <= max_chars else shown[: max_chars - 1] + "…"


# --- formats ---------------------------------------------------------------------------------------------------------


def _jsonl(path: Path, name: str) -> Iterator[tuple[Place, Record]]:
    with path.open("rb") as file:
        # Bytes, not text: a line ends at a newline only, never at the other separators that Unicode knows.
        for number, raw in enumerate(file, 1):
            place = f"{name}:{number}"
            line = _decode(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, name, number)
            if line.strip():
                yield place, _object(_parse(line, place), line, place)


def _json(path: Path, name: str) -> Iterator[tuple[Place, Record]]:
    text = _decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), name)
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        hint = "a .json file holds one list of objects; for one object a line, call it .jsonl"
        raise RowError(f"{name} is not a list: {shorten(text[:200])}", hint=hint)
    position = _skip(text, position + 1)
    line, counted = 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        place = f"{name}:{line}"
        value, end = _guarded(_DECODER.raw_decode, text, position, place=place)
        yield place, _object(value, text[position:end], place)
        position = _skip(text, end)
        if text[position : position + 1] == ",":
            position = _skip(text, position + 1)
        elif text[position : position + 1] != "]":
            line += text.count("\n", counted, position)
            raise RowError(f"{name}:{line}: expected `,` or `]`: {shorten(text[position : position + 200]) or 'the file ends here'}")


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _csv(path: Path, name: str) -> Iterator[tuple[Place, Record]]:
    text = _decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"), name)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns: list[str] | None = None
    while True:
        place = f"{name}:{reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise RowError(f"{place} is not CSV: {error}", hint="quote fields that hold commas, quotes or line ends") from None
        if values is None:
            return
        if not values:
            continue
        if columns is None:
            columns = values
            if len(set(columns)) < len(columns):
                raise RowError(f"{place}: two columns have one name: {', '.join(columns)}")
        elif len(values) != len(columns):
            raise RowError(f"{place} has {len(values)} fields, the header has {len(columns)}: {shorten(','.join(values))}")
        else:
            # CSV knows no absence: an empty field is one.
            yield place, {column: value or None for column, value in zip(columns, values, strict=True)}


def _parquet(path: Path, name: str) -> Iterator[tuple[Place, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield f"{name}, row {number}", record
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RowError(f"{name} is not a Parquet file that can be read, after row {number}: {shorten(str(error), 200)}") from None


READERS: dict[str, Callable[[Path, str], Iterator[tuple[Place, Record]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""Suffix to how such a file is read."""


# --- JSON ------------------------------------------------------------------------------------------------------------


def _no_repeats(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return record


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_no_constant)


def _guarded(parse: Callable[..., Any], text: str, *more: int, place: Place) -> Any:
    try:
        return parse(text, *more)
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        shown = shorten(text[more[0] : more[0] + 200] if more else text)
        raise RowError(f"{place} is not JSON ({why}): {shown}", hint='each row is one JSON object, such as {"prompt": "..."}') from None


def _parse(line: str, place: Place) -> Any:
    return _guarded(_DECODER.decode, line, place=place)


def _object(value: Any, text: str, place: Place) -> Record:
    if not isinstance(value, dict):
        raise RowError(f"{place} is not an object: {shorten(text)}", hint='each row is one JSON object, such as {"prompt": "..."}')
    return value


def _decode(raw: bytes, name: str, first_line: int = 1) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        shown = shorten(raw[max(0, error.start - 40) : error.start + 40].decode("utf-8", "backslashreplace"))
        raise RowError(f"{name}:{line} is not UTF-8: {shown}", hint="save the file as UTF-8") from None
