"""`kdbuild doctor` from the outside, and `kill -9` of `dvc repro` itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

NUM_STAGES = 12
TOOLS = Path(sys.executable).parent


def _run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600)


def _start(root: Path) -> None:
    """Start a project of trivial stages in a row, each copying the one before."""
    root.mkdir(exist_ok=True)
    (root / "in").write_text("hello\n")
    stages = {
        f"s{i:02d}": {"cmd": f"cat {before} > s{i:02d}.out && echo {i} >> s{i:02d}.out", "deps": [before], "outs": [f"s{i:02d}.out"]}
        for i, before in enumerate(["in", *(f"s{i:02d}.out" for i in range(NUM_STAGES - 1))])
    }
    with (root / "dvc.yaml").open("w") as file:
        YAML(typ="safe").dump({"stages": stages}, file)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        assert _run(root, *command).returncode == 0


def _state(root: Path) -> tuple[dict, list[str]]:
    """Return what dvc.lock says, and what lies in the project."""
    stages = YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]
    return stages, [(root / f"s{i:02d}.out").read_text() for i in range(NUM_STAGES)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    _start(root)
    start = time.monotonic()
    assert _run(root, "dvc", "repro").returncode == 0
    return _state(root), time.monotonic() - start


@pytest.mark.parametrize(("seed", "num_kills"), [(0, 4), pytest.param(1, 60, marks=pytest.mark.slow)])
def test_kill_of_dvc(tmp_path, undisturbed, seed, num_kills):
    expected, seconds = undisturbed
    dice, torn = random.Random(seed), 0
    for _ in range(num_kills):
        root = tmp_path / f"p{dice.random()}"
        _start(root)
        env = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.Popen(["dvc", "repro"], cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        fixed = _run(root, "kdbuild", "doctor", "--fix")
        assert fixed.returncode == 0, fixed.stdout
        torn += "dvc.lock" in fixed.stdout
        built = _run(root, "dvc", "repro")
        assert built.returncode == 0, fixed.stdout + built.stdout
        assert _state(root) == expected
        assert _run(root, "kdbuild", "doctor").stdout == "nothing is broken\n"
    print(f"{torn} of {num_kills} kills left a torn dvc.lock")


@pytest.fixture
def project(tmp_path):
    _start(tmp_path / "p")
    return tmp_path / "p"


def test_nothing_is_broken(project):
    done = _run(project, "kdbuild", "doctor")
    assert (done.returncode, done.stdout) == (0, "nothing is broken\n")


def test_finds_then_mends(project):
    assert _run(project, "dvc", "repro").returncode == 0
    good = _state(project)
    (project / "dvc.lock").write_text("")
    (project / ".dvc/tmp/rwlock").write_text('{"write": {')
    (next((project / ".dvc/cache/runs").glob("*/*")) / ".x.tmp").write_text("cmd")
    found = _run(project, "kdbuild", "doctor")
    assert found.returncode == 1
    for text in ("dvc.lock is empty", "rwlock is torn", "1 unfinished entry", "--fix "):
        assert text in found.stdout
    assert (project / "dvc.lock").read_text() == "", "nothing is changed without --fix"
    fixed = _run(project, "kdbuild", "doctor", "--fix")
    assert fixed.returncode == 0, fixed.stdout
    assert _run(project, "kdbuild", "doctor").returncode == 0
    built = _run(project, "dvc", "repro")
    assert "Running stage" not in built.stdout
    assert _state(project) == good


def test_advice_is_no_damage(project):
    assert _run(project, "dvc", "remote", "add", "far", "/somewhere").returncode == 0
    done = _run(project, "kdbuild", "doctor")
    assert done.returncode == 0
    assert "advice: `dvc remote modify far verify true`" in done.stdout
    assert _run(project, "dvc", "remote", "modify", "far", "verify", "true").returncode == 0
    assert "advice" not in _run(project, "kdbuild", "doctor").stdout


def test_no_dvc_project(tmp_path):
    done = _run(tmp_path, "kdbuild", "doctor")
    assert done.returncode == 1
    assert "is not a DVC project" in done.stdout
