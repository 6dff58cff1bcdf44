"""dvc.lock: what was true when each stage last ran."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbuild.errors import StageError

_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Entry:
    """One stage of dvc.lock."""

    cmd: str
    deps: dict[str, str] = field(default_factory=dict)
    """Path to hash."""
    params: dict[str, dict[str, Any]] = field(default_factory=dict)
    """File to leaf (dotted) to value."""
    outs: dict[str, str] = field(default_factory=dict)
    """Path to hash."""


def parse(text: str) -> dict[str, Entry]:
    """Return the stages of the text of a dvc.lock, or of nothing at all.

    Raises:
        ValueError: the text is not a dvc.lock that DVC would read.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ValueError("it is not YAML") from error
    if not isinstance(value, dict) or value.get("schema") != "2.0":
        raise ValueError("it has no `schema: '2.0'`")
    stages = value.get("stages") or {}
    if not isinstance(stages, dict):
        raise ValueError("its `stages` are not a mapping")
    return {str(name): entry_of(stage, str(name)) for name, stage in stages.items()}


def entry_of(value: Any, name: str) -> Entry:
    """Return one stage of a dvc.lock, or one entry of the run cache, which has the same form; ValueError if it has not.

    Stricter than DVC's own schema, which lets a hash that was cut away pass and then fails on it.
    """
    try:
        return Entry(
            cmd=_text(value["cmd"]),
            deps=_hashes(value.get("deps", ())),
            params={_text(path): dict(leaves) for path, leaves in value.get("params", {}).items()},
            outs=_hashes(value.get("outs", ())),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"stage {name} is not complete") from error


def _hashes(items: Any) -> dict[str, str]:
    found = {_text(item["path"]): _text(item["md5"]) for item in items}
    if not all(_HASH.fullmatch(digest) for digest in found.values()):
        raise ValueError
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def read(root: Path) -> dict[str, Entry]:
    """Return the stages of the project's dvc.lock; empty where there is none yet.

    Raises:
        StageError: dvc.lock is torn.
    """
    path = root / "dvc.lock"
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StageError(f"dvc.lock is torn: {error}", hint="`kdbuild doctor --fix` repairs it") from error
