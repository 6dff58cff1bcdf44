"""What is wrong with a spec or params.yaml, and how it is told: `file:line`, the line itself, the cause, a hint."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kdbuild.spec.document import Document

At = tuple[str | int, ...]
"""Path inside a file: keys and list positions."""

SNIPPET_CHARACTERS = 160
_SECRET = re.compile(r"""((?:api[_-]?key|secret|password|passwd|access[_-]?token|auth[_-]?token)["']?\s*:\s*)[^\s,}].*""", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, at a path."""

    at: At
    message: str
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"
    line: int | None = None
    """Line where it is known better than by the path."""
    file: Literal["spec", "params", "other"] = "spec"
    """The file `at` is a path in; `other`: the message itself names its file and line."""

    @property
    def is_error(self) -> bool:
        """Whether nothing can be built."""
        return self.severity == "error"


def dotted(at: At) -> str:
    """Return a path as people write it: `phases.sft.elicit[0].max_new_tokens`."""
    text = ""
    for step in at:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if re.fullmatch(r"[\w-]+", step) else f'."{step}"'
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """Return a value for a sentence: what it is and, where short, what it says."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = " ".join(str(value).split())
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"the text `{text}`" if isinstance(value, str) else f"`{text}`"


def render(problem: Problem, document: Document) -> str:
    """Return the problem as lines of text, without a final newline."""
    line = problem.line if problem.line is not None else document.line_of(problem.at)
    place = document.name if line is None else f"{document.name}:{line}"
    at = f"{dotted(problem.at)}: " if problem.at else ""
    warning = "" if problem.is_error else "warning: "
    said = problem.message if problem.file == "other" else f"{place}: {at}{problem.message}"
    text = [warning + said]
    if problem.file != "other" and line is not None and line <= len(document.lines):
        text.append(f"{line:>5} | {_snippet(document.lines[line - 1])}".rstrip())
    if problem.hint:
        text.append(f"hint: {problem.hint}")
    return "\n".join(text)


def _snippet(line: str) -> str:
    """A line of the file, without what must not reach a log: secrets, control characters, megabytes."""
    line = _SECRET.sub(r"\1***", line)
    line = "".join(c if c.isprintable() else " " for c in line)
    return line if len(line) <= SNIPPET_CHARACTERS else line[: SNIPPET_CHARACTERS - 3] + "..."
