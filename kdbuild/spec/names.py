"""Which names a spec, a phase and a teacher may have."""

from __future__ import annotations

import re

from pydantic_core import PydanticCustomError

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
RESERVED = frozenset(
    {"seeds", "previous", "teacher", "student", "models", "kdbuild", "init", "evaluate", "report", "compile", "embedder"}
)
"""Words that are steps, folders or roles."""


def check_name(name: str) -> str:
    """Return `name` if it is lower-case words joined by `-`."""
    if not NAME.fullmatch(name):
        raise PydanticCustomError("name", "`{given}` is not a name: lower-case letters and digits, words joined by `-`", {"given": name})
    return name


def check_phase_name(name: str) -> str:
    """Return `name` if a phase may be called so."""
    check_name(name)
    if name in RESERVED:
        raise PydanticCustomError("name_reserved", "`{given}` is a reserved word", {"given": name})
    if re.search(r"-\d+$", name):
        raise PydanticCustomError(
            "name_number", "`{given}` ends in a number, which is kept for repeated phases", {"given": name}
        )
    return name


def check_teacher_name(name: str) -> str:
    """Return `name` if a teacher may be called so."""
    check_name(name)
    if name in RESERVED:
        raise PydanticCustomError("name_reserved", "`{given}` is a reserved word", {"given": name})
    return name


def check_spec_name(name: str) -> str:
    """Return `name` if a spec may be called so: it is a folder of artifacts/ and the start of its stages' names."""
    check_name(name)
    if name in {"models", "kdbuild"}:
        raise PydanticCustomError("name_reserved", "`{given}` is a reserved word", {"given": name})
    return name
