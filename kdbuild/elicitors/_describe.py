"""What a function says of itself: sent as text into the sandbox, where tools are loaded, so it uses nothing but Python."""

from __future__ import annotations

import importlib
import inspect
import json
import types
import typing
from typing import Any

_NAMES = {int: "integer", float: "number", str: "string", bool: "boolean"}
_BY_NAME = {"int": "integer", "float": "number", "str": "string", "bool": "boolean"}


def describe(function: str, code: str | None, module: str | None) -> str:
    """Return name, description (first paragraph of its docstring) and parameters (a JSON schema, in their order) of a function, as JSON."""
    place: Any = importlib.import_module(module) if module else _loaded(code or "")
    for part in function.split("."):
        place = getattr(place, part)
    doc = inspect.getdoc(place) or ""
    properties, required = {}, []
    for name, parameter in _signature(place).items():
        properties[name] = _schema(parameter.annotation)
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    parameters = {"type": "object", "properties": properties, "required": required}
    description = " ".join(doc.partition("\n\n")[0].split())
    return json.dumps({"name": function.rpartition(".")[2], "description": description, "parameters": parameters})


def _loaded(code: str) -> types.ModuleType:
    module = types.ModuleType("tool")
    exec(compile(code, "tool.py", "exec"), module.__dict__)
    return module


def _signature(function: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that can be given by name."""
    try:
        found = inspect.signature(function, eval_str=True).parameters
    except NameError:
        found = inspect.signature(function).parameters
    only = [p for p in found.values() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if only:
        raise TypeError(f"parameter `{only[0].name}` cannot be given by name")
    return {name: p for name, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _schema(annotation: Any) -> dict[str, Any]:
    """Return the JSON schema of an annotation; of one that JSON does not have, a text."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal and all(isinstance(one, (str, int)) for one in inner):
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        given = [one for one in inner if one is not type(None)]
        return _schema(given[0]) if given else {"type": "string"}
    if origin in (list, tuple, set) or annotation in (list, tuple, set):
        return {"type": "array", "items": _schema(inner[0]) if inner else {"type": "string"}}
    if isinstance(annotation, str):
        return {"type": _BY_NAME.get(annotation, "string")}
    return {"type": _NAMES.get(annotation, "string")}
