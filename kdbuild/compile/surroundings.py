"""What a spec finds around it: the files it names, the packages its kinds need, the seeds it starts from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic_core import PydanticCustomError

from kdbuild import records
from kdbuild.compile.elicitation import unread
from kdbuild.elicitors import _reads
from kdbuild.errors import KdbuildError, MissingPackage, RowError
from kdbuild.kinds import Kind
from kdbuild.seeds import FEW_SEEDS, Seeds
from kdbuild.spec import sources
from kdbuild.spec.model import Spec
from kdbuild.spec.problems import At, Problem

Kinds = Iterable[tuple[At, Kind, Literal["spec", "params"]]]
"""Every kind a spec uses: where it stands, and in which file."""

MIN_HELD_OUT = 20
QUICK_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".yaml", ".yml", ".txt", ".py")
"""Files of rows that are read without a package for their format."""
MAX_COUNTED_BYTES = 16 * 2**20


def files(root: Path, kinds: Kinds) -> Iterator[Problem]:
    """Yield what is wrong with the files that kinds read: absent, outside the project, or of a name that DVC cannot hold."""
    for at, kind, file in kinds:
        named = {field.alias or name: getattr(kind, name) for name, field in type(kind).model_fields.items()}
        paths = list(getattr(kind, "files", tuple)())
        for source in getattr(kind, "sources", tuple)():
            try:
                paths += sources.files_of(source)
            except PydanticCustomError as error:
                hint = (error.context or {}).get("hint")
                yield Problem((*at, *_holding(named, source)), str(error), hint=hint, file=file)
        for path in paths:
            if problem := _wrong_with(root, path):
                yield replace(problem, at=(*at, *_holding(named, path)), file=file)


def packages(kinds: Kinds) -> Iterator[Problem]:
    """Yield a warning for each package that is not installed; the stage may run on another machine."""
    told: set[str] = set()
    for at, kind, file in kinds:
        try:
            kind.require_packages()
        except MissingPackage as error:
            if error.message not in told:
                told.add(error.message)
                yield Problem(at, error.message, hint=error.hint, severity="warning", file=file)


def _holding(named: dict[str, Any], text: str) -> At:
    """Return the field that names a path or a source, to point at."""
    return next(((name,) for name, value in named.items() if str(value) in (text, f"path:{text}")), ())


def _wrong_with(root: Path, path: str) -> Problem | None:
    """What is wrong with a path, and what to do."""
    inside = "paths are relative to the project's folder and stay in it: copy the file into the project"
    if "${" in path:
        return Problem((), f"`{path}` holds `${{`, which DVC would replace by a value of params.yaml", hint="rename the file")
    if Path(path).is_absolute() or path.startswith("~"):
        return Problem((), f"`{path}` is not relative to the project", hint=inside)
    if not (root / path).resolve().is_relative_to(root.resolve()):
        return Problem((), f"`{path}` leaves the project", hint=inside)
    if (root / path).exists():
        return None
    if (root / f"{path}.dvc").exists():
        return Problem((), f"`{path}` is tracked by DVC and not here", hint=f"`dvc pull {path}` brings it", severity="warning")
    return Problem((), f"there is no file `{path}` in the project", hint=_near_file(root, path))


def _near_file(root: Path, path: str) -> str | None:
    folder = (root / path).parent
    if not folder.is_dir():
        return f"there is no folder `{Path(path).parent}` either"
    near = get_close_matches(Path(path).name, [f.name for f in folder.iterdir()], n=1)
    return f"did you mean `{(Path(path).parent / near[0]).as_posix()}`?" if near else None


def seed_rows(root: Path, spec: Spec) -> Iterator[Problem]:
    """Yield what seed rows get wrong, and whether enough of them are held out; only text files of a moderate size are read."""
    seeds = spec.seeds
    if seeds is None:
        return
    try:
        rows = list(seeds.rows(root)) if _is_quick(root, seeds) else None
    except KdbuildError as error:
        # A bad row is told with its own file:line; what concerns several rows, at the spec's `seeds`.
        own = isinstance(error, RowError) and error.message.startswith(tuple(f"{path}:" for path in seeds.files()))
        yield Problem(("seeds",), error.message, hint=error.hint, file="other" if own else "spec")
        return
    if rows is None:
        return
    if not rows:
        yield Problem(("seeds",), "the seeds hold no rows")
        return
    yield from unread(spec, _reads.had_by(rows))
    held_out = sum(records.is_held_out(row, spec.held_out_frac) for row in rows)
    if spec.evaluate and held_out < MIN_HELD_OUT:
        share = f"`held_out_frac: {spec.held_out_frac:g}` holds out {held_out} of {len(rows)} seeds"
        at = ("held_out_frac",) if "held_out_frac" in spec.model_fields_set else ("seeds",)
        if held_out == 0 and len(rows) < FEW_SEEDS and (makers := _makers_of_rows(spec)):
            message = f"{share}; with fewer than {FEW_SEEDS} seeds the rows that {makers} makes are split by themselves"
            yield Problem(at, message, hint=f"for at least {MIN_HELD_OUT} of them held out, raise `target_rows`", severity="warning")
        elif held_out == 0:
            yield Problem(at, f"{share}, so there is nothing to evaluate on", hint="add seeds, raise `held_out_frac`, or remove `evaluate`")
        else:
            message = f"{share}; with fewer than {MIN_HELD_OUT} the measures are noise"
            yield Problem(at, message, hint="add seeds, or raise `held_out_frac`", severity="warning")


def _makers_of_rows(spec: Spec) -> str:
    """Return the operators that make as many new rows of the seeds as they are told, for a sentence; empty where there are none."""
    kinds = [operator.kind for phase in spec.phases.values() for operator in phase.elicit if "target_rows" in type(operator).model_fields]
    return " and ".join(f"`{kind}`" for kind in dict.fromkeys(kinds))


def _is_quick(root: Path, seeds: Seeds) -> bool:
    """Return whether the rows are in files of the project that can be read in no time, without a package for their format.

    Raises:
        SourceError: a source outside the project is not there.
    """
    if seeds.outside() is not None:
        return False
    paths = [root / path for path in seeds.files()]
    return (
        all(p.suffix.lower() in QUICK_SUFFIXES and p.is_file() for p in paths) and sum(p.stat().st_size for p in paths) <= MAX_COUNTED_BYTES
    )
