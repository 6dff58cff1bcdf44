"""One rank of a training run, started by DeepSpeed's launcher: `python -m kdbuild.training.worker FOLDER`."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from kdbuild import canonical
from kdbuild.errors import KdbuildError
from kdbuild.training.launch import ALIVE, FAILURE, RESULT
from kdbuild.training.loop import train
from kdbuild.training.task import Task


def main(folder: Path) -> int:
    """Run this rank; return its exit code. What is wrong goes into a file for the process that started the ranks."""
    threading.Thread(target=_die_with_starter, args=(folder / ALIVE,), daemon=True).start()
    rank = os.environ["RANK"]
    try:
        trained = train(Task.read(folder))
    except KdbuildError as error:
        failure = canonical.pretty({"message": error.message, "hint": error.hint})
        (folder / FAILURE.format(rank=rank)).write_text(failure, encoding="utf-8")
        return 1
    if rank == "0":
        partial = folder / f"{RESULT}.partial"
        partial.write_text(canonical.pretty(asdict(trained)), encoding="utf-8")
        partial.rename(folder / RESULT)
    return 0


def _die_with_starter(alive: Path) -> None:
    """Wait for the starter's lock, which the kernel lifts when it ends, however it ends; then end too, in the middle of anything."""
    with alive.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    os._exit(1)


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written. Tearing gloo's threads down at the interpreter's end aborts the process now and then (torch 2.13).
    os._exit(code)
