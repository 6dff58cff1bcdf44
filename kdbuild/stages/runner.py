"""What stands around every step: one at a time, gone with its parent, old or new outputs but never half of one."""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdbuild.compile.stages import STEP_REVISIONS
from kdbuild.errors import StageError
from kdbuild.rows import place
from kdbuild.spec import layout
from kdbuild.spec.source import read_params
from kdbuild.stages.job import Job, read_section

KEPT_SNAPSHOTS = 20


def run(root: Path, step: str, spec: str, phase: str | None) -> None:
    """Run one step of one spec, as the stage's command does."""
    if step not in STEP_REVISIONS:
        raise StageError(f"there is no step `{step}`", hint=f"steps: {', '.join(STEP_REVISIONS)}")
    die_with_parent()
    params = read_params(root / "params.yaml")
    if step == "model":
        section = read_section(root, layout.MODELS, (str(phase),))
    else:
        section = read_section(root, layout.resolved(spec), (phase, step) if phase else (step,))
    job = Job(root, spec, step, phase, section, params)
    folder = place.store_dir(root, params.runtime.rows_dir)
    with one_at_a_time(folder, job.name):
        snapshot_lock(root, folder)
        _limit_threads(params.runtime.num_threads)
        try:
            importlib.import_module(f"kdbuild.stages.{step}").run(job)
            job.finish()
        except OSError as error:
            job.discard()
            raise StageError(f"{job.name}: {error.strerror or error}: {error.filename or ''}".rstrip(": ")) from error
        except BaseException:
            job.discard()
            raise


def _limit_threads(num_threads: int | None) -> None:
    if num_threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(num_threads)


@contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Hold a kernel lock on the stage's name: a second builder waits, and a killed one leaves nothing locked."""
    locks = folder / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name} is running in another process; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def die_with_parent() -> None:
    """End this process, and what it started, as soon as the dvc that started it is gone, however it went.

    Linux sends the signal itself; elsewhere, and where the parent died before that was set up, a thread looks every half second.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def snapshot_lock(root: Path, folder: Path) -> None:
    """Keep a copy of dvc.lock, which is complete while a stage runs: DVC rewrites it in place afterwards.

    `kdbuild doctor --fix` repairs a torn dvc.lock from the newest copy.
    """
    lock = root / "dvc.lock"
    if not lock.exists() or lock.stat().st_size == 0:
        return
    snapshots = folder / "dvc-lock"
    snapshots.mkdir(exist_ok=True)
    taken = sorted(snapshots.glob("*.lock"))
    if taken and taken[-1].read_bytes() == lock.read_bytes():
        return
    number = int(taken[-1].stem) + 1 if taken else 0
    partial = snapshots / f"{number:08d}.partial"
    shutil.copyfile(lock, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(snapshots / f"{number:08d}.lock")
    for old in taken[: max(0, len(taken) + 1 - KEPT_SNAPSHOTS)]:
        old.unlink()
