"""Calls of an API as a form: what its JSON schema says of its parameters, bounded so that a grammar closes every value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model

from kdbuild import canonical
from kdbuild.elicitors import Rejected

MAX_ITEMS = 4
"""Most items of a list in a call."""
MAX_NUMBER = 10**15
"""Largest size of a number whose schema sets no bounds."""

_NO_SIGNATURE = Rejected("parameters that no call can be written for")


def call_form(parameters: str | None, drawn: str, *, max_request_chars: int, max_value_chars: int) -> type[BaseModel] | Rejected:
    """Return a form with a `request` (text) and the `arguments` of a call that fits it.

    `parameters` is a JSON schema (an object's) as text, None for a call without arguments. A parameter that may be left out is, or is
    not, by the digest of `drawn` and its name. Rejected where a required parameter is no text, number, truth value, choice or list of
    these.
    """
    schema = _parsed(parameters)
    if schema is None:
        return _NO_SIGNATURE
    properties, required = schema.get("properties", {}), schema.get("required", [])
    fields: dict[str, Any] = {}
    for name, one in properties.items():
        kind = _type_of(one, max_value_chars)
        if kind is None and name in required:
            return _NO_SIGNATURE
        if kind is not None and (name in required or canonical.fraction("argument", drawn, name) < 0.5):
            fields[name] = kind
    if any(name not in properties for name in required):
        return _NO_SIGNATURE
    return _form(tuple(fields.items()), max_request_chars)


@lru_cache(maxsize=512)
def _form(fields: tuple[tuple[str, Any], ...], max_request_chars: int) -> type[BaseModel]:
    # Names of parameters may be any text, also one that pydantic keeps for itself.
    found: dict[str, Any] = {f"p{i}": (kind, Field(alias=name)) for i, (name, kind) in enumerate(fields)}
    arguments = create_model("Arguments", __config__=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False), **found)
    request = Annotated[str, Field(min_length=1, max_length=max_request_chars)]
    return create_model("Call", request=(request, ...), arguments=(arguments, ...))


def _parsed(parameters: str | None) -> Mapping[str, Any] | None:
    """Return the schema of an object, None where it is none."""
    if not parameters:
        return {}
    try:
        schema = json.loads(parameters)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(schema, dict) and isinstance(schema.get("properties", {}), dict) and isinstance(schema.get("required", []), list)
    return schema if fits else None


def _type_of(schema: Any, max_chars: int) -> Any:
    """Return the type of a value, None for one that is not written."""
    if not isinstance(schema, dict):
        return None
    choices = schema.get("enum")
    if isinstance(choices, list) and choices and all(isinstance(choice, (str, int, bool)) for choice in choices):
        return Literal[tuple(choices)]
    members = schema.get("anyOf")
    if isinstance(members, list):
        return _any_of([found for member in members if (found := _type_of(member, max_chars)) is not None])
    kind = schema.get("type")
    if kind is None:  # anything: what most parameters without a type hold
        number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
        return _any_of([_text(max_chars), number, _list_of(number)])
    if kind == "string":
        return _text(max_chars)
    if kind == "boolean":
        return bool
    if kind in ("integer", "number"):
        least, most = _bound(schema.get("minimum"), -MAX_NUMBER), _bound(schema.get("maximum"), MAX_NUMBER)
        whole = Annotated[int, Field(ge=math.ceil(least), le=math.floor(most))]
        return whole if kind == "integer" else Annotated[float, Field(ge=least, le=most)]
    item: Any = _type_of(schema.get("items"), max_chars) if kind == "array" else None
    return None if item is None else _list_of(item)


def _text(max_chars: int) -> Any:
    return Annotated[str, Field(min_length=1, max_length=max_chars)]


def _list_of(item: Any) -> Any:
    return Annotated[list[item], Field(min_length=1, max_length=MAX_ITEMS)]


def _any_of(members: list[Any]) -> Any:
    return Union[tuple(members)] if members else None  # noqa: UP007 (the members are known here only)


def _bound(value: Any, otherwise: int) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise
