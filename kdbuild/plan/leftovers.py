"""Leftovers of killed processes: DVC's read-write lock, run-cache entries that were not finished, outputs that have no final name."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdbuild.plan import lockfile
from kdbuild.spec import layout

Found = tuple[str, str, Callable[[], str]]
"""What was found, what mending does, and the mending."""

_WRITING_S = 60.0
"""In a cache shared with other projects, an unfinished entry younger than this may be one that is being written."""


# --- .dvc/tmp/rwlock -------------------------------------------------------------------------------------------------


def find_rwlock(path: Path) -> Iterator[Found]:
    """Yield a lock file that is torn, or that names processes which are gone."""
    try:
        text, written = path.read_text(encoding="utf-8"), path.stat().st_mtime
    except UnicodeDecodeError:
        text, written = "", 0.0
    except OSError:
        return
    try:
        locks = _checked(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError):
        yield "DVC's lock file .dvc/tmp/rwlock is torn: every `dvc repro` stops", "removes it", lambda: _removed(path)
        return
    pids = {holder["pid"] for holders in locks for holder in holders}
    if pids and not any(_is_alive(pid, written) for pid in pids):
        what = f".dvc/tmp/rwlock is held by processes that are gone ({', '.join(map(str, sorted(pids)))})"
        yield what, "removes it", lambda: _removed(path)


def _checked(value: Any) -> list[list[dict[str, Any]]]:
    """Return the holders of each path; an error unless the file has the form DVC reads."""
    found = [[holder] for holder in value.get("write", {}).values()] + list(value.get("read", {}).values())
    if set(value) - {"read", "write"}:
        raise ValueError
    for holders in found:
        for holder in holders:
            if set(holder) != {"pid", "cmd"} or type(holder["pid"]) is not int or not isinstance(holder["cmd"], str):
                raise ValueError
    return found


def _is_alive(pid: int, written: float) -> bool:
    """Return whether the process that wrote the lock still runs: one that started later only has its number."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time()) <= written + 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def dvc_process(root: Path) -> int | None:
    """Return the id of a dvc process that works in the project, or None."""
    import psutil

    for process in psutil.process_iter():
        try:
            words = [Path(word).name for word in process.cmdline()[:3]]
            if "dvc" in words and Path(process.cwd()).is_relative_to(root):
                return int(process.pid)
        except (psutil.Error, OSError):
            continue
    return None


# --- the run cache ---------------------------------------------------------------------------------------------------


def find_run_cache(runs: Path, *, is_own: bool) -> Iterator[Found]:
    """Yield the entries that DVC would stumble over: it takes the newest file of a key, whatever that is."""
    oldest = time.time() if is_own else time.time() - _WRITING_S
    bad = [path for path in sorted(runs.glob("*/*/*")) if path.is_file() and path.stat().st_mtime <= oldest and not _is_entry(path)]
    if bad:
        what = f"{len(bad)} unfinished entr{'y' if len(bad) == 1 else 'ies'} in DVC's run cache: stages run again that need not"
        yield what, "removes them; the finished entries beside them serve", lambda: _all_removed(bad)


def _is_entry(path: Path) -> bool:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if path.name.endswith(".tmp"):
        return False
    try:
        return bool(lockfile.entry_of(YAML(typ="safe").load(path.read_text(encoding="utf-8")), path.name).outs)
    except (OSError, ValueError, YAMLError):
        return False


# --- outputs -------------------------------------------------------------------------------------------------------------


def find_partials(root: Path) -> Iterator[Found]:
    """Yield outputs and generated files that were being written."""
    found = [*(root / layout.ARTIFACTS).glob("*.partial"), *root.glob(".*.partial")]
    for depth in ("*/", "*/*/"):
        found += (root / layout.ARTIFACTS).glob(f"{depth}*.partial")
        found += (root / layout.ARTIFACTS).glob(f"{depth}.*.partial")
    found = sorted(set(found))
    if found:
        names = ", ".join(str(path.relative_to(root)) for path in found[:3]) + (", ..." if len(found) > 3 else "")
        yield (
            f"{len(found)} output{'s' if len(found) > 1 else ''} half written by a killed stage: {names}",
            "removes them",
            lambda: _all_removed(found),
        )


def _removed(path: Path) -> str:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return f"removed {path.name}"


def _all_removed(paths: list[Path]) -> str:
    for path in paths:
        _removed(path)
    return f"removed {len(paths)}"
