"""Whether a function that a spec names is there, found by reading the file: code of a project is never imported to check a spec."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbuild.elicitors import Fault
from kdbuild.errors import SpecError
from kdbuild.inside import inside
from kdbuild.kinds import nearest

_SHOWN = 12
_MAKES_NAMES = ("globals", "vars", "locals", "setattr", "exec")


@dataclass(frozen=True)
class _Names:
    """What a module or a class holds."""

    nodes: dict[str, ast.AST]
    """Each name to what made it."""
    is_open: bool
    """Whether there may be others, made while it runs."""


def faults(root: Path, at: tuple[str | int, ...], named: str) -> Iterator[Fault]:
    """Yield why `path.py:function` (of the project) or `package.module:function` names nothing; a file that is absent is told elsewhere."""
    place, _, function = named.partition(":")
    if not place.endswith(".py"):
        yield from _faults_of_module(at, place, function)
        return
    try:
        path = inside(root, place)
    except SpecError:
        return
    try:
        tree = ast.parse(path.read_bytes(), filename=place)
    except SyntaxError as error:
        yield Fault(at, f"{place}:{error.lineno or 1}: {error.msg}", "it is not Python", own_place=True)
    except (OSError, ValueError, RecursionError, MemoryError):
        yield Fault(at, f"`{place}` cannot be read", "a file of tools is Python, in UTF-8")
    else:
        yield from _lacking(at, place, tree, function)


def _faults_of_module(at: tuple[str | int, ...], module: str, function: str) -> Iterator[Fault]:
    top, *below = module.split(".")
    try:
        found = importlib.util.find_spec(top)  # of a name without a dot: nothing is imported
    except (ImportError, ValueError):
        found = None
    if found is None:
        yield Fault(at, f"no package `{top}` is installed", f"`pip install` it, or name a file of the project: `tools.py:{function}`")
        return
    path = _source(Path(found.origin), below) if found.origin and found.has_location else None
    if path is not None:
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return  # for another Python; whether it loads is told where it is loaded
        yield from _lacking(at, module, tree, function)


def _source(origin: Path, below: Sequence[str]) -> Path | None:
    """Return the Python file of a module below a package; None where it is not one (an extension, or made while the package loads)."""
    path = origin
    for name in below:
        folder = path.parent / name
        path = next((one for one in (folder / "__init__.py", folder.with_suffix(".py")) if one.is_file()), Path())
        if not path.name:
            return None
    return path if path.suffix == ".py" else None


def _lacking(at: tuple[str | int, ...], place: str, tree: ast.Module, function: str) -> Iterator[Fault]:
    """Yield that `function` (dotted for a method) is not in a module, where that is certain."""
    names, given = _names(tree.body), ""
    for part in function.split("."):
        node = names.nodes.get(part)
        if node is None:
            if not names.is_open:
                near, public = nearest(part, list(names.nodes)), [name for name in names.nodes if not name.startswith("_")]
                hint = f"did you mean `{near}`?" if near else f"it has: {', '.join(public[:_SHOWN]) or 'none'}"
                yield Fault(at, f"`{place}` has no function `{given}{part}`", hint)
            return
        if not isinstance(node, ast.ClassDef):
            return  # a function, or a value that only running the file tells
        names, given = _names(node.body, is_open=bool(node.bases or node.keywords or node.decorator_list)), f"{given}{part}."


def _names(body: Sequence[ast.stmt], *, is_open: bool = False) -> _Names:
    """Return what statements define at their own level, under `if`, `try`, `with` and loops too."""
    nodes: dict[str, ast.AST] = {}
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            nodes[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias in node.names:
                nodes[alias.asname or alias.name.partition(".")[0]] = node
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            nodes[node.id] = node
        elif not isinstance(node, ast.Lambda):
            waiting += reversed(list(ast.iter_child_nodes(node)))
    runs = any(isinstance(node, ast.Name) and node.id in _MAKES_NAMES for part in body for node in ast.walk(part))
    return _Names(nodes, is_open or runs or "*" in nodes or "__getattr__" in nodes)
