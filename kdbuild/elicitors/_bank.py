"""Banks of texts that a question draws from: in the spec, in a file of the project, or shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdbuild import canonical
from kdbuild.errors import SpecError
from kdbuild.inside import inside

_LARGEST_FILE = 4_000_000
_YAML = (".yaml", ".yml")


def of_list(texts: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return texts by name; those of a list are named by themselves."""
    return dict(texts) if isinstance(texts, Mapping) else {text: text for text in texts}


def of_project(root: Path, path: str) -> dict[str, str]:
    """Return the texts of a project's file: YAML (a list, or a text a name), else one text a line.

    Raises:
        SpecError: it is not inside the project, not there, or not such a file.
    """
    found = inside(root, path)
    return dict(_read(found, path, found.stat().st_mtime_ns))


def shipped(path: Path) -> dict[str, str]:
    """Return the texts of a packaged YAML file."""
    return dict(_read(path, path.name, 0))


def drawn(bank: Mapping[str, str], count: int, *parts: str) -> list[str]:
    """Return `count` names of a bank (all, where it has no more), in its order, drawn by the digest of `parts`.

    A text added to the bank or taken from it changes only the draws that it is in.
    """
    order = sorted(bank, key=lambda name: canonical.fraction(*parts, name, bank[name]))
    chosen = set(order[:count])
    return [name for name in bank if name in chosen]


@lru_cache(maxsize=32)
def _read(path: Path, name: str, version: int) -> Mapping[str, str]:
    """`version` is there so that a file edited in between is read again."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SpecError(f"{name} is larger than {_LARGEST_FILE:,} bytes", hint="a bank holds one short text a line, or YAML")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{name} cannot be read: {error}", hint="a bank is a UTF-8 text file") from error
    found = _parsed(text, name) if path.suffix.lower() in _YAML else of_list([line.strip() for line in text.splitlines() if line.strip()])
    if not found:
        raise SpecError(f"{name} holds no texts", hint="write one text a line, or YAML: a list of texts, or a text a name")
    return found


def _parsed(text: str, name: str) -> dict[str, str]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value: Any = YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:
        raise SpecError(f"{name} is not YAML: {' '.join(str(error).split())}", hint="quote a text that holds `: ` or ` #`") from error
    texts = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(texts, list) or not all(isinstance(one, str) and one.strip() for one in texts):
        raise SpecError(f"{name} is not a list of texts, nor a text a name", hint='write `- "one text"` a line, or `name: "text"`')
    return {str(key): one for key, one in value.items()} if isinstance(value, dict) else of_list(texts)
