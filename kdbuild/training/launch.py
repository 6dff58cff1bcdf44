"""Starting a training run: in this process, or over ranks and hosts with DeepSpeed's launcher."""

from __future__ import annotations

import ctypes
import fcntl
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdbuild.errors import StageError
from kdbuild.training.loop import Trained
from kdbuild.training.loop import train as train_here
from kdbuild.training.task import Task

RESULT = "result.json"
FAILURE = "failure-{rank}.json"
ALIVE = "alive.lock"
"""Locked for as long as the process that started the ranks lives."""
PR_SET_PDEATHSIG = 1


def train(task: Task) -> Trained:
    """Train one phase where `runtime.train` says.

    Raises:
        StageError: as the loop does, from whichever rank met it first; or a rank ended by itself.
    """
    runtime = task.runtime.train
    if runtime.num_ranks == 1 and runtime.hostfile is None:
        return train_here(task)
    folder = task.checkpoints / "launch"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    task.write(folder)
    with (folder / ALIVE).open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        code = _run(_command(task, folder))
        failed = _failure(folder)
    if failed is not None:
        raise StageError(failed["message"], hint=failed["hint"])
    if code != 0 or not (folder / RESULT).exists():
        raise StageError(
            f"a training rank ended with exit code {code}", hint="its own message is above; the next build goes on from the checkpoint"
        )
    trained = Trained(**json.loads((folder / RESULT).read_text(encoding="utf-8")))
    shutil.rmtree(folder)
    return trained


def _command(task: Task, folder: Path) -> list[str]:
    runtime = task.runtime.train
    hostfile = str((task.root / runtime.hostfile).resolve()) if runtime.hostfile else "/dev/null"
    if runtime.hostfile and not Path(hostfile).is_file():
        raise StageError(f"`runtime.train.hostfile` in params.yaml names {runtime.hostfile}, which is not there")
    return [
        *(sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--no_local_rank"),
        *("--hostfile", hostfile, "--num_gpus", str(runtime.num_ranks), "--master_port", str(_free_port())),
        *("--module", "kdbuild.training.worker", str(folder)),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(command: list[str]) -> int:
    """Run the launcher to its end; it dies with this process, and the ranks die when the lock on `ALIVE` is gone."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        return process.wait()
    finally:
        process.kill()


def _failure(folder: Path) -> dict[str, Any] | None:
    for path in sorted(folder.glob(FAILURE.format(rank="*"))):
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value
    return None
