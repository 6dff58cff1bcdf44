"""The processes that run programs, kept while this one lives: starting Python takes longer than most programs."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import kdbuild
from kdbuild import sandbox
from kdbuild.errors import StageError
from kdbuild.sandbox import Call, Job, Limits, Outcome
from kdbuild.sandbox._confine import FOLDER

_START = "import sys; sys.path.insert(0, sys.argv[1]); from kdbuild.sandbox import _worker; del sys.path[0]; import ast; "
_START += "_worker.main(*ast.literal_eval(sys.argv[2]))"
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_GRACE_S = 120.0
"""How long a worker may take besides the program's own time, before it is given up."""
_CLOSE_S = 10.0
_KEPT = 4096
"""Outcomes remembered."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
_ADDRESS = re.compile(r"\b0x[0-9a-f]{6,16}\b")


class Worker:
    """One process that runs programs, one after the other."""

    def __init__(self, *, packages: bool, without: Sequence[str] = ()) -> None:
        """Start it; `packages` shows it installed packages, `without` leaves out means of confining, for tests.

        Raises:
            StageError: this machine cannot confine programs.
        """
        _check_system()
        weak = os.environ.get(sandbox.SANDBOX_VARIABLE) == "weak"
        arguments = [str(Path(kdbuild.__file__).parent.parent), repr((packages, weak, tuple(without)))]
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-B", "-c", _START, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        self.means = self._receive(_GRACE_S)
        """What the machine gives, or {} where the process did not even start."""
        if not self.means.get("is_enough") and not weak:
            self.close()
            _refuse(self.means)

    def run(self, job: Job, limits: Limits) -> Outcome:
        """Run one job.

        Raises:
            StageError: the process was lost, or a program could not be confined.
        """
        body = json.dumps({"job": asdict(job), "limits": asdict(limits)}).encode("utf-8", "replace")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(struct.pack("<I", len(body)) + body)
            self._process.stdin.flush()
        answer = self._receive(limits.wall_s + _GRACE_S)
        if not answer:
            self.close()
            raise StageError("the sandbox's process ended by itself", hint="is the machine out of memory? Build again to go on")
        return _outcome(answer, limits)

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next message, or {} where none comes."""
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], timeout_s)[0]:
            return {}
        head = out.read(4)
        body = out.read(struct.unpack("<I", head)[0]) if len(head) == 4 else b""
        found: dict[str, Any] = json.loads(body) if body else {}
        return found

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(_CLOSE_S)  # it ends with its input, and takes its folder away first
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _check_system() -> None:
    if sys.platform != "linux":
        raise StageError(
            f"programs that a model wrote are run on Linux only, since {sys.platform} has no seccomp and no Landlock",
            hint="run the stage in a Linux container, or leave out `pot`, `trajectory` and `revise: {against: execution}`",
        )


def _refuse(means: dict[str, Any]) -> None:
    lacks = "; ".join(means.get("lacks", ())) or "a Python that starts without site packages"
    raise StageError(
        f"this machine cannot confine programs that a model wrote; it lacks {lacks}",
        hint=f"a container gets them with `--security-opt seccomp=unconfined` or a newer runtime; {sandbox.SANDBOX_VARIABLE}=weak in the "
        "environment runs them all the same, with limits of time and memory alone",
    )


# --- what came of a run -------------------------------------------------------------------------------------------------


def _outcome(answer: dict[str, Any], limits: Limits) -> Outcome:
    report = _report(answer["report"])
    if "unconfined" in report:
        raise StageError(f"a program could not be confined: {report['unconfined']}", hint="nothing was run; build again")
    reason = answer["stopped"] or _reason(report, answer["exit"])

    def cleaned(text: object) -> str:
        return clean(str(text), answer["folder"])

    stdout, stderr, error = (cleaned(text) for text in (answer["stdout"], answer["stderr"], report.get("error") or ""))
    value = report.get("value")
    value = None if value is None or reason else cleaned(value)
    if max(len(stdout), len(stderr), len(value or "")) > limits.output_chars:
        reason, value = reason or sandbox.OUTPUT, None
    texts = stdout[: limits.output_chars], "\n".join(text for text in (stderr, error) if text)[-limits.output_chars :]
    return Outcome(value, *texts, answer["exit"], reason)


def _report(text: str) -> dict[str, Any]:
    """Return what the program's process reported; it may have been written by the program itself, so it may be anything."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(report: dict[str, Any], code: int) -> str | None:
    reason = report.get("reason")
    if reason is None:
        return None if report.get("done") is True and code == 0 else sandbox.SILENT
    return reason if reason in sandbox.REASONS or _is_raised(reason) else sandbox.SILENT


def _is_raised(reason: object) -> bool:
    """Return whether it says `raised` and one of Python's own exceptions: there are as many reasons as these, not more."""
    words = str(reason).split(" ")
    found = getattr(__import__("builtins"), words[-1], None)
    return len(words) == 2 and words[0] == "raised" and isinstance(found, type) and issubclass(found, BaseException)


def clean(text: str, folder: str = FOLDER) -> str:
    """Return a text without control characters, addresses and paths of this machine."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n"))
    for path, name in ((folder, FOLDER), (sys.base_prefix, "/python"), (sys.prefix, "/python")):
        text = text.replace(path, name)
    return _ADDRESS.sub("0x0", text).encode("utf-8", "replace").decode("utf-8")


# --- many at once ---------------------------------------------------------------------------------------------------------


class _Pool:
    """Workers of one sort, in two halves: what ran in one is run again in the other, and must come out the same."""

    def __init__(self, *, packages: bool) -> None:
        self._packages = packages
        self._size = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._halves: tuple[SimpleQueue[Worker | None], SimpleQueue[Worker | None]] = (SimpleQueue(), SimpleQueue())
        self.owner = os.getpid()
        for half in self._halves:
            for _ in range(self._size):
                half.put(None)  # started when it is needed

    def run(self, jobs: Sequence[Job], limits: Limits) -> list[Outcome]:
        with ThreadPoolExecutor(min(self._size, len(jobs)) or 1) as threads:
            return list(threads.map(lambda job: self._run_twice(job, limits), jobs))

    def _run_twice(self, job: Job, limits: Limits) -> Outcome:
        first = self._run(job, limits, self._halves[0])
        if first.reason in (sandbox.TIME, sandbox.OUTPUT):
            return first
        again = self._run(job, limits, self._halves[1])
        if again == first or again.reason == sandbox.TIME:
            return again
        return replace(first, value=None, reason=sandbox.UNSTEADY)

    def _run(self, job: Job, limits: Limits, half: SimpleQueue[Worker | None]) -> Outcome:
        worker = half.get()
        try:
            worker = worker or Worker(packages=self._packages)
            return worker.run(job, limits)
        except BaseException:  # whatever it was in the middle of, the next program must not see
            if worker is not None:
                worker.close()
            worker = None
            raise
        finally:
            half.put(worker)

    def close(self) -> None:
        for half in self._halves:
            while not half.empty():
                worker = half.get()
                if worker is not None:
                    worker.close()


_pools: dict[bool, _Pool] = {}
_outcomes: dict[tuple[Job, Limits], Outcome] = {}
_lock = threading.Lock()


def _pool(packages: bool) -> _Pool:
    with _lock:
        found = _pools.get(packages)
        if found is None or found.owner != os.getpid():  # a fork must not share its parent's
            found = _pools[packages] = _Pool(packages=packages)
            atexit.register(close)
        return found


def close() -> None:
    """End all workers of this process; they start again when they are needed."""
    with _lock:
        for pool in _pools.values():
            if pool.owner == os.getpid():
                pool.close()
        _pools.clear()


def run(jobs: Sequence[Job], limits: Limits) -> list[Outcome]:
    """Run jobs and return their outcomes in order (`sandbox.run`)."""
    missing = [job for job in dict.fromkeys(jobs) if (job, limits) not in _outcomes]
    found = {job: _outcomes[job, limits] for job in jobs if (job, limits) in _outcomes}
    for packages in (False, True):
        some = [job for job in missing if _needs_packages(job) == packages]
        if some:
            found |= dict(zip(some, _pool(packages).run(some, limits), strict=True))
    if len(_outcomes) + len(missing) > _KEPT:
        _outcomes.clear()
    _outcomes.update({(job, limits): found[job] for job in missing})
    return [found[job] for job in jobs]


def _needs_packages(job: Job) -> bool:
    """A tool may import what is installed; a program has Python alone, so that its result is the same on every machine."""
    return isinstance(job, Call)
