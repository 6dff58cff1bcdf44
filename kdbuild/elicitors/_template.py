"""Prompt templates: Jinja in a sandbox, from the package or from the project, without includes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kdbuild.elicitors import Fault
from kdbuild.errors import SpecError
from kdbuild.inside import inside

_NO_TEMPLATE = "it is not a Jinja template"


@dataclass(frozen=True)
class Prompt:
    """A compiled template and the name people know it by."""

    name: str
    compiled: Template

    def render(self, row: str, values: Mapping[str, Any]) -> str:
        """Return the text for one row.

        Raises:
            SpecError: the template uses what the row does not have, or what the sandbox forbids.
        """
        try:
            return self.compiled.render(values)
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise SpecError(
                f"{self.name}{_line_of(error)}: {cause} (row `{row}`)", hint=f"it may use: {', '.join(sorted(values))}"
            ) from error


def shipped(path: Path) -> Prompt:
    """Return a template of the package."""
    return _compile(path, path.name, 0)


def of_project(root: Path, path: str) -> Prompt:
    """Return a template of the project.

    Raises:
        SpecError: it is not inside the project, not there, not UTF-8, or not a template.
    """
    found = inside(root, path)
    return _compile(found, path, found.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def of_text(text: str, name: str) -> Prompt:
    """Return the template that a spec holds as a text; `name` is what an error calls it.

    Raises:
        SpecError: it is not a template.
    """
    return _parsed(text, name)


def faults(root: Path, at: tuple[str | int, ...], text: str, *, is_path: bool) -> Iterator[Fault]:
    """Yield what is wrong with a template that field `at` holds or, where `is_path`, names; one that is not there is told elsewhere."""
    if not is_path:
        try:
            _environment().compile(text)
        except TemplateSyntaxError as error:
            yield Fault(at, f"line {error.lineno} of the text: {error.message}", _NO_TEMPLATE)
        return
    try:
        path = inside(root, text)
    except SpecError:
        return
    try:
        _environment().compile(path.read_text(encoding="utf-8"))
    except TemplateSyntaxError as error:
        yield Fault(at, f"{text}:{error.lineno}: {error.message}", _NO_TEMPLATE, own_place=True)
    except (OSError, UnicodeDecodeError):
        yield Fault(at, f"`{text}` cannot be read", "a template is a UTF-8 text file")


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined)  # prompts are text, not HTML: nothing is escaped


@lru_cache(maxsize=64)
def _compile(path: Path, name: str, version: int) -> Prompt:
    """`version` is there so that a file edited in between is compiled again."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{name} cannot be read: {error}", hint="a template is a UTF-8 text file") from error
    return _parsed(text, name)


def _parsed(text: str, name: str) -> Prompt:
    try:
        return Prompt(name, _environment().from_string(text))
    except TemplateSyntaxError as error:
        raise SpecError(f"{name}:{error.lineno}: {error.message}", hint=_NO_TEMPLATE) from error


def _line_of(error: BaseException) -> str:
    """Return `:line` of the template where an error came from."""
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
