"""Reads `specs/<name>.yaml` and `params.yaml`; every error of a file is told at once, with file:line.

A spec is read with the project's defaults (`defaults:` in params.yaml) under its own values. What one kind needs of another is checked
by `kdbuild.compile.checks`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kdbuild.errors import SpecError
from kdbuild.kinds import nearest
from kdbuild.spec import document, wording
from kdbuild.spec.document import Document
from kdbuild.spec.model import Defaults, Params, Spec
from kdbuild.spec.names import check_spec_name
from kdbuild.spec.problems import Problem, render

M = TypeVar("M", bound=BaseModel)

PARAMS = "params.yaml"


def read_spec(path: Path, params: Params) -> Spec:
    """Return the spec in `path`, with what `params` gives as default where the spec does not say.

    Raises:
        SpecError: everything that is wrong with the file by itself.
    """
    name = f"specs/{path.name}"
    if wrong := check_file_name(path):
        raise SpecError(f"{name}: {wrong.message}", hint=wrong.hint)
    found = _read(path, name)
    return _validated(with_defaults(found.value, params.defaults), Spec, found)


def read_params(path: Path) -> Params:
    """Return the project's params.yaml; one that is absent or empty says nothing.

    Raises:
        SpecError: everything that is wrong with the file.
    """
    if not path.exists():
        return Params()
    found = _read(path, PARAMS)
    return _validated(found.value, Params, found)


def explain(problems: Iterable[Problem], root: Path, spec: str) -> list[str]:
    """Return problems of a spec's or of params.yaml's content as text, in the order of the files."""
    problems = list(problems)
    files = {"spec": (root / "specs" / f"{spec}.yaml", f"specs/{spec}.yaml"), "params": (root / PARAMS, PARAMS)}
    read = {key: _open(path, name) for key, (path, name) in files.items() if any(p.file == key for p in problems)}

    def place(problem: Problem) -> tuple[int, int]:
        line = problem.line or (read[problem.file].line_of(problem.at) if problem.file in read else None)
        return ("spec", "params", "other").index(problem.file), line or 0

    blank = Document("")
    return [render(problem, read.get(problem.file, blank)) for problem in sorted(problems, key=place)]


def check_file_name(path: Path) -> Problem | None:
    """Return what is wrong with the name of a spec's file."""
    if path.suffix == ".yml":
        return Problem((), "a spec's file ends in `.yaml`", hint=f"rename it to {path.stem}.yaml")
    try:
        check_spec_name(path.stem)
    except ValueError as error:
        return Problem((), str(error), hint="rename the file: its name is the spec's name, and part of the names of its stages")
    return None


def no_such(what: str, given: str, words: Iterable[str]) -> str:
    """Return the sentence for a name that is not there, with the one that was probably meant."""
    near = nearest(given, list(words))
    return f"no {what} named `{given}`" + (f". Did you mean `{near}`?" if near else "")


def _open(path: Path, name: str) -> Document:
    try:
        return document.read(path, name)
    except FileNotFoundError:
        return Document(name, problems=[Problem((), "there is no such file")])
    except OSError as error:
        return Document(name, problems=[Problem((), f"the file cannot be read: {(error.strerror or str(error)).lower()}")])


def _read(path: Path, name: str) -> Document:
    found = _open(path, name)
    empty = name == PARAMS and [p.message for p in found.problems] == ["the file is empty"]
    if empty:
        found.problems.clear()
    if found.problems and not found.value:
        raise SpecError(_text(found.problems, found))
    return found


def _validated(value: dict[str, Any], model: type[M], found: Document) -> M:
    problems = list(found.problems)
    try:
        valid = model.model_validate(value)
        problems += wording.coerced(valid, found.value)
    except ValidationError as error:
        problems += wording.problems_of(error, found, model)
    if problems:
        raise SpecError(_text(problems, found))
    return valid


def _text(problems: list[Problem], found: Document) -> str:
    ordered = sorted(problems, key=lambda p: p.line or found.line_of(p.at) or 0)
    return "\n\n".join(render(problem, found) for problem in ordered)


def with_defaults(value: dict[str, Any], defaults: Defaults) -> dict[str, Any]:
    """Return a spec's raw values over the project's defaults; only what params.yaml says counts as a default."""
    merged = dict(value)
    for name in defaults.model_fields_set - {"train"}:
        merged.setdefault(name, getattr(defaults, name))
    train = defaults.train.model_dump(exclude_unset=True)
    phases = value.get("phases")
    if train and isinstance(phases, dict):
        merged["phases"] = {name: _with_train(phase, train) for name, phase in phases.items()}
    return merged


def _with_train(phase: Any, train: dict[str, Any]) -> Any:
    if not isinstance(phase, dict) or not isinstance(phase.get("train", {}), dict):
        return phase
    return {**phase, "train": {**train, **phase.get("train", {})}}
