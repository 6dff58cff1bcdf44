"""DVC as a child process of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

RUNNING = "KDBUILD_RUNNING"
"""Names the file that holds the name of the stage that `kdbuild build` has running: what is left there has failed."""


def repro(root: Path, arguments: Sequence[str]) -> int:
    """Run `dvc repro` with `arguments`; return its exit code.

    What it prints goes where this prints. It ends by itself when interrupted, before this does.
    """
    return watched_repro(root, arguments)[0]


def watched_repro(root: Path, arguments: Sequence[str]) -> tuple[int, str | None]:
    """Run `dvc repro`; return its exit code, and the stage whose command began and did not end well, where there is one."""
    with tempfile.TemporaryDirectory(prefix="kdbuild-") as folder:
        file = Path(folder) / "running"
        code = _run(root, arguments, {RUNNING: str(file)})
        name = file.read_text(encoding="utf-8") if file.exists() else ""
    return code, name or None if code else None


@contextmanager
def running(name: str) -> Iterator[None]:
    """Say, to the `kdbuild build` that is above, that a stage runs, until it ends well. However it dies else, its name stays there."""
    path = os.environ.get(RUNNING)
    if path:
        _note(path, name)
    yield
    if path:
        _note(path, "")


def _note(path: str, text: str) -> None:
    with suppress(OSError):  # whoever asked is gone; the stage goes on
        Path(path).write_text(text, encoding="utf-8")


def _run(root: Path, arguments: Sequence[str], more: Mapping[str, str]) -> int:
    tools = str(Path(sys.executable).parent)
    env = {**os.environ, **more, "PATH": os.pathsep.join(filter(None, [tools, os.environ.get("PATH")]))}
    process = subprocess.Popen([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *arguments], cwd=root, env=env)
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT,)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        kept[number] = signal.signal(number, lambda given, _: process.send_signal(given))
    try:
        return process.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
