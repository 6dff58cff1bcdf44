"""Functions of Python files as APIs: name, docstring, and parameters as a JSON schema. The files are parsed, never imported or run."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

from kdbuild import canonical

_PLAIN = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "complex": "number", "bytes": "string"}
_LISTS = frozenset(("list", "List", "tuple", "Tuple", "set", "Set", "frozenset", "FrozenSet", "Sequence", "Iterable", "Collection"))
_OBJECTS = frozenset(("dict", "Dict", "Mapping", "MutableMapping", "TypedDict"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, API) of each public function on the outer level of a Python file: `name`, `description`, `parameters`, `returns`.

    `parameters` is a JSON schema, `returns` the annotation as it is written. `*args` and `**kwargs` are left out.

    Raises:
        SyntaxError: it is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how the source is written is its author's business
        tree = ast.parse(text)
    seen: dict[str, tuple[int, dict[str, Any]]] = {}
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            seen[node.name] = node.lineno, _api(node)  # of two with one name Python keeps the last
    yield from seen.values()


def _api(node: Function) -> dict[str, Any]:
    described = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
    found = {"name": node.name, "description": described, "parameters": parameters_of(node)}
    return {**found, "returns": ast.unparse(node.returns)} if node.returns is not None else found


def parameters_of(node: Function) -> dict[str, Any]:
    """Return the parameters of a function as the JSON schema of an object."""
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(plain) - len(given.defaults)), *given.defaults, *given.kw_defaults]
    properties: dict[str, Any] = {}
    required = []
    for argument, default in zip([*plain, *given.kwonlyargs], defaults, strict=True):
        properties[argument.arg] = _with_default(_schema(argument.annotation), default)
        if default is None:
            required.append(argument.arg)
    return {"type": "object", "properties": properties, "required": required}


def _with_default(schema: dict[str, Any], default: ast.expr | None) -> dict[str, Any]:
    if default is None:
        return schema
    try:
        value = ast.literal_eval(default)
        canonical.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return schema
    guessed = {} if schema else _of_value(value)
    return {**schema, **guessed} if value is None else {**schema, **guessed, "default": value}


def _of_value(value: Any) -> dict[str, Any]:
    kind = _PLAIN.get(type(value).__name__)
    return {"type": kind} if kind else {}


def _schema(annotation: ast.expr | None) -> dict[str, Any]:
    """Return the JSON schema of an annotation; empty (anything) where it says nothing that JSON knows."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _schema(_parsed(annotation.value))
    if isinstance(annotation, (ast.Name, ast.Attribute)):
        return _named(_name(annotation))
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        return _union([annotation.left, annotation.right])
    if isinstance(annotation, ast.Subscript):
        inner = annotation.slice
        items = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        return _of_generic(_name(annotation.value), items)
    return {}


def _of_generic(name: str, items: list[ast.expr]) -> dict[str, Any]:
    if name == "Literal":
        return {"enum": [item.value for item in items if isinstance(item, ast.Constant)]}
    if name in ("Optional", "Union"):
        return _union(items)
    if name == "Annotated":
        return _schema(items[0])
    if name in _LISTS:
        inner = _schema(items[0])
        return {"type": "array", "items": inner} if inner else {"type": "array"}
    return _named(name)


def _named(name: str) -> dict[str, Any]:
    if name in _PLAIN:
        return {"type": _PLAIN[name]}
    return {"type": "array"} if name in _LISTS else {"type": "object"} if name in _OBJECTS else {}


def _union(members: list[ast.expr]) -> dict[str, Any]:
    """Return the schema of the members but None; what may be None may be left out, which its default says."""
    found: list[dict[str, Any]] = []
    for member in members:
        if isinstance(member, ast.Constant) and member.value is None:
            continue
        schema = _schema(member)
        found += [one for one in schema.get("anyOf", [schema]) if one not in found]
    if not found or {} in found:
        return {}
    return found[0] if len(found) == 1 else {"anyOf": found}


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        return None
