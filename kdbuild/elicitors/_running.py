"""What the operators that run programs have in common: what a run may use, and which part of a reply is the program."""

from __future__ import annotations

import re

from pydantic import Field

from kdbuild.elicitors._asking import Asking
from kdbuild.kinds import Model
from kdbuild.sandbox import Limits, Outcome

_FENCE = re.compile(r"^[ \t]*```[ \t]*([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_PYTHON = ("python", "python3", "py")
_CODE_LINE = re.compile(
    r"#|@\w|(?:import|from|def|class|async|for|while|if|with|try|assert|return|global)\b.*|\w+\s*\(.*\)\s*$|[\w.,\[\] ]+?\s*[-+*/]?=[^=]"
)
_WALL_PER_CPU = 5


class Limited(Model):
    """Base of what runs programs or tools, each in the sandbox (`kdbuild.sandbox`)."""

    cpu_s: int = Field(2, ge=1, le=600)
    """Seconds of processor time a run may take; five times as many may pass."""
    memory_mib: int = Field(256, ge=64)
    """Memory a run may use, Python's own 30 MiB included."""

    @property
    def limits(self) -> Limits:
        """What a run may use."""
        return Limits(cpu_s=self.cpu_s, wall_s=_WALL_PER_CPU * self.cpu_s, memory_mib=self.memory_mib)


class Running(Limited, Asking):
    """Base of operators that run what a teacher wrote."""


def program_in(text: str) -> str | None:
    """Return the Python program of a reply: its first block fenced as Python, else its first fenced block, else all of it where it begins
    as code does; None where there is none. Whether it really is one, running it says.
    """
    blocks = [(match[1].strip().lower(), match[2]) for match in _FENCE.finditer(text)]
    chosen = [code for language, code in blocks if language in _PYTHON] or [code for _, code in blocks]
    found = chosen[0] if chosen else _bare(text)
    return found.strip("\n").rstrip() or None if found else None


def _bare(text: str) -> str | None:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return text if _CODE_LINE.match(first) else None


def fenced(program: str) -> str:
    """Return a program as a turn of a conversation shows it."""
    return f"```python\n{program}\n```"


def result_of(outcome: Outcome) -> str | None:
    """Return what a program came to: its value, else the last line that it printed; None where there is neither."""
    if outcome.value is not None and outcome.value.strip():
        return outcome.value.strip()
    printed = [line.strip() for line in outcome.stdout.splitlines() if line.strip()]
    return printed[-1] if printed else None


def error_of(outcome: Outcome) -> str:
    """Return what a person is told of a run that failed: the error with its lines, else why it was stopped."""
    return outcome.stderr.strip() or f"The program {outcome.reason}."
