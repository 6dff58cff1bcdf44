"""Documents among the project's files: which files a path names, and the text in each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic_core import PydanticCustomError

from kdbuild.errors import RowError, SourceError
from kdbuild.seeds import _chunks, _html
from kdbuild.seeds._fields import clean
from kdbuild.seeds._files import READERS, Place, read_records, shorten
from kdbuild.seeds._rows import own_id
from kdbuild.spec.sources import check_path

TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst", ".tex")
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
# fmt: off
CODE_SUFFIXES = (
    ".c", ".cc", ".cpp", ".cs", ".css", ".go", ".h", ".hpp", ".hs", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".m", ".ml", ".php",
    ".pl", ".pyi", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".tsx", ".yaml", ".yml", ".toml",
)
# fmt: on
SUFFIXES = (*TEXT_SUFFIXES, *HTML_SUFFIXES, ".py", *CODE_SUFFIXES, ".jsonl")
TEXT_COLUMNS = ("text", "contents", "content", "body")
"""Where the text of a record is, the first that it has."""

Document = tuple[Place, str, str, Callable[[str], _chunks.Boundaries]]
"""Where it stands, the id it gives itself (or empty), its text, and where that may be cut."""


def check_documents(path: str) -> str:
    """Return a path inside the project: a folder, a file that can be read, or a pattern below a folder."""
    path = check_path(path)
    if "*" in path or "?" in path or "[" in path:
        if not folder_of(path):
            raise PydanticCustomError(
                "documents_glob",
                "`{path}` begins with a wildcard",
                {"path": path, "hint": "name the folder before it: `docs/**/*.md`; the folder is what makes the build stale"},
            )
    elif "." in path.rpartition("/")[2] and Path(path).suffix.lower() not in SUFFIXES:
        raise PydanticCustomError(
            "documents_format",
            "`{path}` is not of a format that is read",
            {"path": path, "hint": "text, Markdown, HTML, code, or JSONL with a `text`"},
        )
    return path


def folder_of(path: str) -> str:
    """Return the file or folder that holds everything a path names: the path itself, or what comes before its first wildcard."""
    plain = re.split(r"[*?\[]", path, maxsplit=1)[0]
    return path if plain == path else plain.rpartition("/")[0]


def documents(root: Path, path: str) -> Iterator[tuple[str, Document]]:
    """Yield (the file's path in the project, document) of every file that `path` names, sorted by path.

    In a folder, hidden files and those of another format are passed over.

    Raises:
        SourceError: there is no such file or folder, nothing in it is read, or a file leaves the project.
        RowError: a file is not what its name says; names file:line.
    """
    names = sorted(_files(root, path))
    if not names:
        raise SourceError(f"seeds path {path} names no file that can be read", hint=f"files end in: {', '.join(SUFFIXES)}")
    for name in names:
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise SourceError(f"{name} leads out of the project", hint="copy what it links to into the project")
        for document in _read(root / name, name):
            yield name, document


def _files(root: Path, path: str) -> Iterator[str]:
    base = root / folder_of(path)
    if not base.exists():
        raise SourceError(f"seeds path {path} is not there", hint="correct `path:` (relative to the project's folder)")
    if base.is_file():
        yield path
        return
    wanted = {found.relative_to(root).as_posix() for found in root.glob(path)} if folder_of(path) != path else None
    for folder, below, names in os.walk(base):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in names:
            found = (Path(folder) / name).relative_to(root).as_posix()
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES and (wanted is None or found in wanted):
                yield found


def _read(path: Path, name: str) -> Iterator[Document]:
    suffix = path.suffix.lower()
    if suffix in READERS:
        yield from _records(path, name)
        return
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = 1 + raw.count(b"\n", 0, error.start)
        shown = shorten(raw[max(0, error.start - 40) : error.start + 40].decode("utf-8", "backslashreplace"))
        raise RowError(f"{name}:{line} is not UTF-8: {shown}", hint="save the file as UTF-8") from None
    if "\0" in text:
        raise RowError(f"{name}:{text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL character", hint="is it a text file?")
    if suffix in HTML_SUFFIXES:
        text = _html.text_of(text)
    in_code = _chunks.in_python if suffix == ".py" else _chunks.in_code
    yield name, "", text, _chunks.in_text if suffix in (*TEXT_SUFFIXES, *HTML_SUFFIXES) else in_code


def _records(path: Path, name: str) -> Iterator[Document]:
    for place, record in read_records(path, name):
        column = next((column for column in TEXT_COLUMNS if record.get(column) is not None), None)
        text = record[column] if column else None
        if column is None or not isinstance(text, str) or not text.strip():
            raise RowError(f"{place} has no text", hint=f"a document's text is its {', '.join(f'`{column}`' for column in TEXT_COLUMNS)}")
        given = record.get("id") if record.get("id") is not None else record.get("doc_id")
        yield place, own_id(given, place), clean(text, place, column), _chunks.in_text
