"""What a row has besides its prompt, read from the columns of a record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.errors import RowError
from kdbuild.kinds import Model
from kdbuild.seeds._files import Place, Record, shorten
from kdbuild.spec.sources import check_path


class Columns(Model):
    """Where the fields of a row besides prompt and answer are read from; null: not read, though a column has that name."""

    context: str | None = "context"
    """Passages: a text, an object with `text` (and `doc_id`, `score`), or a list of these."""
    label: str | None = "label"
    """A label."""
    rationale: str | None = "rationale"
    """The reasoning before the answer."""
    program: str | None = "program"
    """A program."""
    candidates: str | None = "candidates"
    """Alternative answers: a list of texts, or of objects with `text`."""
    feedback: str | None = "feedback"
    """What somebody said about the answer."""
    chosen: str | None = "chosen"
    """The preferred answer: a text, or a conversation that ends with it."""
    rejected: str | None = "rejected"
    """The other answer."""
    tool: str | None = "tool"
    """An API: an object with `name`, and `description`, `parameters`, `returns`, `callable`."""
    media: str | None = "media"
    """An object with `text_view`, and `type`, `path`."""
    meta: str | None = "meta"
    """Texts by name."""


PROMPTLESS = ("context", "tool", "media", "meta")
"""Fields that a row can be about: one without a prompt has at least one of them."""

PASSAGE, CANDIDATE = ("doc_id", "text", "score"), ("text", "source", "logprob", "score", "ended")
TOOL, MEDIA = ("name", "description", "parameters", "returns", "callable"), ("type", "path", "text_view")


def read(record: Record, place: Place, columns: Columns) -> dict[str, Any]:
    """Return the fields of `Row` that a record fills.

    Raises:
        RowError: a column is not there, or of the wrong type; names the place.
    """
    found: dict[str, Any] = {}
    for name, reader in READERS.items():
        column: str | None = getattr(columns, name)
        if column not in (None, name) and column not in record:
            raise RowError(f"{place} has no column `{column}`: {shown(record)}", hint=f"columns: {', '.join(map(str, record)) or 'none'}")
        if column is not None and record.get(column) not in (None, "", [], {}):
            found[name] = reader(record[column], place, column)
    return found


def text(value: Any, place: Place, column: str) -> str:
    """Return a text, or a number written as JSON writes it.

    Raises:
        RowError: it is neither, or cannot be written as UTF-8.
    """
    if isinstance(value, float) and not math.isfinite(value):
        wrong(place, column, "a text or a finite number", value)
    if isinstance(value, (bool, int, float)):
        return canonical.dumps(value)
    if not isinstance(value, str):
        wrong(place, column, "a text or a number", value)
    return clean(value, place, column)


def clean(value: str, place: Place, column: str) -> str:
    """Return a text that can be written as UTF-8 and holds no NUL.

    Raises:
        RowError: it cannot; names the place.
    """
    if "\0" in value:
        raise RowError(f"{place}: `{column}` holds a NUL character: {shorten(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(f"{place}: `{column}` holds half of a character (a lone surrogate): {shorten(value)}") from None
    return value


def shown(record: Mapping[Any, Any]) -> str:
    """Return a record for one line of an error."""
    return shorten(", ".join(f"{key}: {value!r}" for key, value in record.items()) or "it is empty")


def wrong(place: Place, column: str, wanted: str, value: Any) -> Any:
    """Refuse a column of the wrong type.

    Raises:
        RowError: always.
    """
    hint = f"a data set's column that means something else is left out by `columns: {{{column}: null}}`" if column in READERS else None
    raise RowError(f"{place}: `{column}` is not {wanted}: {shown({column: value})}", hint=hint)


# --- fields ------------------------------------------------------------------------------------------------------------------


def passages(value: Any, place: Place, column: str) -> tuple[dict[str, Any], ...]:
    """Return passages: a text, an object with `text`, or a list of these."""
    wanted = "a text, an object with `text`, or a list of these"
    found = []
    for one in value if isinstance(value, list) else [value]:
        given = {"text": one} if isinstance(one, str) else one
        if not isinstance(given, dict) or not isinstance(given.get("text"), str) or not given["text"].strip():
            wrong(place, column, wanted, value)
        doc_id, score = given.get("doc_id"), given.get("score")
        found.append(
            {
                "doc_id": None if doc_id is None else text(doc_id, place, column),
                "text": clean(given["text"], place, column),
                "score": _number(score, place, column),
            }
        )
    return tuple(found)


def candidates(value: Any, place: Place, column: str) -> tuple[dict[str, Any], ...]:
    """Return candidates: a list of texts, or of objects with `text`."""
    wanted = "a list of texts, or of objects with `text`"
    if not isinstance(value, list):
        wrong(place, column, wanted, value)
    found = []
    for one in value:
        given = {"text": one} if isinstance(one, str) else one
        if not isinstance(given, dict) or not isinstance(given.get("text"), str):
            wrong(place, column, wanted, value)
        numbers = {name: _number(given.get(name), place, column) for name in ("logprob", "score")}
        source = given.get("source")
        found.append(
            {
                "text": clean(given["text"], place, column),
                "source": None if source is None else text(source, place, column),
                **numbers,
                "ended": given.get("ended", True) is not False,
            }
        )
    return tuple(found)


def said(value: Any, place: Place, column: str) -> str:
    """Return a text, or what the last turn of a conversation says."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    return text(value, place, column)


def tool(value: Any, place: Place, column: str) -> dict[str, str]:
    """Return an API: an object with `name`, and `description`, `parameters` (a JSON schema), `returns`, `callable`."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"].strip():
        wrong(place, column, "an object with `name`", value)
    given = {name: value[name] for name in TOOL if value.get(name) is not None}
    for name in ("parameters", "returns"):
        if isinstance(given.get(name), (dict, list)):
            given[name] = canonical.dumps(given[name])
    if "parameters" in given and not isinstance(_json(given["parameters"]), dict):
        wrong(place, column, "an API whose `parameters` are a JSON schema", value)
    return {name: text(item, place, column) for name, item in given.items()}


def media(value: Any, place: Place, column: str) -> dict[str, str]:
    """Return a medium: an object with `text_view`, and `type`, `path` (inside the project)."""
    if not isinstance(value, dict) or not isinstance(value.get("text_view"), str) or not value["text_view"].strip():
        wrong(place, column, "an object with a `text_view`", value)
    given = {name: text(value[name], place, column) for name in MEDIA if value.get(name) is not None}
    if "path" in given:
        given["path"] = path_inside(given["path"], place, column)
    return given


def path_inside(path: str, place: Place, column: str) -> str:
    """Return a path inside the project as plain parts.

    Raises:
        RowError: it leaves the project.
    """
    try:
        return check_path(path)
    except PydanticCustomError as error:
        raise RowError(f"{place}: `{column}`: {error}", hint=(error.context or {}).get("hint")) from None


def attributes(value: Any, place: Place, column: str) -> dict[str, str]:
    """Return texts by name; a value that is a list or an object is written as JSON."""
    if not isinstance(value, dict):
        wrong(place, column, "an object", value)
    at = f"{column}." if column else ""
    return {
        clean(str(name), place, column): clean(canonical.dumps(item), place, f"{at}{name}")
        if isinstance(item, (dict, list))
        else text(item, place, f"{at}{name}")
        for name, item in value.items()
        if item is not None
    }


def _number(value: Any, place: Place, column: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        wrong(place, column, "a score that is a number", value)
    return float(value)


def _json(value: Any) -> Any:
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return None


READERS: dict[str, Callable[[Any, Place, str], Any]] = {
    "context": passages,
    "label": text,
    "rationale": text,
    "program": text,
    "candidates": candidates,
    "feedback": text,
    "chosen": said,
    "rejected": said,
    "tool": tool,
    "media": media,
    "meta": attributes,
}
"""Field of `Row` to how its column is read."""
