"""The whole plugin mechanism: a family is a folder, a kind is one file in it, and the file's name is the word a spec uses.

`kind: forward-kl` under an objective imports `kdbuild/objectives/forward_kl.py` and nothing else. The file holds one class that
extends its family's base. Files whose name starts with `_` are not kinds.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from kdbuild.errors import MissingPackage


class Model(BaseModel):
    """Base of everything a spec holds: frozen, unknown keys refused, each field documented by the string under it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Knob:
    """Marks a field that says how or where a result is computed, never what it is; `why` says why it cannot change the result."""

    why: str


class Kind(Model):
    """One word usable in a spec: the configuration, and the implementation or the way to open it."""

    kind: str
    """Name of the kind: the file's name with `-` for `_`."""

    family: ClassVar[str]
    """Name of the folder the kind lives in."""
    kind_revision: ClassVar[int] = 1
    """Raised when the same configuration gives other bytes than before; part of what makes a stage stale."""
    source: ClassVar[str | None] = None
    """Paper and equation; None for what is our own."""
    block: ClassVar[str | None] = None
    """The survey block it implements, as `gen.evol`."""
    needs_packages: ClassVar[tuple[tuple[str, str], ...]] = ()
    """(module, what to pip install) for packages that do not come with kdbuild itself."""

    def identity(self) -> dict[str, Any]:
        """Return what defines the result: every field but knobs, at every depth, and the kind's revision."""
        return {**identity(self), "kind_revision": self.kind_revision}

    def require_packages(self) -> None:
        """Raise MissingPackage, with the command that installs it, for the first package that is not there."""
        for module, requirement in self.needs_packages:
            if importlib.util.find_spec(module) is None:
                raise MissingPackage(
                    f"{singular(self.family)} `{self.kind}` needs {module}, which is not installed",
                    hint=f"pip install '{requirement}'",
                )


def identity(model: BaseModel) -> dict[str, Any]:
    """Return the fields of `model` that are not knobs, at every depth, as plain JSON values."""
    return {
        field.alias or name: _plain(getattr(model, name))
        for name, field in type(model).model_fields.items()
        if not any(isinstance(mark, Knob) for mark in field.metadata)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Kind):
        return value.identity()
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    return value


def knobs(model: type[BaseModel]) -> dict[str, str]:
    """Return the knobs of `model`, each with the reason why it cannot change a result."""
    return {name: mark.why for name, field in model.model_fields.items() for mark in field.metadata if isinstance(mark, Knob)}


def singular(family: str) -> str:
    """Return what one kind of `family` is called in a sentence."""
    return {"students": "student", "seeds": "seeds kind"}.get(family, family.removesuffix("s"))


@cache
def available(family: str) -> tuple[str, ...]:
    """Return the kinds of a family, sorted: the files of its folder."""
    folder = Path(__file__).parent / family
    return tuple(sorted(f.stem.replace("_", "-") for f in folder.glob("*.py") if not f.stem.startswith("_")))


@cache
def load(family: str, kind: str) -> type[Kind]:
    """Import the one file that holds `kind` and return its class.

    Raises:
        LookupError: the family has no such kind.
        TypeError: the file does not hold exactly one kind of that name (a defect in the file).
    """
    if kind not in available(family):
        raise LookupError(kind)
    module = importlib.import_module(f"kdbuild.{family}.{kind.replace('-', '_')}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Kind) and value.__module__ == module.__name__
    ]
    if len(found) != 1 or found[0].model_fields["kind"].default != kind:
        raise TypeError(f"{module.__file__} must define exactly one kind, with `kind: Literal[{kind!r}] = {kind!r}`")
    return found[0]


def parse(family: str, value: Mapping[str, Any]) -> Any:
    """Return the kind that `value` (a mapping with `kind`, as `identity` wrote it) describes."""
    given = {key: item for key, item in value.items() if key != "kind_revision"}
    return load(family, str(given["kind"])).model_validate(given)


def nearest(word: str, words: tuple[str, ...] | list[str]) -> str | None:
    """Return the one of `words` a person who wrote `word` probably meant, or None."""
    plain = {_plain_word(known): known for known in reversed(words)}
    found = difflib.get_close_matches(_plain_word(word), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def _plain_word(word: str) -> str:
    return word.lower().replace("_", "-")


class OneOf:
    """Annotation for a field that holds one kind of one or several families: `Annotated[Objective, OneOf("objectives")]`."""

    def __init__(self, *families: str) -> None:
        """`families` have no kind's name in common."""
        self.families = families

    @property
    def what(self) -> str:
        """What such a kind is called in a sentence."""
        return " or ".join(singular(family) for family in self.families)

    def available(self) -> tuple[str, ...]:
        """Return the kinds that are possible here."""
        return tuple(kind for family in self.families for kind in available(family))

    def load(self, kind: str) -> type[Kind]:
        """Return the class of a kind.

        Raises:
            LookupError: none of the families has such a kind.
        """
        return load(next((family for family in self.families if kind in available(family)), self.families[0]), kind)

    def _narrow(self, value: Any) -> Kind:
        if isinstance(value, Kind):
            return value
        context = {"what": self.what, "one_of": self}
        if not isinstance(value, Mapping) or "kind" not in value:
            raise PydanticCustomError("kind_missing", "{what} needs a `kind`", context)
        try:
            found = self.load(str(value["kind"]))
        except LookupError:
            raise PydanticCustomError("kind_unknown", "no {what} named `{given}`", {**context, "given": str(value["kind"])}) from None
        # Kinds as resolved.json holds them carry the revision they were written with; it is identity, not a field.
        return found.model_validate({key: item for key, item in value.items() if key != "kind_revision"})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate by the named kind's own model, so that errors keep the path inside it."""
        return core_schema.no_info_plain_validator_function(self._narrow)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the union of every kind that is possible."""
        return {"oneOf": [handler(self.load(kind).__pydantic_core_schema__) for kind in self.available()]}


class Reading(Model):
    """Base of a section of resolved.json: built by compile, read back by the stage that it defines."""

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Self:
        """Read a section back; `_key` belongs to DVC."""
        return cls.model_validate({key: value for key, value in section.items() if key != "_key"})
