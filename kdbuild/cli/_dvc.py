"""DVC as a child process of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def repro(root: Path, arguments: Sequence[str]) -> int:
    """Run `dvc repro` with `arguments`; return its exit code.

    What it prints goes where this prints. It ends by itself when interrupted, before this does.
    """
    tools = str(Path(sys.executable).parent)
    env = {**os.environ, "PATH": os.pathsep.join(filter(None, [tools, os.environ.get("PATH")]))}
    process = subprocess.Popen([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *arguments], cwd=root, env=env)
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT,)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        kept[number] = signal.signal(number, lambda given, _: process.send_signal(given))
    try:
        return process.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
