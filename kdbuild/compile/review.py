"""Everything that is wrong with a project at once: params.yaml, every spec, and the seeds that can be read quickly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kdbuild.compile.checks import check_seed_rows, check_spec
from kdbuild.errors import KdbuildError, SpecError
from kdbuild.spec.model import Params, Spec
from kdbuild.spec.source import PARAMS, check_file_name, no_such, read_params, read_spec


@dataclass
class Review:
    """What a review found; texts are ready to print."""

    specs: dict[str, Spec] = field(default_factory=dict)
    """Specs that read well by themselves, by name."""
    good: list[str] = field(default_factory=list)
    """Names of the reviewed specs that can be built."""
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def review(root: Path, only: Iterable[str] = ()) -> Review:
    """Check params.yaml and the specs named (by name or path; none: all).

    Raises:
        SpecError: there are no specs, or none of a name given.
    """
    files = _files(root)
    names = [_named(given, files) for given in only] or list(files)
    found, wrong = Review(), dict[str, KdbuildError]()
    params = _params(root, found)
    for name, path in files.items():
        try:
            if problem := check_file_name(path):
                raise SpecError(f"specs/{path.name}: {problem.message}", hint=problem.hint)
            found.specs[name] = read_spec(path, params or Params())
        except SpecError as error:
            wrong[name] = error
    for name in names:
        if name in found.specs and params:
            try:
                found.warnings += check_spec(root, name, found.specs[name], params, found.specs)
                found.warnings += check_seed_rows(root, name, found.specs[name])
                found.good.append(name)
            except KdbuildError as error:
                wrong[name] = error
    found.warnings = list(dict.fromkeys(found.warnings))
    # A spec that was not asked about is read, since another may name it, but says nothing.
    found.errors += [_text(wrong[name]) for name in names if name in wrong]
    return found


def _params(root: Path, found: Review) -> Params | None:
    try:
        return read_params(root / PARAMS)
    except SpecError as error:
        found.errors.append(_text(error))
        return None


def _files(root: Path) -> dict[str, Path]:
    folder = root / "specs"
    found = sorted(path for path in folder.glob("*.y*ml") if path.suffix in (".yaml", ".yml") and not path.name.startswith("."))
    if not found:
        where = "there is no folder specs/ here" if not folder.is_dir() else "specs/ holds no spec"
        raise SpecError(where, hint="`kdbuild init` starts a project, with a first spec")
    return {path.stem if path.suffix == ".yaml" else path.name: path for path in found}


def _named(given: str, files: dict[str, Path]) -> str:
    name = Path(given).name if given.endswith((".yaml", ".yml")) else given
    name = name.removesuffix(".yaml")
    if name not in files:
        raise SpecError(no_such("spec", name, files), hint=f"specs/ holds {', '.join(files)}")
    return name


def _text(error: KdbuildError) -> str:
    return error.message if error.hint is None else f"{error.message}\nhint: {error.hint}"
