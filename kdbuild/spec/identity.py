"""The one table of what an edit makes stale: each field of a spec, of params.yaml and of every kind, and the steps whose key it is in.

Fields are dotted paths with `*` for a name or a position: `phases.*.train.learning_rate`; below a kind they name it in brackets:
`phases.*.elicit.*[label].max_new_tokens`. A step listed here runs again; what follows it
runs again only if its output changed, which is DVC's to find. A knob (`kdbuild.kinds.Knob`) is in no key, at any depth.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from kdbuild.kinds import Knob, OneOf
from kdbuild.spec.model import Params, Spec

Steps = frozenset[str]


def _steps(text: str) -> Steps:
    return frozenset(text.split())


SPEC: dict[str, Steps] = {
    "target": _steps("report"),
    "teacher": _steps("init elicit select train evaluate report"),
    "student": _steps("init report model"),
    "seeds": _steps("seeds elicit"),
    "roles": _steps("elicit select"),
    # Operators that make questions of several rows take them from one side of the split.
    "held_out_frac": _steps("elicit select"),
    "accept_failed_frac": _steps("elicit select"),
    # Adding, removing or renaming a phase is a change of shape: `kdbuild compile` writes other stages.
    "phases.*.on": _steps("elicit"),
    # An operator that stores signals makes the objectives read them.
    "phases.*.elicit": _steps("elicit train"),
    "phases.*.select": _steps("select"),
    "phases.*.data": _steps("train evaluate"),
    "phases.*.objective": _steps("train"),
    "phases.*.adaptation": _steps("train"),
    "phases.*.from": _steps("train"),
    "phases.*.train": _steps("train"),
    "evaluate": _steps("evaluate"),
}
"""Field of a spec to steps; a field below one that is listed belongs to it."""

PARAMS: dict[str, Steps] = {
    "teachers.*": _steps("init elicit select train evaluate report model"),
    # A knob for every step but the one that writes it down.
    "teachers.*.licence": _steps("report"),
    "embedder": _steps("select model"),
    "defaults.held_out_frac": SPEC["held_out_frac"],
    "defaults.accept_failed_frac": SPEC["accept_failed_frac"],
    "defaults.train": SPEC["phases.*.train"],
}
"""The same for params.yaml."""

NONE: Steps = frozenset()


def table() -> dict[str, Steps]:
    """Return every field of a spec and (below `params.`) of params.yaml, each with the steps it makes stale; a knob makes none stale."""
    found = {}
    for prefix, model, rules in (("", Spec, SPEC), ("params.", Params, PARAMS)):
        for path, knob in fields(model):
            found[prefix + path] = rule_of(path, rules, knob=knob)[1]
    return found


def steps_of(path: str) -> Steps:
    """Return the steps that one field makes stale.

    Raises:
        KeyError: there is no such field.
    """
    return table()[path]


def rule_of(path: str, rules: dict[str, Steps], *, knob: bool) -> tuple[str, Steps]:
    """Return the rule a field falls under, and its steps. A knob is in no key unless a rule names the very field.

    Raises:
        KeyError: no rule says what the field makes stale.
    """
    parts = re.sub(r"\[[^]]*\]", "", path).split(".")
    for length in range(len(parts), 0, -1):
        rule = ".".join(parts[:length])
        if rule in rules and (length == len(parts) or not knob):
            return rule, rules[rule]
    if knob:
        return "", NONE
    raise KeyError(f"spec/identity.py does not say what {path} makes stale")


def fields(model: type[BaseModel], at: str = "", *, knob: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield (dotted path, whether it is a knob) of every field that holds a plain value, kinds' fields among them."""
    for name, field in model.model_fields.items():
        path = f"{at}{field.alias or name}"
        turns = knob or any(isinstance(mark, Knob) for mark in field.metadata)
        yield from _below(field.annotation, tuple(field.metadata), path, knob=turns)


def _below(annotation: Any, marks: tuple[Any, ...], path: str, *, knob: bool) -> Iterator[tuple[str, bool]]:
    while hasattr(annotation, "__metadata__"):
        annotation, marks = annotation.__origin__, (*marks, *annotation.__metadata__)
    one_of = next((mark for mark in marks if isinstance(mark, OneOf)), None)
    if one_of:
        yield path + ".kind", knob
        for kind in one_of.available():
            own = f"{path}[{kind}].kind"
            yield from ((p, k) for p, k in fields(one_of.load(kind), f"{path}[{kind}].", knob=knob) if p != own)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from fields(annotation, f"{path}.", knob=knob)
    elif get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        for member in members:
            yield from _below(member, (), path, knob=knob)
    elif get_origin(annotation) in (list, tuple, dict) and _holds_models(annotation) and not ("[" in path and _holds_kinds(annotation)):
        yield from _below(get_args(annotation)[-1], (), f"{path}.*", knob=knob)
    else:
        yield path, knob


def _holds_kinds(annotation: Any) -> bool:
    """Whether a container holds kinds. Below a kind they are one field: what defines them is in its identity whole."""
    item = get_args(annotation)[-1]
    while hasattr(item, "__metadata__"):
        if any(isinstance(mark, OneOf) for mark in item.__metadata__):
            return True
        item = item.__origin__
    return False


def _holds_models(annotation: Any) -> bool:
    """Whether a container holds something with fields of its own; a list of plain values is one field."""
    item = get_args(annotation)[-1]
    if _holds_kinds(annotation):
        return True
    while hasattr(item, "__metadata__"):
        item = item.__origin__
    return isinstance(item, type) and issubclass(item, BaseModel)
