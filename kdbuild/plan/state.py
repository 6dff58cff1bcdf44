"""What the last successful build left: enough to tell, from file times alone, that there is nothing to do.

No YAML, no pydantic: this is what a no-op `kdbuild build` costs. In doubt it says no, and the plan decides.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import kdbuild
from kdbuild.rows import place

_SCHEMA = 1
_JUST_NOW_NS = 50_000_000
"""A file that changed this short a time ago may change again without its time changing."""
_JUST_NOW_COARSE_NS = 2_500_000_000
"""The same where the file system counts in seconds."""


def folder(root: Path) -> Path:
    """Return where plan and build keep what they know of the project at `root`: beside the row store, apart from other checkouts."""
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return place.cache_dir(root).parent / "kdbuild" / "plan" / name


def nothing_to_do(root: Path, specs: Sequence[str]) -> int | None:
    """Return the number of stages the last build left fresh if nothing changed since, else None."""
    try:
        state = json.loads((folder(root) / "built.json").read_text(encoding="utf-8"))
        if state["schema"] != _SCHEMA or state["code"] != _code():
            return None
        built = state["specs"]
        if built is not None and (not specs or not set(specs) <= set(built)):
            return None
        if any(_signature(root / path) != was for path, was in state["paths"].items()):
            return None
        return int(state["num_stages"]) if _known(specs, root) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, configparser.Error):
        return None


def _known(specs: Sequence[str], root: Path) -> bool:
    return all((root / "specs" / f"{name}.yaml").is_file() for name in specs)


def remember(root: Path, specs: Sequence[str], paths: Iterable[str], num_stages: int) -> None:
    """Write down that everything (or, with `specs`, all of theirs) is fresh; a failure to do so only costs time.

    `paths` is everything the answer depends on: files and directories, relative to the project or absolute.
    """
    signatures = {path: _signature(root / path) for path in sorted(set(paths))}
    if _may_still_change(signatures):
        return
    state: Mapping[str, Any] = {
        "schema": _SCHEMA,
        "code": _code(),
        "specs": sorted(specs) or None,
        "num_stages": num_stages,
        "paths": signatures,
    }
    where = folder(root)
    partial = where / f"built.{os.getpid()}.partial"
    try:
        where.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(state), encoding="utf-8")
        partial.replace(where / "built.json")
    except OSError:
        partial.unlink(missing_ok=True)


def forget(root: Path) -> None:
    """Forget the last build: what is there may not be what it left."""
    (folder(root) / "built.json").unlink(missing_ok=True)


def _signature(path: Path) -> list[Any] | None:
    """Return what of a file or directory changes when it does: of every file below, inode, size and both times."""
    try:
        facts = path.stat()
    except OSError:
        return None
    if not path.is_dir():
        return [facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    return ["", *sorted([entry.path, *_file(entry)] for entry in _below(path))]


def _file(entry: os.DirEntry[str]) -> list[int]:
    facts = entry.stat()
    return [facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]


def _below(path: Path) -> Iterable[os.DirEntry[str]]:
    waiting = [str(path)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if not entry.is_dir():
                    yield entry
                elif not entry.is_symlink() and entry.name != "__pycache__":
                    waiting.append(entry.path)


def _may_still_change(signatures: Mapping[str, list[Any] | None]) -> bool:
    times = [time_ns for signature in signatures.values() if signature for time_ns in _times(signature)]
    now = time.time_ns()
    return any(now - t < (_JUST_NOW_NS if t % 1_000_000_000 else _JUST_NOW_COARSE_NS) for t in times)


def _times(signature: list[Any]) -> list[int]:
    return [entry[3] for entry in signature[1:]] if signature[0] == "" else [signature[2]]


def _code() -> str:
    """Return what identifies the code that compiles: kdbuild, edits in place included, Python, and the packages beside it.

    Seeds may be a package's own documents or Python's; a package that comes or goes touches its folder.
    """
    home, packages = Path(kdbuild.__file__).parent, Path(click.__file__).parents[1]
    return hashlib.sha256(json.dumps([_signature(home), packages.stat().st_mtime_ns, sys.version]).encode()).hexdigest()
