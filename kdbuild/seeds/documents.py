"""Seeds from documents: files of the project, or what an installed Python package, or Python itself, says about its public names."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.errors import SourceError
from kdbuild.records import Message, Row
from kdbuild.seeds import Seeds
from kdbuild.seeds._chunks import chunks
from kdbuild.seeds._docstrings import cut, docstrings, files_of, version_of
from kdbuild.seeds._documents import check_documents, documents, folder_of
from kdbuild.seeds._files import Place
from kdbuild.seeds._rows import named

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
    """Passages: chunks of the project's files, or a package's documentation.

    `path` gives a row for each chunk of text, Markdown, HTML, code or JSONL (`text`, and `id`), named by the digest of its text; rows
    have a prompt only where `prompt` makes one. `package` gives a row for each public module, class, function and method that has a
    docstring, named by its qualified name. The source files are parsed, not imported. What they say depends on the version, which is
    therefore part of what makes a build stale.
    """

    block: ClassVar[str | None] = "seed.docs"

    kind: Literal["documents"] = "documents"
    path: Annotated[str, AfterValidator(check_documents)] | None = None
    """A folder or file of the project, or a pattern below a folder (`docs/**/*.md`)."""
    chunk_chars: int = Field(1000, ge=32)
    """With `path`: longest chunk. It ends with a section, paragraph, sentence or word, code with a function or a blank line."""
    package: Annotated[str, AfterValidator(check_package)] | None = None
    """Import name of an installed package, or `python` for the standard library."""
    version: str | None = None
    """With `package`: the version that must be installed; absent: the one that is."""
    modules: list[Annotated[str, AfterValidator(check_module)]] = []
    """With `package`: modules to read, with what is below them; absent: the whole package, or the well-known modules of the standard
    library."""
    prompt: Annotated[str, AfterValidator(check_prompt)] | None = None
    """The user's turn: `{name}` is the qualified name, or the file's path, `{text}` the passage. Absent: a request to explain it with
    `package`, none with `path`."""
    min_chars: int = Field(160, ge=1)
    """Shorter documentation, or a shorter chunk, is left out."""
    max_chars: int = Field(640, ge=1)
    """With `package`: longer documentation is cut after a paragraph, a sentence or a word."""
    max_rows: int | None = Field(None, ge=1)
    """At most so many rows, drawn by their ids."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.package is None):
            raise PydanticCustomError("documents_place", "documents have either a `path` (of the project) or a `package`")
        if self.path is not None and (self.version is not None or self.modules):
            raise PydanticCustomError("documents_package_only", "`version` and `modules` go with `package`, not with `path`")
        most, name = (self.max_chars, "max_chars") if self.path is None else (self.chunk_chars, "chunk_chars")
        if self.min_chars > most:
            raise PydanticCustomError(
                "documents_chars", "min_chars {least} is more than {name} {most}", {"least": self.min_chars, "name": name, "most": most}
            )
        return self

    @property
    def writes(self) -> tuple[str, ...]:
        """Return what the rows have; those of files have a prompt only where the spec makes one."""
        if self.path is None:
            return ("prompt", "context")
        return (*(["prompt"] if self.prompt else []), "context", "meta")

    def files(self) -> tuple[str, ...]:
        """Return the file or folder; nothing for a package, which lies outside the project."""
        return () if self.path is None else (folder_of(self.path),)

    def outside(self) -> dict[str, Any] | None:
        """Return the package and the version that is installed.

        Raises:
            SourceError: the package is not installed, or not in the version the spec asks for.
        """
        if self.package is None:
            return None
        found = version_of(self.package)
        if self.version is not None and found != self.version:
            raise SourceError(
                f"the spec asks for the documentation of {self.package} {self.version}; installed is {found}",
                hint=f"use an environment with {self.package} {self.version}, or write `version: '{found}'`",
            )
        return {"package": self.package, "version": found}

    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the rows, sorted by name or by file and place or, with `max_rows`, in the order they were drawn.

        Raises:
            SourceError: what is to be read is not there, or nothing in it has `min_chars` or more.
            RowError: a file is not what its name says; names file:line.
        """
        found = list(self._of_package(self.package) if self.package is not None else self._of_files(root, self.path or ""))
        if not found:
            what = self.package or self.path
            raise SourceError(f"nothing in {what} has documentation of {self.min_chars} characters or more", hint="lower `min_chars`")
        if self.max_rows is not None:
            found = sorted(found, key=lambda row: canonical.fraction("documents", row.id))[: self.max_rows]
        yield from found

    def _of_files(self, root: Path, path: str) -> Iterator[Row]:
        def read() -> Iterator[tuple[Place, Row]]:
            for name, (place, doc_id, text, boundaries) in documents(root, path):
                for part in chunks(text, self.chunk_chars, boundaries):
                    if len(part) >= self.min_chars:
                        messages = (Message("user", self.prompt.format(name=name, text=part)),) if self.prompt else ()
                        passage = {"doc_id": doc_id or None, "text": part, "score": None}
                        yield place, Row("", messages, context=(passage,), meta={"document": name})

        # The same text in two files is two rows of one text; neither is named by where it lies.
        for row in named(read(), lambda row: {"text": row.context[0]["text"]}):
            yield replace(row, context=({**row.context[0], "doc_id": row.context[0]["doc_id"] or row.id},))

    def _of_package(self, package: str) -> Iterator[Row]:
        self.outside()
        texts: dict[str, str] = {}
        for module, source in files_of(package, self.modules):
            for name, text in docstrings(module, source):
                # A name defined twice, once a platform, or a property with its setter: the first documentation stands.
                texts.setdefault(name, text)
        for name in sorted(name for name, text in texts.items() if len(text) >= self.min_chars):
            yield self._row(name, cut(texts[name], self.min_chars, self.max_chars))

    def _row(self, name: str, text: str) -> Row:
        prompt = (self.prompt or PROMPT).format(name=name, text=text)
        return Row(name, (Message("user", prompt),), context=({"doc_id": name, "text": text, "score": None},))
