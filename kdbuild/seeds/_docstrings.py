"""The documentation inside Python source files. They are parsed, never imported or run."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import platform
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from kdbuild.errors import SourceError

PYTHON = "python"
"""What the standard library is called where a package is named."""

# fmt: off
STANDARD_MODULES = (
    "abc", "argparse", "ast", "asyncio", "base64", "bdb", "bisect", "calendar", "cmd", "code", "codecs", "collections", "colorsys",
    "configparser", "contextlib", "contextvars", "copy", "csv", "dataclasses", "difflib", "dis", "email", "enum", "filecmp",
    "fileinput", "fnmatch", "fractions", "ftplib", "functools", "getopt", "getpass", "gettext", "glob", "graphlib", "gzip", "hashlib",
    "heapq", "hmac", "html", "http", "imaplib", "inspect", "io", "ipaddress", "json", "keyword", "linecache", "locale", "logging",
    "lzma", "mailbox", "mimetypes", "netrc", "numbers", "operator", "os", "pathlib", "pickle", "pkgutil", "platform", "plistlib",
    "poplib", "pprint", "profile", "pstats", "queue", "quopri", "random", "re", "reprlib", "sched", "secrets", "selectors", "shelve",
    "shlex", "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "statistics", "string", "struct", "subprocess",
    "tarfile", "tempfile", "textwrap", "threading", "timeit", "token", "tokenize", "trace", "traceback", "types", "typing", "unittest",
    "urllib", "uuid", "venv", "warnings", "wave", "weakref", "webbrowser", "wsgiref", "xml", "zipapp", "zipfile", "zipimport",
    "zoneinfo",
)
# fmt: on
"""Well-known modules of the standard library; a change of this list is a change of the kind's revision."""


def version_of(package: str) -> str:
    """Return the version of an installed package, by import name, or of this Python for `python`.

    Raises:
        SourceError: it is not installed.
    """
    if package == PYTHON:
        return platform.python_version()
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        pass
    distributions = sorted(set(metadata.packages_distributions().get(package, ())))  # `yaml` is what PyYAML installs
    if not distributions:
        raise SourceError(
            f"package `{package}` is not installed", hint=f"pip install the package that `import {package}` finds, or name another"
        )
    versions = [metadata.version(name) for name in distributions]
    if len(versions) == 1:
        return versions[0]
    return ", ".join(f"{name} {version}" for name, version in zip(distributions, versions, strict=True))


def files_of(package: str, modules: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield (module name, source file) of the public modules of a package, sorted by name.

    `modules` limits them to these and what lies below them.

    Raises:
        SourceError: the package, or one of `modules`, is not there or has no Python source.
    """
    if package == PYTHON:
        folder = Path(sysconfig.get_path("stdlib"))
        wanted = modules or [name for name in STANDARD_MODULES if _source(folder, name)]
    else:
        folder = _folder(package)
        wanted = modules or [package]
    found: dict[str, Path] = {}
    for name in wanted:
        source = _source(folder, name)
        if source is None:
            what = "the standard library" if package == PYTHON else package
            raise SourceError(
                f"{what} has no module `{name}` with Python source", hint="modules written in C have no documentation in source files"
            )
        found.update(_below(name, source))
    yield from sorted(found.items())


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # of a top-level name: looks for it, imports nothing
    origin = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    if origin is None or origin.suffix != ".py":
        raise SourceError(f"package `{package}` has no Python source to read documentation from")
    return origin.parent.parent if origin.name == "__init__.py" else origin.parent


def _source(folder: Path, name: str) -> Path | None:
    place = folder.joinpath(*name.split("."))
    for candidate in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if candidate.is_file():
            return candidate
    return None


def _below(name: str, source: Path) -> Iterator[tuple[str, Path]]:
    yield name, source
    if source.name != "__init__.py":
        return
    for path in sorted(source.parent.iterdir()):
        below = _source(source.parent, path.stem) if path.suffix in ("", ".py") else None
        if below is not None and not path.name.startswith("_") and path.stem.isidentifier() and path.stem not in ("test", "tests"):
            yield from _below(f"{name}.{path.stem}", below)


def docstrings(module: str, source: Path) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, cleaned docstring) of a module and of its public classes, functions and methods that have one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how the source is written is its author's business
        try:
            with tokenize.open(source) as file:
                tree = ast.parse(file.read())
        except (SyntaxError, ValueError):  # a template, or written for another Python: no documentation to be had
            return
    yield from _documented(module, tree)


def _documented(name: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node, clean=False)
    if text:
        yield name, inspect.cleandoc(text).encode("utf-8", "ignore").decode("utf-8")
    if isinstance(node, (ast.Module, ast.ClassDef)):
        for child in _definitions(node.body):
            if not child.name.startswith("_"):
                yield from _documented(f"{name}.{child.name}", child)


def _definitions(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for statement in body:
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield statement
        elif isinstance(statement, ast.If):
            yield from _definitions([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.Try):
            yield from _definitions([*statement.body, *(s for handler in statement.handlers for s in handler.body), *statement.orelse])


def cut(text: str, min_chars: int, max_chars: int) -> str:
    """Return the beginning of `text`, at most `max_chars` long: whole paragraphs, else whole sentences, else whole words."""
    if len(text) <= max_chars:
        return text
    for pattern in (r"\n\s*\n", r"[.!?](?=\s)", r"\s"):
        ends = [match.start() + len(match.group().strip()) for match in re.finditer(pattern, text[: max_chars + 1])]
        fitting = [end for end in ends if min_chars <= len(text[:end].rstrip()) and end <= max_chars]
        if fitting:
            return text[: fitting[-1]].rstrip()
    return text[:max_chars].rstrip()
