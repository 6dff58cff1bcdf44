"""`kill -9` of a stage that dvc runs: the next build ends as an undisturbed one, and asks for nothing that was stored."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SPEC = """\
target: {skill: testing}
teacher: asked
student: {kind: causal-lm, config: {model_type: llama, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}}
seeds: {kind: dataset, path: specs/seeds/t.jsonl}
phases:
  sft:
    elicit: [{kind: label, max_new_tokens: 16}]
    objective: {kind: sft}
    train: {num_epochs: 25, learning_rate: 1.0e-3, batch_tokens: 128}
"""
DATA = """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/t.jsonl}
phases:
  sft:
    elicit: [{kind: label, max_new_tokens: 64}]
"""
PARAMS = """\
teachers:
  asked: {kind: fake}
runtime:
  train: {micro_batch_tokens: 128, checkpoint_interval_s: 0.2}
"""


def _repro(project) -> subprocess.Popen:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(["dvc", "repro"], cwd=project.root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _stage(project, step: str) -> psutil.Process | None:
    """Return the running process of a step, if it runs."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if process.info["cwd"] == str(project.root) and ["stage", step] == (process.info["cmdline"] or [])[2:4]:
            return process
    return None


def _kill_when(project, step: str, ready, whole: bool) -> bool:
    """Start `dvc repro`, kill the stage (and dvc too where `whole`) once `ready()` says so; return whether the stage was hit."""
    dvc = _repro(project)
    hit = False
    while dvc.poll() is None and not hit:
        if ready() and (process := _stage(project, step)) is not None:
            if whole:
                dvc.send_signal(signal.SIGKILL)
            process.send_signal(signal.SIGKILL)
            hit = True
        time.sleep(0.02)
    dvc.wait()
    while _stage(project, step) is not None:
        time.sleep(0.05)
    return hit


def _weights(project) -> dict:
    from safetensors.torch import load_file

    return load_file(project.root / "artifacts/t/sft/model/model.safetensors")


@pytest.mark.parametrize("num_kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path, new_project, request, num_kills):
    seeds = (request.config.rootpath / "tests/specs/seeds/table.jsonl").read_text()
    project = new_project(tmp_path / "p", {"params.yaml": PARAMS, "specs/t.yaml": SPEC, "specs/seeds/t.jsonl": seeds})
    project.repro()
    expected, weights = _facts(project), _weights(project)
    rng = random.Random(num_kills)
    checkpoints = project.root / ".dvc/kdbuild/scratch"
    num_hit = 0
    for _ in range(num_kills):
        _forget_training(project)
        for _ in range(2):  # the second kill falls into what the first one left to resume
            at_s = time.monotonic() + rng.uniform(3.0, 6.0)
            num_hit += _kill_when(project, "train", lambda at_s=at_s: checkpoints.exists() and time.monotonic() > at_s, rng.random() < 0.5)
        project.kdbuild("doctor", "--fix")
        project.repro()
        losses, wanted = ([point["loss_nats_per_token"] for point in facts["curve"]] for facts in (_facts(project), expected))
        assert losses == pytest.approx(wanted, abs=1e-5)
        again = _weights(project)
        assert all(float((again[name] - tensor).abs().max()) <= 1e-5 for name, tensor in weights.items())
    assert num_hit > 0, "no kill hit a training stage"
    assert not any((project.root / ".dvc/kdbuild/scratch").iterdir())


def _facts(project) -> dict:
    return project.json("artifacts/t/sft/train.json")


def _forget_training(project) -> None:
    """Make DVC forget the trained model, so that its stage has to run."""
    shutil.rmtree(project.root / "artifacts/t/sft/model")
    shutil.rmtree(project.root / ".dvc/cache/runs")
    text = project.read("dvc.lock")
    start = text.index("  t_sft_train:")
    end = text.find("\n  t_", start)
    project.write("dvc.lock", text[:start] + (text[end + 1 :] if end > 0 else ""))


def _answers(project, number: int | None = None) -> list:
    connection = sqlite3.connect(project.root / ".dvc/kdbuild/rows.sqlite")
    try:
        found = connection.execute("SELECT key, max_new_tokens, answer FROM answers ORDER BY id").fetchall()
    finally:
        connection.close()
    return found[:number]


@pytest.mark.real
def test_kills_lose_no_answer_of_the_real_teacher(tmp_path, new_project, request):
    top = request.config.rootpath
    params = (top / "params.yaml").read_text().replace("  smollm2:\n", "  asked:\n    batch_tokens: 1500\n")  # about a dozen rows at a time
    seeds = (top / "specs/seeds/everyday.jsonl").read_text()
    project = new_project(tmp_path / "p", {"params.yaml": params, "specs/t.yaml": DATA, "specs/seeds/t.jsonl": seeds})
    stored: list = []
    for whole in (False, True, False):
        enough = len(stored) + 15
        assert _kill_when(project, "elicit", lambda enough=enough: project.num_answers() >= enough, whole)
        kept = _answers(project)
        assert kept[: len(stored)] == stored
        assert len(kept) > len(stored)
        stored = kept
    assert len(stored) < len(seeds.splitlines())
    project.kdbuild("doctor", "--fix")
    project.repro()
    assert _answers(project, len(stored)) == stored
    assert project.num_answers() == len(seeds.splitlines())
    facts = project.json("artifacts/t/sft/elicit.json")
    assert facts["num_rows"] + sum(facts["num_rejected"].values()) == len(seeds.splitlines())
