"""The table of what an edit makes stale, against what compile really puts into the keys: every field of every kind is flipped."""

from __future__ import annotations

import itertools
import platform
import re
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from kdbuild.compile.project import Project
from kdbuild.errors import KdbuildError
from kdbuild.kinds import OneOf, available, load
from kdbuild.spec import identity
from kdbuild.spec.model import Params, Spec

TABLE = identity.table()

# --- values for a field of any type ----------------------------------------------------------------------------------

WHEELS = [f"pypi:some-package==1.{i}:inside/model#sha256={'0' * 64}" for i in range(2)]
SOURCES = ["hf:org/name@main", "path:models/a", "path:models/a.gguf", *WHEELS]
TEXTS = ["x", "y", "a.b", "cpu", "specs/a.jsonl", "specs/b.jsonl", "org/name", *SOURCES]
ROLES = [("a", "x", "teacher"), ("c", "x", "teacher"), ("a", "z", "teacher"), ("a", "x", "judge")]
FORMS = [("prompt", "x"), ("prompt", "z"), ("answer", "z"), ("name", "b"), ("system", "t")]
SETS = [{"exam": {"kind": "dataset", "path": f"specs/{name}.jsonl"}} for name in "ab"]
BY_NAME = {
    "sets": SETS,
    "callable": ["math:floor", "math:ceil"],
    "name": ["floor", "ceil"],
    "path": ["specs/a.jsonl", "specs/b.jsonl"],
    "model": SOURCES,
    "tokenizer": SOURCES,
    "package": ["python", "pydantic"],
    "version": [platform.python_version()],
    "modules": [["json"], ["ast"]],
    "prompt": ["{text}", "{name}: {text}", "x"],
    "hf": ["org/name", "org/other"],
    "where": ["quality > 0.25", "quality > 0.5"],
    "teacher": ["tiny", "other"],
    "split": ["train", "test"],
    "endpoints": [["http://one.example/v1"], ["http://two.example/v1"]],
    "roles": [[{"name": one, "says": says, "by": by}, {"name": "b", "says": "y"}] for one, says, by in ROLES],
    "forms": [[{"prompt": "x", "answer": "y", "name": "a", "system": "s", name: value}] for name, value in FORMS],
}
"""Values worth trying first; what fits no name and no type here is found by trying."""
NUMBERS = [1, 2, 3, 8, 16, 64, 256, 1024, 0, 0.5, 0.25]
FREE = [{"model_type": "llama"}, {"model_type": "llama", "hidden_size": 64}, *SETS]


def candidates(annotation: Any, marks: tuple[Any, ...] = ()) -> list[Any]:
    """Values a field of this type could have; whether they are valid, validation says."""
    while hasattr(annotation, "__metadata__"):
        annotation, marks = annotation.__origin__, (*marks, *annotation.__metadata__)
    for mark in marks:
        if isinstance(mark, OneOf):
            return [variants(mark.load(kind))[0] for kind in mark.available()]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return [value for member in arguments for value in candidates(member)]
    if origin is Literal:
        return list(arguments)
    if origin in (list, tuple, set, frozenset):
        return [[value] for value in candidates(arguments[0])]
    if origin is dict:
        return FREE
    if annotation is bool:
        return [True, False]
    if annotation is str:
        return TEXTS
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return variants(annotation)
    return NUMBERS


def valid(model: type[BaseModel], value: dict[str, Any]) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


def choices(model: type[BaseModel]) -> dict[str, list[Any]]:
    """Values to try for each field but `kind`."""
    named = {field.alias or name: field for name, field in model.model_fields.items() if name != "kind"}
    return {key: BY_NAME.get(key) or candidates(field.annotation, tuple(field.metadata)) for key, field in named.items()}


@cache
def bases(model: type[BaseModel]) -> list[dict[str, Any]]:
    """Valid configurations with the required fields and none, one or two more: one for each set of fields."""
    fixed = {"kind": model.model_fields["kind"].default} if "kind" in model.model_fields else {}
    values = choices(model)
    required = [field.alias or name for name, field in model.model_fields.items() if field.is_required()]
    optional = [key for key in values if key not in required]
    found = []
    for chosen in itertools.chain.from_iterable(itertools.combinations(optional, n) for n in range(3)):
        keys = [*required, *chosen]
        picks = itertools.islice(itertools.product(*(values[key] for key in keys)), 1000)
        tried = ({**fixed, **dict(zip(keys, pick, strict=True))} for pick in picks)
        found += itertools.islice((value for value in tried if valid(model, value)), 1)
    assert found, f"no valid configuration of {model.__name__} was found"
    return found


def flipped(model: type[BaseModel], base: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Valid configurations that differ from `base` in one field."""
    absent = [{k: v for k, v in base.items() if k != key}] if key in base else []
    others = [{**base, key: value} for value in choices(model)[key] if value != base.get(key)]
    return (value for value in [*others, *absent] if valid(model, value))


@cache
def variants(model: type[BaseModel]) -> list[dict[str, Any]]:
    """A few valid configurations."""
    first = bases(model)[0]
    return [first, *(value for key in choices(model) for value in itertools.islice(flipped(model, first, key), 2))]


def flat(value: Any, at: str = "") -> dict[str, Any]:
    """Leaves of a configuration by dotted path; a list of plain values or a free mapping is one leaf."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return {path: leaf for i, item in enumerate(value) for path, leaf in flat(item, f"{at}.{i}").items()}
    if isinstance(value, dict) and value not in FREE:
        return {path: leaf for key, item in value.items() for path, leaf in flat(item, f"{at}.{key}").items()}
    return {at: value}


# --- a project around one configuration ------------------------------------------------------------------------------

TINY = {"kind": "fake"}
SPEC: dict[str, Any] = {
    "target": {"skill": "x"},
    "teacher": "tiny",
    "roles": {"judge": "tiny"},
    "student": {"kind": "causal-lm", "init": {"from": "teacher", "layers": 2}},
    "seeds": {"kind": "dataset", "path": "specs/a.jsonl"},
    "phases": {
        "one": {
            "elicit": [{"kind": "label"}],
            "select": [{"kind": "semantic-dedup", "max_cosine": 0.9}, {"kind": "rating"}, {"kind": "ppl", "by": "judge"}],
            "objective": {"kind": "forward-kl"},
        },
        "three": {
            "elicit": [{"kind": "label", "by": "judge"}, {"kind": "self-instruct"}],
            "objective": [{"kind": "sft"}, {"kind": "forward-kl"}],
        },
        "two": {"data": [{"from": "one"}], "objective": {"kind": "sft"}},
    },
    "evaluate": [{"kind": "teacher-agreement"}],
}
PARAMS: dict[str, Any] = {"teachers": {"tiny": TINY, "other": {**TINY, "model": "other"}}, "embedder": {"kind": "fake"}}


def put(tree: Any, path: str, value: Any) -> Any:
    """Return a copy of nested mappings and lists with `value` at a dotted path."""
    head, _, rest = path.partition(".")
    if isinstance(tree, list):
        return [put(item, rest, value) if i == int(head) and rest else value if i == int(head) else item for i, item in enumerate(tree)]
    return {**tree, head: put(tree.get(head, {}), rest, value) if rest else value}


def keys(spec: dict[str, Any], params: dict[str, Any]) -> dict[tuple[str, str], str]:
    """(step, stage) to key of every stage that a project compiles to."""
    read = Params.model_validate(params)
    from kdbuild.spec.source import with_defaults

    project = Project(Path(__file__).parent, read, {"a": Spec.model_validate(with_defaults(spec, read.defaults))}, known=("a",))
    for error in project.broken.values():
        raise error
    return {(stage.step, stage.name): stage.section["_key"] for stage in project.stages if stage.section}


def changed(before: tuple[dict[str, Any], dict[str, Any]], after: tuple[dict[str, Any], dict[str, Any]]) -> set[str]:
    """Steps of which a key is new, gone or another."""
    one, other = keys(*before), keys(*after)
    return {step for step, name in one.keys() | other.keys() if one.get((step, name)) != other.get((step, name))}


PLACES = {
    "student": ("student", "student"),
    "seeds": ("seeds", "seeds"),
    "phases.*.elicit.*": ("phases.one.elicit.0", "elicitors"),
    "phases.*.select.*": ("phases.one.select.0", "selectors"),
    "phases.*.objective": ("phases.one.objective", "objectives"),
    "phases.*.objective.*": ("phases.three.objective.1", "objectives"),
    "phases.*.adaptation": ("phases.one.adaptation", "adaptations"),
    "evaluate.*": ("evaluate.0", "evaluators"),
    "params.teachers.*": ("teachers.tiny", "teachers"),
    "params.embedder": ("embedder", "embedders"),
}
"""Where a kind stands in the table, and where it is put in the project above."""
FAMILY = {"student": "students"}


def of_kinds() -> Iterator[tuple[str, str, str, str]]:
    for place, (at, family) in PLACES.items():
        for kind in available(FAMILY.get(family, family)):
            yield place, at, FAMILY.get(family, family), kind


def projects(place: str, at: str, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return (SPEC, put(PARAMS, at, value)) if place.startswith("params.") else (put(SPEC, at, value), PARAMS)


@cache
def flips(place: str, at: str, family: str, kind: str) -> dict[str, set[str]]:
    """Field of the kind to the steps whose key changed when it alone was flipped."""
    model = load(family, kind)
    found: dict[str, set[str]] = {}
    tries: dict[str, int] = {}
    for base, key in itertools.product(bases(model), choices(model)):
        for other in flipped(model, base, key):
            a, b = flat(base), flat(other)
            different = {path for path in a.keys() | b.keys() if a.get(path) != b.get(path)}
            path = f"{place}[{kind}]{re.sub(r'[.][0-9]+', '.*', next(iter(different), ''))}"
            if len(different) != 1 or tries.get(path, 0) == 3:
                continue
            if model.model_validate(base) == model.model_validate(other):
                continue  # a default written out
            try:
                found[path] = found.get(path, set()) | changed(projects(place, at, base), projects(place, at, other))
                tries[path] = tries.get(path, 0) + 1
            except (KdbuildError, ValueError):
                continue
    return found


def has_one_value(place: str, family: str, kind: str, path: str) -> bool:
    """Whether a field of a kind can hold one thing only."""
    annotation: Any = load(family, kind)
    for name in path.removeprefix(f"{place}[{kind}].").split("."):
        if name != "*":
            annotation = next(f for n, f in next(models(annotation)).model_fields.items() if (f.alias or n) == name).annotation
    return annotation is type(None) or (get_origin(annotation) is Literal and len(get_args(annotation)) == 1)


def models(annotation: Any) -> Iterator[Any]:
    """Models that a field may hold, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


@pytest.mark.parametrize(("place", "at", "family", "kind"), list(of_kinds()))
def test_every_field_of_a_kind(place: str, at: str, family: str, kind: str) -> None:
    fields = {path for path in TABLE if path.startswith(f"{place}[{kind}].") and not has_one_value(place, family, kind, path)}
    found = flips(place, at, family, kind)
    assert fields - found.keys() == set(), "no two valid configurations differ in these fields alone"
    for path in fields:
        steps = found[path]
        assert steps <= TABLE[path], f"{path} makes {sorted(steps)} stale; the table says {sorted(TABLE[path])}"
        assert bool(steps) == bool(TABLE[path]), f"{path} makes {sorted(steps)} stale; the table says {sorted(TABLE[path])}"


FLIPS: dict[str, tuple[str, Any]] = {
    "target.skill": ("target.skill", "y"),
    "target.vertical": ("target", {"vertical": "y"}),
    "description": ("description", "y"),
    "teacher": ("teacher", "other"),
    "roles": ("roles", {"judge": "other"}),
    "params.runtime.elicit.student_engine": ("runtime.elicit.student_engine", "vllm"),
    "held_out_frac": ("held_out_frac", 0.3),
    "accept_failed_frac": ("accept_failed_frac", 0.3),
    "phases.*.on": ("phases.three.on", "one"),
    "phases.*.data.*.from": ("phases.two.data.0.from", "three"),
    "phases.*.from": ("phases.two.from", "one"),
    "phases.*.train.schedule": ("phases.one.train.schedule", "cosine"),
    "phases.*.train.dtype": ("phases.one.train.dtype", "bfloat16"),
    "params.defaults.train.schedule": ("defaults.train.schedule", "cosine"),
    "params.defaults.train.dtype": ("defaults.train.dtype", "bfloat16"),
    "params.runtime.rows_dir": ("runtime.rows_dir", "rows"),
    "params.runtime.device": ("runtime.device", "cpu"),
    "params.runtime.train.hostfile": ("runtime.train.hostfile", "hosts"),
    "params.runtime.train.offload": ("runtime.train.offload", True),
}
"""Fields outside kinds that are not numbers: where, and another value."""
PLAIN = [path for path in TABLE if "[" not in path and not path.endswith(".kind")]


def plain_flip(path: str) -> tuple[str, list[Any]]:
    if path in FLIPS:
        return FLIPS[path][0], [FLIPS[path][1]]
    return path.removeprefix("params.").replace("phases.*", "phases.one"), [2, 3, 0.25, 64]


@pytest.mark.parametrize("path", PLAIN)
def test_every_field_outside_kinds(path: str) -> None:
    at, values = plain_flip(path)
    for value in values:
        try:
            steps = changed((SPEC, PARAMS), projects(path, at, value))
        except ValidationError:
            continue
        assert steps == TABLE[path]
        return
    pytest.fail(f"no valid value for {path}: add one to FLIPS")


@cache
def swaps(place: str) -> dict[tuple[str, str], set[str]]:
    """Two kinds to the steps whose key changes where one takes the other's place."""
    at, family = PLACES[place]
    kinds = available(FAMILY.get(family, family))
    first = {kind: projects(place, at, variants(load(FAMILY.get(family, family), kind))[0]) for kind in kinds}
    return {pair: changed(first[pair[0]], first[pair[1]]) for pair in itertools.pairwise(kinds)}


def test_another_kind_in_the_same_place_changes_the_same_steps() -> None:
    paths = [path for path in TABLE if path.endswith(".kind")]
    assert {path.removesuffix(".kind") for path in paths} == PLACES.keys()
    for path in paths:
        for pair, steps in swaps(path.removesuffix(".kind")).items():
            assert steps, pair
            assert steps <= TABLE[path], pair


def test_the_table_claims_no_step_that_no_flip_reaches() -> None:
    reached: dict[str, set[str]] = {}
    for place, at, family, kind in of_kinds():
        for path, steps in flips(place, at, family, kind).items():
            reached.setdefault(_rule(path), set()).update(steps)
    for place in PLACES:
        reached.setdefault(_rule(f"{place}.kind"), set()).update(*swaps(place).values())
    for path in PLAIN:
        at, values = plain_flip(path)
        for value in values:
            try:
                reached.setdefault(_rule(path), set()).update(changed((SPEC, PARAMS), projects(path, at, value)))
            except ValidationError:
                continue
    for rules, prefix in ((identity.SPEC, ""), (identity.PARAMS, "params.")):
        for rule, steps in rules.items():
            assert reached.get(prefix + rule, set()) == steps, rule


def _rule(path: str) -> str:
    params = path.startswith("params.")
    rules = identity.PARAMS if params else identity.SPEC
    plain = re.sub(r"\[[^]]*\]", "", path.removeprefix("params."))
    rule, _ = identity.rule_of(plain, rules, knob=not TABLE[path])
    return ("params." if params else "") + rule


def test_knobs_make_nothing_stale() -> None:
    knobs = [path for path, steps in TABLE.items() if not steps]
    assert "params.runtime.train.num_ranks" in knobs
    assert "description" in knobs
    assert all(not path.startswith("phases.*.train") for path in knobs)


def test_order_of_keys_and_comments_are_nothing() -> None:
    turned = dict(reversed(SPEC.items())) | {"phases": SPEC["phases"]}
    assert changed((SPEC, PARAMS), (turned, PARAMS)) == set()


def test_a_field_without_a_rule_is_refused() -> None:
    with pytest.raises(KeyError, match="does not say what"):
        identity.rule_of("nowhere.to_be_found", identity.SPEC, knob=False)
