"""What DVC would fetch from its cache instead of running a stage: its run cache, and the objects the outputs are made of."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from kdbuild.plan import lockfile

_LEFT_OUT = frozenset({"size", "nfiles"})
_PROTECTED = 0o444
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")


class RunCache:
    """The cache folder of one project."""

    def __init__(self, cache_dir: Path) -> None:
        self._dir = cache_dir

    def entry(self, key: str) -> lockfile.Entry | None:
        """Return the entry DVC would take for `key`: the newest of its folder; None where there is none or it is not good."""
        folder = self._dir / "runs" / key[:2] / key
        try:
            newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime)
            return _read(newest)
        except (OSError, ValueError):
            return None

    def has(self, outs: Mapping[str, str]) -> bool:
        """Return whether the cache has every object of the outputs (path to hash)."""
        return all(self._has_out(digest) for digest in outs.values())

    def mentions(self, stage_key: str) -> bool:
        """Return whether any entry was made by a stage with this `_key`."""
        return stage_key.encode() in self._digests

    @cached_property
    def _digests(self) -> set[bytes]:
        files = (path for path in (self._dir / "runs").glob("*/*/*") if path.is_file())
        return {digest for path in files for digest in _DIGEST.findall(_bytes(path))}

    def objects(self, digest: str) -> list[Path]:
        """Return the cache files an output with this hash is made of.

        Raises:
            OSError, ValueError: a directory's list of files is missing or torn.
        """
        first = self._object(digest)
        if not digest.endswith(".dir"):
            return [first]
        return [first, *(self._object(str(file["md5"])) for file in json.loads(first.read_text(encoding="utf-8")))]

    def read(self, digest: str, name: str) -> bytes | None:
        """Return the bytes of one file of a cached directory, or None where the cache has not got it."""
        try:
            files = json.loads(self._object(digest).read_text(encoding="utf-8"))
            return next((self._object(file["md5"]).read_bytes() for file in files if file["relpath"] == name), None)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _object(self, digest: str) -> Path:
        return self._dir / "files" / "md5" / digest[:2] / digest[2:]

    def _has_out(self, digest: str) -> bool:
        try:
            return all(_is_good(path) for path in self.objects(digest))
        except (OSError, ValueError, KeyError, TypeError):
            return False


def key_of(cmd: str, deps: list[dict[str, Any]], params: Mapping[str, Mapping[str, Any]], outs: list[str]) -> str:
    """Return DVC's run-cache key of a stage; `deps` are entries as dvc.lock holds them, sizes may be left out.

    Source: dvc/stage/cache.py `_get_cache_hash`, dvc/utils `dict_sha256`.
    """
    material: dict[str, Any] = {"cmd": cmd}
    if deps:
        material["deps"] = sorted(deps, key=lambda dep: str(dep["path"]))
    if params:
        material["params"] = params
    material["outs"] = sorted(outs)
    return hashlib.sha256(json.dumps(_without_sizes(material), sort_keys=True).encode()).hexdigest()


def _without_sizes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_sizes(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _without_sizes(item) for key, item in value.items() if key not in _LEFT_OUT}
    return value


def _read(path: Path) -> lockfile.Entry:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return lockfile.entry_of(YAML(typ="safe").load(path.read_text(encoding="utf-8")), path.name)
    except YAMLError as error:
        raise ValueError(path.name) from error


def _is_good(path: Path) -> bool:
    """Return whether DVC would take a cache file: it trusts a protected one, and hashes any other."""
    if stat.S_IMODE(path.stat().st_mode) == _PROTECTED:
        return True
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return found == (path.parent.name + path.name).removesuffix(".dir")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
