"""The process that programs are forked from: it is confined once, and then runs one program after the other.

It is started without site packages and with an empty environment, reads requests from its standard input and answers on its standard
output: each a length (4 bytes) and JSON. It ends when its input does, so it never outlives who started it.
"""

from __future__ import annotations

# Loaded once, for all programs: they are forked.
import collections  # noqa: F401
import contextlib
import dataclasses
import datetime  # noqa: F401
import decimal  # noqa: F401
import fractions  # noqa: F401
import gc
import itertools  # noqa: F401
import json
import math  # noqa: F401
import os
import re  # noqa: F401
import select
import signal
import statistics  # noqa: F401
import string  # noqa: F401
import struct
import sys
import time
from typing import Any

from kdbuild import sandbox
from kdbuild.sandbox import Limits, _confine, _program

_POLL_MS = 50
_REPORT_ROOM = 4096
"""Bytes of a report besides its value."""


def main(packages: bool, weak: bool, without: tuple[str, ...]) -> None:
    """Say what the machine gives, then answer requests until there are no more."""
    paths = _confine.readable(packages)
    search = _confine.package_folders() if packages else []
    means = _confine.prepare(paths, without)
    _send({"is_enough": means.is_enough, "lacks": means.lacks, **dataclasses.asdict(means)})
    gc.freeze()  # a collection in a forked process would copy every page
    while means.is_enough or weak:
        request = _receive()
        if request is None:
            return
        limits = Limits(**request["limits"])
        folder = _confine.new_folder(means)
        try:
            _send(_Run(request["job"], limits, means, folder, paths, search).outcome())
        finally:
            if not means.private_root:
                _confine.remove(folder)


def _receive() -> dict[str, Any] | None:
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        return None
    found: dict[str, Any] = json.loads(sys.stdin.buffer.read(struct.unpack("<I", head)[0]))
    return found


def _send(answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    sys.stdout.buffer.write(struct.pack("<I", len(body)) + body)
    sys.stdout.buffer.flush()


class _Run:
    """One program, from fork to end."""

    def __init__(
        self, job: dict[str, Any], limits: Limits, means: _confine.Means, folder: str, paths: tuple[str, ...], search: list[str]
    ) -> None:
        self._limits, self._means, self._folder = limits, means, folder
        pipes = [os.pipe() for _ in range(3)]
        self._pid = os.fork()
        if self._pid == 0:
            _become(job, limits, means, folder, paths, search, [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        most = limits.output_chars * 4  # bytes of a character, at most
        self._room = {read: room for (read, _), room in zip(pipes, (most, most, most + _REPORT_ROOM), strict=True)}
        self._parts: dict[int, bytearray] = {read: bytearray() for read, _ in pipes}

    def outcome(self) -> dict[str, Any]:
        """Return what came of it, as JSON values."""
        stopped = self._watch()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        texts = [bytes(part).decode("utf-8", "replace") for part in self._parts.values()]
        for read in self._parts:
            os.close(read)
        code = os.waitstatus_to_exitcode(status)
        return {
            "stopped": stopped or self._by_signal(code, usage.ru_utime + usage.ru_stime),
            "exit": code,
            **dict(zip(("stdout", "stderr", "report"), texts, strict=True)),
            "folder": self._folder,
        }

    def _watch(self) -> str | None:
        """Read what it writes until it ends or must be stopped; return why it must."""
        deadline = time.monotonic() + self._limits.wall_s
        poll = select.poll()
        poll.register(0, select.POLLHUP)
        for read in self._parts:
            poll.register(read, select.POLLIN)
        num_open = len(self._parts)
        while num_open:
            for handle, _ in poll.poll(_POLL_MS):
                if handle == 0:  # nobody waits for the answer any more
                    return sandbox.SILENT
                part = os.read(handle, 65536)
                self._parts[handle] += part
                if len(self._parts[handle]) > self._room[handle]:
                    return sandbox.OUTPUT
                if not part:
                    poll.unregister(handle)
                    num_open -= 1
            if time.monotonic() > deadline:
                return sandbox.TIME
            if not self._means.private_root and _confine.is_full(self._folder, self._limits):
                return sandbox.DISK
        return self._wait(deadline)

    def _wait(self, deadline: float) -> str | None:
        """It closed all it could write to; give it the rest of its time to end."""
        while os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                return sandbox.TIME
            time.sleep(0.001)
        return None

    def _by_signal(self, code: int, cpu_s: float) -> str | None:
        if code >= 0:
            return None
        if -code in (signal.SIGKILL, signal.SIGXCPU):  # of its own limit of time, or of the machine's memory
            return sandbox.TIME if cpu_s >= self._limits.cpu_s - 0.2 else sandbox.MEMORY
        by = {signal.SIGSYS: sandbox.SYSTEM, signal.SIGXFSZ: sandbox.DISK}
        crashes = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
        return by.get(signal.Signals(-code)) or (sandbox.CRASHED if -code in crashes else sandbox.ENDED)


def _become(
    job: dict[str, Any],
    limits: Limits,
    means: _confine.Means,
    folder: str,
    paths: tuple[str, ...],
    search: list[str],
    outputs: list[int],
) -> None:
    """Turn the forked process into the program; does not return."""
    try:
        os.setsid()
        nothing = os.open("/dev/null", os.O_RDONLY)
        copies = [os.dup2(handle, 64 + i) for i, handle in enumerate([nothing, *outputs])]
        for i, handle in enumerate(copies):
            os.dup2(handle, i)
        os.closerange(_program.REPORT + 1, 256)
        sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        os.environ.update(HOME=folder, TMPDIR=folder)
        _confine.confine(means, limits, folder, paths)
    except BaseException as error:
        os.write(_program.REPORT, json.dumps({"unconfined": f"{type(error).__name__}: {error}"}).encode())
        os._exit(1)
    try:
        _program.main(job, folder, paths, search)
    finally:
        os._exit(1)
