"""Seeds from documentation: what an installed Python package, or Python itself, says about its public names."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.errors import SourceError
from kdbuild.records import Message, Row
from kdbuild.seeds import Seeds
from kdbuild.seeds._docstrings import cut, docstrings, files_of, version_of

PROMPT = "Here is the documentation of `{name}` in Python:\n\n{text}\n\nExplain in two or three sentences what it does and when to use it."


def check_prompt(prompt: str) -> str:
    """Return a prompt whose only fields are `{name}` and `{text}`, the latter at least once."""
    try:
        fields = {field for _, field, spec, conversion in string.Formatter().parse(prompt) if field is not None or spec or conversion}
        plain = fields <= {"name", "text"} and not re.search(r"\{(name|text)[!:]", prompt)
    except ValueError:
        fields, plain = set(), False
    if not plain or "text" not in fields:
        raise PydanticCustomError(
            "documents_prompt",
            "a prompt holds `{text}`, may hold `{name}`, and no other braces",
            {"hint": "write `{{` and `}}` for braces that are meant as they are"},
        )
    return prompt


def check_module(name: str) -> str:
    """Return a dotted Python name."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise PydanticCustomError("documents_module", "`{name}` is not the name of a Python module", {"name": name})
    return name


def check_package(name: str) -> str:
    """Return the name of a top-level package."""
    if not name.isidentifier():
        raise PydanticCustomError(
            "documents_package",
            "`{name}` is not a name that `import` takes",
            {"name": name, "hint": "name it as it is imported (`yaml`, not `PyYAML`); parts of it go under `modules`"},
        )
    return name


class Documents(Seeds):
    """One row for each public module, class, function and method that has a docstring; its id is its qualified name.

    The source files are parsed, not imported. What they say depends on the version, which is therefore part of what makes a build stale.
    """

    block: ClassVar[str | None] = "seed.docs"

    kind: Literal["documents"] = "documents"
    package: Annotated[str, AfterValidator(check_package)]
    """Import name of an installed package, or `python` for the standard library."""
    version: str | None = None
    """The version that must be installed; absent: the one that is."""
    modules: list[Annotated[str, AfterValidator(check_module)]] = []
    """Modules to read, with what is below them; absent: the whole package, or the well-known modules of the standard library."""
    prompt: Annotated[str, AfterValidator(check_prompt)] = PROMPT
    """The user's turn: `{name}` is the qualified name, `{text}` its documentation."""
    min_chars: int = Field(160, ge=1)
    """Shorter documentation is left out."""
    max_chars: int = Field(640, ge=1)
    """Longer documentation is cut after a paragraph, a sentence or a word."""
    max_rows: int | None = Field(None, ge=1)
    """At most so many rows, drawn by their names."""

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.min_chars > self.max_chars:
            raise PydanticCustomError(
                "documents_chars", "min_chars {least} is more than max_chars {most}", {"least": self.min_chars, "most": self.max_chars}
            )
        return self

    def files(self) -> tuple[str, ...]:
        """Return nothing: a package lies outside the project."""
        return ()

    def outside(self) -> dict[str, Any] | None:
        """Return the package and the version that is installed.

        Raises:
            SourceError: the package is not installed, or not in the version the spec asks for.
        """
        found = version_of(self.package)
        if self.version is not None and found != self.version:
            raise SourceError(
                f"the spec asks for the documentation of {self.package} {self.version}; installed is {found}",
                hint=f"use an environment with {self.package} {self.version}, or write `version: '{found}'`",
            )
        return {"package": self.package, "version": found}

    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the rows, sorted by name or, with `max_rows`, in the order they were drawn.

        Raises:
            SourceError: the package or a module is not there, or nothing in it is documented at `min_chars` or more.
        """
        self.outside()
        texts: dict[str, str] = {}
        for module, source in files_of(self.package, self.modules):
            for name, text in docstrings(module, source):
                # A name defined twice, once a platform, or a property with its setter: the first documentation stands.
                texts.setdefault(name, text)
        names = sorted(name for name, text in texts.items() if len(text) >= self.min_chars)
        if not names:
            raise SourceError(
                f"nothing in {self.package} has documentation of {self.min_chars} characters or more", hint="lower `min_chars`"
            )
        if self.max_rows is not None:
            names = sorted(names, key=lambda name: canonical.fraction("documents", name))[: self.max_rows]
        for name in names:
            yield self._row(name, cut(texts[name], self.min_chars, self.max_chars))

    def _row(self, name: str, text: str) -> Row:
        prompt = self.prompt.format(name=name, text=text)
        return Row(name, (Message("user", prompt),), context=({"doc_id": name, "text": text, "score": None},))
