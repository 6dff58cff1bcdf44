"""What pydantic found, in our words: what is wrong, what was given, and the word that was probably meant."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from kdbuild.kinds import Kind, OneOf, nearest
from kdbuild.spec.document import Document
from kdbuild.spec.problems import At, Problem, shown

Context = Mapping[str, Any]


def problems_of(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """Return one problem for each thing that is wrong.

    Where a field may be several things, only what is wrong with the thing that was probably meant is told.
    """
    given_up = {problem.at for problem in document.problems}
    found: dict[At, list[dict[str, Any]]] = {}
    for at, details in _chosen(error, document):
        if not any(at[: len(up)] == up for up in given_up):
            found.setdefault(at, []).append(details)
    return [_problem(at, several, document, model) for at, several in found.items()]


def coerced(value: Any, raw: Any, at: At = ()) -> Iterator[Problem]:
    """Yield where pydantic took text or true/false for a number, or text for true/false: a person meant something else."""
    if isinstance(value, BaseModel) and isinstance(raw, Mapping):
        if isinstance(value, Kind) and "kind_revision" in raw:
            yield Problem((*at, "kind_revision"), "unknown key", hint="kdbuild writes it into resolved.json; a spec cannot set it")
        for name, field in type(value).model_fields.items():
            key = field.alias or name
            if key in raw:
                yield from coerced(getattr(value, name), raw[key], (*at, key))
    elif isinstance(value, Mapping) and isinstance(raw, Mapping):
        for key in raw:
            yield from coerced(value.get(key), raw[key], (*at, key))
    elif isinstance(value, (list, tuple)) and isinstance(raw, list):
        for i, (item, given) in enumerate(zip(value, raw, strict=False)):
            yield from coerced(item, given, (*at, i))
    elif isinstance(value, (bool, int, float)) and (isinstance(raw, str) or isinstance(raw, bool) != isinstance(value, bool)):
        wanted = "`true` or `false`" if isinstance(value, bool) else "a number"
        hint = f"without quotes: {raw.strip()}" if isinstance(raw, str) and not isinstance(value, bool) else None
        yield Problem(at, f"must be {wanted}, but is {shown(raw)}", hint=hint)


# --- where -----------------------------------------------------------------------------------------------------------


def _chosen(error: ValidationError, document: Document) -> list[tuple[At, dict[str, Any]]]:
    """Return (path in the file, error), without those of union members that were not meant."""
    located: list[tuple[At, list[tuple[At, str]], dict[str, Any]]] = []
    for found in error.errors(include_url=False):
        at, unions = _in_file(found["loc"], found["type"], document.value)
        located.append((at, unions, {**found}))
    kept: list[tuple[At, dict[str, Any]]] = []
    for at, unions, details in located:
        rank = _rank(details)
        rivals = [other for other in located if unions and other[1] and other[1][0][0] == unions[0][0]]
        best = max((_depth(o[0], unions[0][0]), _rank(o[2])) for o in rivals) if rivals else None
        if best is None or (_depth(at, unions[0][0]), rank) == best:
            kept.append((at, details))
    return kept


def _in_file(loc: tuple[Any, ...], kind: str, value: Any) -> tuple[At, list[tuple[At, str]]]:
    """Return the path in the file of pydantic's `loc`, and (path, member) for each union it went through."""
    at: list[str | int] = []
    unions: list[tuple[At, str]] = []
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        fits = (isinstance(value, Mapping) and (step in value or (last and kind == "missing"))) or (
            isinstance(value, list) and isinstance(step, int) and (step < len(value) or (last and kind == "missing"))
        )
        if fits:
            at.append(step)
            value = value.get(step) if isinstance(value, Mapping) else value[step] if step < len(value) else None
        elif step != "[key]":
            unions.append((tuple(at), str(step)))
    return tuple(at), unions


def _depth(at: At, union: At) -> int:
    return min(len(at) - len(union), 1)


def _rank(details: Mapping[str, Any]) -> int:
    """How much an error says about what was meant: nothing, if the value is not even of the right type."""
    return 0 if str(details["type"]) in _TYPES else 1


# --- in words --------------------------------------------------------------------------------------------------------


def _problem(at: At, several: list[dict[str, Any]], document: Document, model: type[BaseModel]) -> Problem:
    """Word what is wrong at one place; `several` where a field may be one of several things and is none of them."""
    details = several[0]
    kind, context = str(details["type"]), details.get("ctx") or {}
    if kind == "extra_forbidden":
        return _unknown_key(at, document, model)
    if kind == "missing":
        owner = f"value {at[-1] + 1} is missing" if isinstance(at[-1], int) else f"`{at[-1]}` is missing"
        return Problem(at[:-1], owner, hint=_field_hint(at, document, model), line=document.line_of(at[:-1]))
    line = document.value_line_of(at)
    if kind == "kind_missing":
        return _kind_missing(at, context, document.get(at), line)
    if kind == "kind_unknown":
        return _kind_unknown(at, context, document)
    if kind in _TYPES:
        wanted = dict.fromkeys(_TYPES[str(d["type"])] for d in several if str(d["type"]) in _TYPES)
        return _wrong_type(at, " or ".join(wanted), document.get(at), line)
    if kind in _LIMITS:
        return Problem(at, f"must be {_LIMITS[kind](context)}, but is {_plain(document.get(at))}", line=line)
    if kind in ("literal_error", "enum"):
        return _not_one_of(at, str(context["expected"]), document.get(at), line)
    if "error" in context:
        return Problem(at, f"{context['error']}", line=line)
    if kind in _PYDANTIC:
        return Problem(at, f"{_lower(str(details['msg']))}, but it is {shown(document.get(at))}", line=line)
    # One of our own (PydanticCustomError): already in our words.
    hint = context.get("hint")
    return Problem(at, str(details["msg"]), hint=str(hint) if hint else None, line=line)


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "`true` or `false`",
    "bool_parsing": "`true` or `false`",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "path_type": "a path",
    "none_required": "absent",
    "finite_number": "a finite number",
}
"""Pydantic's error to what the value should have been."""

_LIMITS: dict[str, Callable[[Context], str]] = {
    "greater_than": lambda c: f"more than {c['gt']:g}",
    "greater_than_equal": lambda c: f"at least {c['ge']:g}",
    "less_than": lambda c: f"less than {c['lt']:g}",
    "less_than_equal": lambda c: f"at most {c['le']:g}",
    "multiple_of": lambda c: f"a multiple of {c['multiple_of']:g}",
    "string_too_short": lambda c: f"at least {_many(c['min_length'], 'character')} long",
    "string_too_long": lambda c: f"at most {_many(c['max_length'], 'character')} long",
    "string_pattern_mismatch": lambda c: f"of the form `{c['pattern']}`",
    "too_short": lambda c: f"a {'mapping' if c['field_type'] == 'Dictionary' else 'list'} of at least {c['min_length']}",
    "too_long": lambda c: f"a {'mapping' if c['field_type'] == 'Dictionary' else 'list'} of at most {c['max_length']}",
}
"""Pydantic's error to the bound, from its context."""

_PYDANTIC = frozenset({"value_error", "assertion_error", "is_instance_of", "url_parsing", "url_type", "date_type", "datetime_type"})


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _plain(value: Any) -> str:
    """A value beside a bound: its size says more than its text."""
    if isinstance(value, (list, dict)):
        return f"of {len(value)}"
    return f"`{value}`" if isinstance(value, str) and value else "empty" if value == "" else shown(value)


def _wrong_type(at: At, wanted: str, value: Any, line: int | None) -> Problem:
    hint = None
    if wanted == "text" and isinstance(value, (int, float)):
        hint = f'put quotes around it: "{str(value).lower() if isinstance(value, bool) else value}"'
    elif wanted == "a list" and value is not None and not isinstance(value, list):
        hint = "write `- ` before it, or put it between `[` and `]`"
    elif wanted.endswith("a number") and isinstance(value, str) and "%" in value:
        hint = "write a share between 0 and 1"
    elif value is None:
        hint = "give it a value, or remove the key"
    return Problem(at, f"must be {wanted}, but is {shown(value)}", hint=hint, line=line)


def _not_one_of(at: At, expected: str, value: Any, line: int | None) -> Problem:
    words = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    near = nearest(value, words) if isinstance(value, str) else None
    quoted = [f"`{word}`" for word in words]
    choice = quoted[0] if len(words) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
    given = _plain(value) if isinstance(value, str) else shown(value)
    return Problem(at, f"must be {choice}, but is {given}{_did_you_mean(near)}", line=line)


def _kind_missing(at: At, context: Context, value: Any, line: int | None) -> Problem:
    kinds = context["one_of"].available()
    hint = f"choose from: {', '.join(kinds)}"
    if isinstance(value, Mapping):
        return Problem(at, "`kind` is missing", hint=hint, line=line)
    near = nearest(value, list(kinds)) if isinstance(value, str) else None
    return Problem(
        at, f"must be a mapping with a `kind`, but is {shown(value)}", hint=f"write `{{kind: {near}}}`" if near else hint, line=line
    )


def _kind_unknown(at: At, context: Context, document: Document) -> Problem:
    kinds, given = list(context["one_of"].available()), document.get((*at, "kind"))
    line = document.line_of((*at, "kind"))
    if not isinstance(given, str):
        return Problem((*at, "kind"), f"must be text, but is {shown(given)}", hint=f"choose from: {', '.join(kinds)}", line=line)
    near = nearest(given, kinds)
    hint = None if near else f"choose from: {', '.join(kinds)}"
    return Problem(at, f"no {context['what']} named `{given}`{_did_you_mean(near)}", hint=hint, line=line)


def _did_you_mean(near: str | None) -> str:
    return f". Did you mean `{near}`?" if near else ""


def _unknown_key(at: At, document: Document, model: type[BaseModel]) -> Problem:
    key = str(at[-1])
    owner = model_at(model, document.value, at[:-1])
    keys = [] if owner is None else [field.alias or name for name, field in owner.model_fields.items()]
    near = nearest(key, keys)
    if near:
        return Problem(at, f"unknown key `{key}`{_did_you_mean(near)}")
    where = f"`{owner.model_fields['kind'].default}` takes" if owner and issubclass(owner, Kind) else "allowed here are"
    hint = f"{where} {', '.join(keys)}" if keys else None
    if any(word in key.lower() for word in ("key", "token", "secret", "password")) and "tokens" not in key.lower():
        hint = "keys and passwords do not belong in a file: they come from environment variables"
    return Problem(at, f"unknown key `{key}`", hint=hint)


def _field_hint(at: At, document: Document, model: type[BaseModel]) -> str | None:
    """The missing field's own documentation."""
    owner = model_at(model, document.value, at[:-1])
    if owner is None:
        return None
    for name, field in owner.model_fields.items():
        if (field.alias or name) == at[-1] and field.description:
            return f"`{at[-1]}`: {_lower(field.description.splitlines()[0]).rstrip('.')}"
    return None


# --- the model at a path ---------------------------------------------------------------------------------------------


def model_at(model: type[BaseModel], value: Any, at: At) -> type[BaseModel] | None:
    """Return the model that a path of the file is read with, by the kinds the file names; None where there is none."""
    found: Any = model
    marks: tuple[Any, ...] = ()
    step: Any
    for step in (*at, None):
        found, marks = _narrowed(found, marks, value)
        if step is None:
            break
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = next((f for n, f in found.model_fields.items() if (f.alias or n) == step), None)
            if field is None:
                return None
            found, marks = field.annotation, tuple(field.metadata)
        else:
            arguments = get_args(found)
            found, marks = (arguments[-1] if get_origin(found) is dict else arguments[0]) if arguments else None, ()
        value = value[step] if isinstance(value, (dict, list)) and (step in value or isinstance(step, int)) else None
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _narrowed(found: Any, marks: tuple[Any, ...], value: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take annotations and unions off a type, by the value that is read with it."""
    while True:
        one_of = next((mark for mark in marks if isinstance(mark, OneOf)), None)
        if one_of:
            kind = value.get("kind") if isinstance(value, Mapping) else None
            return (one_of.load(kind) if kind in one_of.available() else None), ()
        if hasattr(found, "__metadata__"):
            found, marks = found.__origin__, tuple(found.__metadata__)
        elif get_origin(found) in (Union, types.UnionType):
            found, marks = _member(get_args(found), value), ()
        else:
            return found, marks


def _member(members: tuple[Any, ...], value: Any) -> Any:
    wanted = list if isinstance(value, list) else dict if isinstance(value, Mapping) else None
    for member in members:
        bare = member.__origin__ if hasattr(member, "__metadata__") else member
        shape = get_origin(bare) or bare
        if shape is wanted or (wanted is dict and isinstance(shape, type) and issubclass(shape, BaseModel)):
            return member
    return None
