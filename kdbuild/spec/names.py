"""Which names a spec, a phase and a teacher may have."""

from __future__ import annotations

import re
from collections.abc import Set

from pydantic_core import PydanticCustomError

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
RESERVED = frozenset({"seeds", "previous", "teacher", "student", "models", "kdbuild", "init", "evaluate", "report", "compile", "embedder"})
"""Words that are steps, folders or roles."""
TEACHER, STUDENT = "teacher", "student"
"""Who acts where no name is given."""
PHASE = "phase:"
"""Start of the name of a model that a phase trains."""


def check_name(name: str) -> str:
    """Return `name` if it is lower-case words joined by `-`."""
    if not NAME.fullmatch(name):
        plain = "-".join(re.findall("[a-z0-9]+", name.lower()))
        context = {"given": name, "hint": f"call it `{plain}`"} if plain else {"given": name}
        raise PydanticCustomError("name", "`{given}` is not a name: lower-case letters and digits, words joined by `-`", context)
    return name


def check_phase_name(name: str) -> str:
    """Return `name` if a phase may be called so."""
    check_name(name)
    if name in RESERVED:
        raise _reserved(name, RESERVED)
    if re.search(r"-\d+$", name):
        raise PydanticCustomError(
            "name_number", "`{given}` ends in a number, which is kept for repeated phases", {"given": name, "hint": "end it in a word"}
        )
    return name


def check_teacher_name(name: str) -> str:
    """Return `name` if a teacher may be called so."""
    check_name(name)
    if name in RESERVED:
        raise _reserved(name, RESERVED)
    return name


def check_spec_name(name: str) -> str:
    """Return `name` if a spec may be called so: it is a folder of artifacts/ and the start of its stages' names."""
    check_name(name)
    if name in {"models", "kdbuild"}:
        raise _reserved(name, {"models", "kdbuild"})
    return name


def _reserved(name: str, words: Set[str]) -> PydanticCustomError:
    context = {"given": name, "hint": f"reserved are {', '.join(sorted(words))}"}
    return PydanticCustomError("name_reserved", "`{given}` is a reserved word", context)
