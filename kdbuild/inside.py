"""Paths of a spec stay inside the project: what a spec names must not read or write anything else."""

from __future__ import annotations

from pathlib import Path

from kdbuild.errors import SpecError


def inside(root: Path, path: str) -> Path:
    """Return the absolute path of the project's file or folder `path`.

    Raises:
        SpecError: it leaves the project (also through a link), or is not there.
    """
    base = root.resolve()
    found = (base / path).resolve()
    if not found.is_relative_to(base):
        raise SpecError(f"`{path}` is not inside the project", hint="paths are relative to the project's folder; copy the file into it")
    if not found.exists():
        raise SpecError(f"`{path}` is not there", hint="paths are relative to the project's folder")
    return found
