"""What stands around every step: gone with its parent, one at a time, whole outputs or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SPEC = """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/t.jsonl}
phases:
  data: {elicit: [{kind: label, max_new_tokens: 16}]}
"""
PARAMS = "teachers:\n  asked: {kind: fake, latency_s: LATENCY, calls_log: calls.log}\n"
NUM_SEEDS = 40


@pytest.fixture
def slow(tmp_path, new_project):
    """Return a project whose elicit stage takes some seconds."""
    seeds = "".join(f'{{"id": "s{i:02d}", "prompt": "Question number {i}?"}}\n' for i in range(NUM_SEEDS))
    files = {"params.yaml": PARAMS.replace("LATENCY", "0.25"), "specs/t.yaml": SPEC, "specs/seeds/t.jsonl": seeds}
    return new_project(tmp_path, files)


def _start(project, *command, **env):
    whole = {**os.environ, **{name: value for name, value in env.items() if value is not None}}
    for name in [name for name, value in env.items() if value is None]:
        whole.pop(name, None)
    whole["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{whole['PATH']}"
    return subprocess.Popen(command, cwd=project.root, env=whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(what, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def _stages(project):
    """Return the running stage processes of the project."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if "elicit" in words and process.info["cwd"] == str(project.root):
            found.append(process)
    return found


@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh", None])
def test_a_stage_ends_with_the_dvc_that_started_it(slow, shell):
    dvc = _start(slow, "dvc", "repro", SHELL=shell)
    try:
        _wait_for(lambda: (slow.root / "calls.log").exists())
        assert len(_stages(slow)) == 1
    finally:
        dvc.send_signal(signal.SIGKILL)
        dvc.wait()
        dvc.stdout.close()
    _wait_for(lambda: not _stages(slow), seconds=10)
    assert not (slow.root / "artifacts/t/data/elicited").exists()
    slow.write("params.yaml", PARAMS.replace("LATENCY", "0.0"))
    slow.kdbuild("doctor", "--fix")
    slow.repro()
    assert slow.json("artifacts/t/data/elicit.json")["num_rows"] == NUM_SEEDS
    assert NUM_SEEDS <= len(slow.read("calls.log").splitlines()) < 2 * NUM_SEEDS


def test_two_at_once_wait_for_each_other(slow):
    both = [_start(slow, "kdbuild", "stage", "elicit", "t", "data") for _ in range(2)]
    texts = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("waiting for it" in text for text in texts) == 1
    assert len(slow.read("calls.log").splitlines()) == NUM_SEEDS


def test_a_stage_that_is_not_compiled_names_the_command(slow):
    done = slow.kdbuild("stage", "train", "t", "data", code=1)
    assert "artifacts/t/resolved.json has no section data.train" in done.text
    assert "run `kdbuild compile`" in done.text


def test_dvc_lock_is_kept_at_the_start_of_a_stage(slow):
    slow.write("params.yaml", PARAMS.replace("LATENCY", "0.0"))
    slow.repro()
    kept = sorted((slow.root / ".dvc/kdbuild/dvc-lock").glob("*.lock"))
    assert kept
    assert "t_data_elicit" in kept[-1].read_text()
