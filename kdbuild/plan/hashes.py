"""Content hashes as DVC writes them into dvc.lock, without hashing an unchanged file twice."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from kdbuild.plan.ignores import Ignores

_SETTLED_NS = 2_000_000_000
"""A file younger than this may change again without its time changing (some file systems count in seconds): its hash is not kept."""


class Hashes:
    """The hashes of a project's files and directories.

    A hash is kept by inode, modification time and size, as DVC keeps it: what DVC does not see as changed is not changed here.
    """

    def __init__(self, root: Path, kept_in: Path | None = None, texts: Mapping[str, str] | None = None) -> None:
        """`kept_in` is the file hashes are kept in between runs; `texts` are files (path to text) as they are going to be written."""
        self._root = root
        self._kept_in = kept_in
        self._texts = texts or {}
        self._ignores = Ignores(root)
        self._known: dict[str, list[int | str]] = _read(kept_in)
        self._found: dict[str, str | None] = {}
        self._is_new = False

    def of(self, path: str) -> str | None:
        """Return the hash of a file, or of a directory (ending in `.dir`), as DVC computes it; None where nothing is there."""
        if path not in self._found:
            self._found[path] = self._hash(path)
        return self._found[path]

    def is_executable(self, path: str) -> bool:
        """Return whether `path` is a file with an executable bit: DVC notes it beside the hash."""
        try:
            mode = (self._root / path).stat().st_mode
        except OSError:
            return False
        return stat.S_ISREG(mode) and bool(mode & 0o111)

    def save(self) -> None:
        """Keep what was hashed for the next run; a failure to do so only costs time."""
        if not self._is_new or self._kept_in is None:
            return
        partial = self._kept_in.with_name(f"{self._kept_in.name}.{os.getpid()}.partial")
        try:
            self._kept_in.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(self._known), encoding="utf-8")
            partial.replace(self._kept_in)
        except OSError:
            partial.unlink(missing_ok=True)

    def _hash(self, path: str) -> str | None:
        if path in self._texts:
            return _md5(self._texts[path].encode("utf-8"))
        full = self._root / path
        if full.is_dir():
            return self._directory(full)
        return self._file(full) if full.exists() else None

    def _directory(self, folder: Path) -> str:
        files = [{"md5": self._file(path), "relpath": path.relative_to(folder).as_posix()} for path in files_below(folder, self._ignores)]
        files.sort(key=lambda entry: str(entry["relpath"]))
        return _md5(json.dumps(files, sort_keys=True).encode("utf-8")) + ".dir"

    def _file(self, path: Path) -> str:
        facts = path.stat()
        signature = [facts.st_ino, facts.st_mtime_ns, facts.st_size]
        name = str(path)
        known = self._known.get(name)
        if known is not None and known[:3] == signature:
            return str(known[3])
        with path.open("rb") as file:
            found = hashlib.file_digest(file, _new_md5).hexdigest()
        if time.time_ns() - facts.st_mtime_ns > _SETTLED_NS:
            self._known[name] = [*signature, found]
            self._is_new = True
        return found


def files_below(folder: Path, ignores: Ignores) -> list[Path]:
    """Return the files of a directory that DVC counts; links to folders are not followed."""
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                path, is_dir = Path(entry.path), entry.is_dir()
                if ignores.hides(path, is_dir=is_dir):
                    continue
                if not is_dir:
                    found.append(path)
                elif not entry.is_symlink():
                    waiting.append(path)
    return found


def _new_md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _read(path: Path | None) -> dict[str, list[int | str]]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    good = isinstance(value, dict) and all(isinstance(entry, list) and len(entry) == 4 for entry in value.values())
    return value if good else {}
