"""Running what a model wrote: programs and calls of tools, each in a process that can do nothing but compute.

    run([Program("answer = 6 * 7")])  ->  [Outcome(value="42", ...)]

A program is one process: no network, no new processes, no signals to others, one folder to write in, files of Python to read, an empty
environment, and bounded time, memory, disk and output. `_confine.py` says what of Linux gives each of these and what stands in where
it is not allowed. Where they cannot be had, nothing is run (`SANDBOX_VARIABLE` says how to go on).

What comes out is the same each time: texts have one hash, random numbers one seed, the time zone is UTC; addresses and paths are taken
out; and everything is run twice, in two processes, and refused if the results differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SANDBOX_VARIABLE = "KDBUILD_SANDBOX"
"""Environment variable: `weak` lets programs run on a machine that cannot confine them. A property of a machine, so no spec can set it."""

TIME = "took longer than its time"
MEMORY = "used more than its memory"
DISK = "filled its folder"
OUTPUT = "printed more than is kept"
NETWORK = "tried to reach the network"
PROCESS = "tried to start another process"
SIGNAL = "tried to signal another process"
FILES = "tried to use files that are not its own"
RIGHTS = "tried to change permissions or users"
SYSTEM = "made a system call that is not allowed"
INPUT = "asked for input"
CRASHED = "crashed"
ENDED = "was ended by a signal"
CODE = "ended with an error code"
SYNTAX = "is not a Python program"
SILENT = "ended without giving its result"
UNSTEADY = "gives another result when it is run again"
RAISED = "raised an error"
REASONS = (TIME, MEMORY, DISK, OUTPUT, NETWORK, PROCESS, SIGNAL, FILES, RIGHTS, SYSTEM, INPUT, CRASHED, ENDED, CODE, SYNTAX, SILENT, RAISED)
"""Why a program was stopped, or failed; `raised <name>` besides, for the exceptions that Python itself has."""


@dataclass(frozen=True)
class Limits:
    """What one run may use. They define a result, so whoever sets them keeps them among what identifies it."""

    cpu_s: int = 2
    """Seconds of processor time."""
    wall_s: int = 10
    """Seconds that pass. A busy machine makes these long, so they are several times `cpu_s`."""
    memory_mib: int = 256
    """Address space, Python itself included."""
    disk_mib: int = 16
    """All files of its folder together."""
    output_chars: int = 4096
    """Of each of its outputs and its value; more ends it."""


@dataclass(frozen=True)
class Program:
    """A Python program; its value is the first of `results` that it defines: a variable, or a function without arguments."""

    code: str
    results: tuple[str, ...] = ("answer", "solution")


@dataclass(frozen=True)
class Call:
    """A call of a function with named arguments; its value is what it returns: a text as it is, anything else as JSON or, where
    that cannot hold it, as `str` writes it.
    """

    function: str
    """Its name in the module."""
    arguments: str = "{}"
    """A JSON object."""
    code: str | None = None
    """The module, as text."""
    module: str | None = None
    """An installed module, where there is no `code`."""


Job = Program | Call


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    value: str | None
    """None where there is none."""
    stdout: str
    stderr: str
    """What it wrote, and the error it ended with: type, message, and lines of the program."""
    exit: int
    """Exit code; -n where signal n ended it."""
    reason: str | None
    """Why it is not a success, in the same words for the same cause; None where it is."""


def run(jobs: Sequence[Job], limits: Limits | None = None) -> list[Outcome]:
    """Run jobs, several at once, and return their outcomes in order; what was run before in this process is not run again.

    Raises:
        StageError: this machine cannot confine a program.
    """
    from kdbuild.sandbox._pool import run as run_all

    return run_all(jobs, limits or Limits())
