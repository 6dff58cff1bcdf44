"""What a crash left behind, and how each thing is mended."""

from __future__ import annotations

import configparser
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdbuild.errors import KdbuildError
from kdbuild.plan import leftovers, torn_lock, torn_store
from kdbuild.rows import place
from kdbuild.spec.source import PARAMS, read_params


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong."""

    what: str
    """What was found."""
    remedy: str
    """What mending it would do, or what stands in its way."""
    mend: Callable[[], str] | None
    """Mends it and returns what was done; None where it cannot be mended now."""


def find(root: Path) -> list[Damage]:
    """Return everything that is wrong with the project's state, worst first; nothing is changed."""
    store, busy = store_dir(root), in_use(root)
    found = [
        *torn_lock.find(root, store / "dvc-lock"),
        *leftovers.find_rwlock(root / ".dvc" / "tmp" / "rwlock"),
        *leftovers.find_run_cache(place.cache_dir(root) / "runs", is_own=place.cache_dir(root).is_relative_to(root)),
        *leftovers.find_partials(root),
        *torn_store.find(store),
    ]
    return [Damage(what, remedy if not busy else f"nothing while {busy}", None if busy else mend) for what, remedy, mend in found]


def store_dir(root: Path) -> Path:
    """Return the row store's folder, also where params.yaml cannot be read."""
    try:
        rows_dir = read_params(root / PARAMS).runtime.rows_dir
    except KdbuildError:
        rows_dir = None
    return place.store_dir(root, rows_dir)


def in_use(root: Path) -> str | None:
    """Return who works in the project right now, in words, or None: what is half written by a living process is not damage."""
    for lock in (root / ".dvc" / "tmp" / "lock", root / ".dvc" / "tmp" / "rwlock.lock"):
        if _is_held(lock):
            return "a dvc process holds its lock"
    for lock in sorted((store_dir(root) / "locks").glob("*.lock")):
        if _is_held(lock):
            return f"stage {lock.stem} is running"
    pid = leftovers.dvc_process(root)
    return f"dvc is running (process {pid})" if pid is not None else None


def _is_held(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def advice(root: Path) -> Iterator[str]:
    """Yield what would make the project safer."""
    remotes: dict[str, bool] = {}
    for name in ("config", "config.local"):
        config = configparser.ConfigParser()
        try:
            config.read(root / ".dvc" / name)
        except configparser.Error:
            continue
        for section in config.sections():
            if section.strip("'").startswith("remote "):
                remote = section.strip("'").removeprefix("remote ").strip('"')
                verified = config.get(section, "verify", fallback="").strip().lower() in ("true", "1", "yes", "on")
                remotes[remote] = remotes.get(remote, False) or verified
    for remote in sorted(name for name, verified in remotes.items() if not verified):
        yield f"`dvc remote modify {remote} verify true`: without it, DVC takes whatever `{remote}` sends for what was asked"
