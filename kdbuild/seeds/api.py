"""Seeds from APIs: functions of a Python file or an installed package, a list of tools, an OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.errors import SourceError
from kdbuild.records import Row
from kdbuild.seeds import Seeds
from kdbuild.seeds._docstrings import cut, files_of, version_of
from kdbuild.seeds._fields import tool
from kdbuild.seeds._files import Place
from kdbuild.seeds._rows import named, own_id
from kdbuild.seeds._tools import of_python, read_tools
from kdbuild.spec.sources import check_path

SUFFIXES = (".py", ".yaml", ".yml", ".json", ".jsonl")


def check_tools(path: str) -> str:
    """Return the path of a file of tools inside the project."""
    path = check_path(path)
    if Path(path).suffix.lower() not in SUFFIXES:
        hint = "a Python file, a YAML, JSON or JSONL list of tools, or an OpenAPI description"
        raise PydanticCustomError(
            "api_format", "`{path}` is not a {suffixes} file", {"path": path, "suffixes": ", ".join(SUFFIXES), "hint": hint}
        )
    return path


def check_module(name: str) -> str:
    """Return a dotted name of a module in a package of its own, or of the standard library."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise PydanticCustomError("api_module", "`{name}` is not the name of a Python module", {"name": name})
    return name


class Api(Seeds):
    """One row for each function or operation, with nothing but its `tool`: name, description, parameters (a JSON schema as text), returns
    and, for Python, the callable: `module:function`, or `path.py:function` of the project.

    A row's id is the tool's name. Python files are parsed, not imported; a YAML, JSON or JSONL list has objects with `name`,
    `description`, `parameters`, `returns` and `callable`.
    """

    block: ClassVar[str | None] = "seed.api"

    kind: Literal["api"] = "api"
    path: Annotated[str, AfterValidator(check_tools)] | None = None
    """A file of the project: .py, .yaml, .json or .jsonl; a .yaml or .json with `openapi` or `swagger` is an OpenAPI description."""
    package: Annotated[str, AfterValidator(check_module)] | None = None
    """A module of an installed package (`numpy.linalg`) or of Python itself (`python.statistics`) with Python source."""
    version: str | None = None
    """With `package`: the version that must be installed; absent: the one that is."""
    names: list[str] = []
    """Only these; absent: every public one."""
    max_chars: int = Field(600, ge=16)
    """A longer description is cut after a paragraph, a sentence or a word."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.package is None):
            raise PydanticCustomError("api_place", "an API is read from either a `path` (of the project) or a `package`")
        if self.path is not None and self.version is not None:
            raise PydanticCustomError("api_version", "`version` goes with `package`, not with `path`")
        return self

    @property
    def writes(self) -> tuple[str, ...]:
        """Return `tool`."""
        return ("tool",)

    def files(self) -> tuple[str, ...]:
        """Return the file, where it is one of the project."""
        return () if self.path is None else (self.path,)

    def outside(self) -> dict[str, Any] | None:
        """Return the package and the version that is installed.

        Raises:
            SourceError: the package is not installed, or not in the version the spec asks for.
        """
        if self.package is None:
            return None
        top = self.package.partition(".")[0]
        found = version_of(top)
        if self.version is not None and found != self.version:
            raise SourceError(
                f"the spec asks for {top} {self.version}; installed is {found}",
                hint=f"use an environment with {top} {self.version}, or write `version: '{found}'`",
            )
        return {"package": self.package, "version": found}

    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the rows in the order of the file.

        Raises:
            SourceError: the file or module is not there, or has none of the `names`.
            RowError: a tool is not what it should be; names file:line.
        """
        found = list(read_tools(root / self.path, self.path) if self.path is not None else self._of_package(self.package or ""))
        known = [str(record.get("name")) for _, record in found]
        if not found or (missing := [name for name in self.names if name not in known]):
            what = f"no `{missing[0]}`" if found else "no public function"
            hint = f"it has: {', '.join(known[:20])}" if known else "functions on its outer level whose name has no `_` before it are read"
            raise SourceError(f"{self.path or self.package} has {what}", hint=hint)
        wanted = [(place, record) for place, record in found if not self.names or record.get("name") in self.names]
        return named((place, self._row(record, place)) for place, record in wanted)

    def _of_package(self, package: str) -> Iterator[tuple[Place, dict[str, Any]]]:
        self.outside()
        top, _, below = package.partition(".")
        module = below if top == "python" else package
        files = dict(files_of(top, [module] if module else []))
        if module not in files:
            raise SourceError(f"`{package}` names no module", hint="of Python itself, name the module: `python.statistics`")
        yield from of_python(files[module], module, module)

    def _row(self, record: dict[str, Any], place: Place) -> Row:
        found = tool(record, place, "tool")
        if len(found.get("description", "")) > self.max_chars:
            found["description"] = cut(found["description"], 1, self.max_chars)
        given = record.get("id")
        return Row(own_id(found["name"] if given is None else given, place), tool=found)
