"""The operations of an OpenAPI description as APIs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kdbuild import canonical
from kdbuild.errors import RowError

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
MAX_DEPTH = 8
"""References are followed so deep; what lies deeper is anything."""


def operations(document: Mapping[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, API) of each operation: its `operationId`, else method and path; its parameters and JSON body as one schema.

    Raises:
        RowError: `paths`, an operation or a reference is not what it should be.
    """
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise RowError(f"{name} has no `paths`", hint="an OpenAPI file describes operations under `paths`")
    for path, item in paths.items():
        if not isinstance(item, dict):
            raise RowError(f"{name}, {path}: is not an object")
        for method in METHODS:
            operation = item.get(method)
            if operation is not None:
                place = f"{name}, {method.upper()} {path}"
                if not isinstance(operation, dict):
                    raise RowError(f"{place}: is not an object")
                yield place, _api(document, item, operation, method, path, place)


def _api(
    document: Mapping[str, Any], item: Mapping[str, Any], operation: Mapping[str, Any], method: str, path: str, place: str
) -> dict[str, Any]:
    said = [operation.get(key) for key in ("summary", "description")]
    found = {
        "name": str(operation.get("operationId") or _slug(method, path)),
        "description": "\n\n".join(text for text in said if isinstance(text, str) and text.strip()),
        "parameters": _parameters(document, item, operation, place),
    }
    returned = _returned(document, operation, place)
    return {**found, "returns": canonical.dumps(returned)} if returned else found


def _slug(method: str, path: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", f"{method}_{path}").strip("_")


def _parameters(document: Mapping[str, Any], item: Mapping[str, Any], operation: Mapping[str, Any], place: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for given in [*_list(item.get("parameters"), place), *_list(operation.get("parameters"), place)]:
        one = _resolved(document, given, place, 0)
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise RowError(f"{place}: a parameter has no name")
        if one.get("in") == "body":  # Swagger 2
            _take_body(one.get("schema"), properties, required)
            continue
        plain = {key: value for key, value in one.items() if key in ("type", "enum", "items", "minimum", "maximum", "default")}
        schema = one.get("schema") if isinstance(one.get("schema"), dict) else plain
        described = {"description": one["description"]} if isinstance(one.get("description"), str) else {}
        properties[one["name"]] = {**described, **(schema or {})}
        if one.get("required") is True and one["name"] not in required:
            required.append(one["name"])
    body = _resolved(document, operation.get("requestBody"), place, 0)
    if isinstance(body, dict):
        _take_body(_json_schema(body), properties, required)
    return {"type": "object", "properties": properties, "required": required}


def _take_body(schema: Any, properties: dict[str, Any], required: list[str]) -> None:
    """Add a body's own properties; one that has none is the parameter `body`."""
    if not isinstance(schema, dict):
        return
    own = schema.get("properties")
    if isinstance(own, dict):
        properties.update(own)
        required += [name for name in schema.get("required") or [] if isinstance(name, str) and name not in required]
    else:
        properties["body"] = schema


def _returned(document: Mapping[str, Any], operation: Mapping[str, Any], place: str) -> Any:
    responses = operation.get("responses")
    if not isinstance(responses, dict):
        return None
    code = next((code for code in ("200", "201", "default") if code in responses), None)
    answer = _resolved(document, responses[code], place, 0) if code else None
    return (_json_schema(answer) or answer.get("schema")) if isinstance(answer, dict) else None


def _json_schema(body: Mapping[str, Any]) -> Any:
    content = body.get("content")
    if not isinstance(content, dict):
        return None
    media = next((value for kind, value in content.items() if "json" in str(kind)), None)
    return media.get("schema") if isinstance(media, dict) else None


def _resolved(document: Mapping[str, Any], value: Any, place: str, depth: int) -> Any:
    """Return a value with its references written out; one that holds itself ends as anything."""
    if depth > MAX_DEPTH:
        return {}
    if isinstance(value, list):
        return [_resolved(document, item, place, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref")
    if isinstance(reference, str):
        return _resolved(document, _at(document, reference, place), place, depth + 1)
    return {key: _resolved(document, item, place, depth + 1) for key, item in value.items()}


def _at(document: Mapping[str, Any], reference: str, place: str) -> Any:
    value: Any = document
    for part in reference.removeprefix("#/").split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if not reference.startswith("#/") or not isinstance(value, dict) or part not in value:
            raise RowError(f"{place}: the reference `{reference}` leads nowhere", hint="references to other files are not followed")
        value = value[part]
    return value


def _list(value: Any, place: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise RowError(f"{place}: `parameters` is not a list")
    return value or []
