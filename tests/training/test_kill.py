"""`kill -9` at random moments of a train: the run that goes on ends as the undisturbed one."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kdbuild.training.loop import Trained, train
from kdbuild.training.task import Task

SCRIPT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from kdbuild.training.launch import train
from kdbuild.training.task import Task
folder = Path(sys.argv[1])
trained = train(Task.read(folder))
(folder / "done.json").write_text(json.dumps(asdict(trained)))
"""
MANY_STEPS = {"learning_rate": 5e-4, "num_epochs": 40, "batch_tokens": 250}


def weights_of(task):
    return AutoModelForCausalLM.from_pretrained(task.model_out).state_dict()


def start(folder):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=env, stderr=subprocess.DEVNULL)


def kill_at_random(folder, task, chance, kills):
    """Start the run and kill it `kills` times; return how often a kill met a run that had a checkpoint to go on from."""
    resumable = 0
    for _ in range(kills):
        process = start(folder)
        deadline = time.monotonic() + 300
        # Half of the kills come while it starts, half once it has written a checkpoint of its own.
        waits_for_checkpoint = chance.random() < 0.5
        seen = checkpoint_time(task)
        while waits_for_checkpoint and checkpoint_time(task) == seen and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.random() * (0.5 if waits_for_checkpoint else 6.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumable += checkpoint_time(task) is not None
        for leftover in task.model_out.iterdir():  # the stage begins with empty folders
            leftover.unlink()
    return resumable


def checkpoint_time(task):
    try:
        return (task.checkpoints / "train.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def ranks_of(folder):
    """Processes of a launched run that still name its folder on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "kdbuild.training.worker" in command and str(folder) in command:
            found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_runs_end_as_the_undisturbed_one(new_task, tmp_path, kills):
    quiet = new_task(train=MANY_STEPS, runtime={"checkpoint_interval_s": 3600.0})
    expected, weights = train(quiet), weights_of(quiet)
    task = new_task(train=MANY_STEPS, runtime={"checkpoint_interval_s": 0.05})
    folder = tmp_path / "job"
    folder.mkdir()
    task.write(folder)
    assert kill_at_random(folder, Task.read(folder), random.Random(kills), kills) > 0
    process = start(folder)
    assert process.wait(timeout=600) == 0
    got = Trained(**json.loads((folder / "done.json").read_text()))
    assert got.num_steps == expected.num_steps
    for point, other in zip(got.curve, expected.curve, strict=True):
        assert all(math.isclose(point[name], other[name], abs_tol=1e-5) for name in other)
    final = weights_of(task)
    assert all(torch.allclose(final[name], weights[name], atol=1e-5, rtol=0) for name in weights)


@pytest.mark.slow
def test_ranks_die_with_the_process_that_started_them(new_task, tmp_path):
    task = new_task(train=MANY_STEPS, runtime={"num_ranks": 2, "checkpoint_interval_s": 0.05})
    folder = tmp_path / "job"
    folder.mkdir()
    task.write(folder)
    process = start(folder)
    try:
        deadline = time.monotonic() + 300
        while checkpoint_time(task) is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(ranks_of(task.checkpoints)) >= 2  # and the launcher
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 10
    while ranks_of(task.checkpoints) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ranks_of(task.checkpoints) == []
