"""Stored signals through the real `dvc`: asked once, learnt without the teacher, and pulled by a colleague."""

from __future__ import annotations

import json
import shutil

import pytest

PARAMS = """\
teachers:
  big: {kind: fake, model: big, calls_log: big.log, num_layers: 2, hidden_size: 16}
"""
SPEC = """\
target: {skill: talk}
teacher: big
student: {kind: causal-lm, init: {from: teacher, layers: 1}}
seeds: {kind: dataset, path: specs/seeds.jsonl}
phases:
  sft:
    elicit: [{kind: label, max_new_tokens: 12}]
    objective: {kind: sft}
  kl:
    on: sft
    elicit:
      - {kind: logits, k: 8}
      - {kind: hidden, layers: [-1]}
    objective: {kind: forward-kl}
"""
SEEDS = [{"id": f"q{i:02d}", "prompt": f"Say something about the number {i}."} for i in range(24)]


def calls(project) -> list[str]:
    log = project.root / "big.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(line.split("\t")[0] for line in lines)


@pytest.fixture
def project(tmp_path, new_project):
    seeds = "".join(json.dumps(seed) + "\n" for seed in SEEDS)
    return new_project(tmp_path / "p", {"params.yaml": PARAMS, "specs/a.yaml": SPEC, "specs/seeds.jsonl": seeds})


def test_signals_are_stored_learnt_and_shared(project, tmp_path):
    project.kdbuild("build")
    first = calls(project)
    assert len(first) == 24 * 3
    section = project.json("artifacts/a/resolved.json")["kl"]["train"]
    assert section["objectives"][0]["signal"] == "stored"
    assert section["teachers"] == {}
    assert section["features"] == ["artifacts/a/kl/features"]
    assert project.json("artifacts/a/kl/features/manifest.json")["num_rows"] == 48
    assert not any('"payload"' in line for line in project.read("artifacts/a/kl/calls/manifest.json").splitlines())

    # One seed more is one answer, read twice.
    project.write("specs/seeds.jsonl", project.read("specs/seeds.jsonl") + json.dumps({"id": "q99", "prompt": "And of trees?"}) + "\n")
    done = project.kdbuild("build")
    assert calls(project) == ["q99"] * 3
    assert "a_kl_train" in done.ran

    # A colleague who pulls asks nothing; an edit of one seed asks for that one.
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "built")
    project.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "remote"))
    project.run("dvc", "push")
    clone = type(project)(tmp_path / "clone")
    project.run("git", "clone", "-q", str(project.root), str(clone.root))
    clone.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "remote"))
    clone.run("dvc", "pull")
    assert "nothing to do" in clone.kdbuild("build").text
    clone.edit("specs/seeds.jsonl", "the number 3.", "the number three.")
    clone.kdbuild("build")
    assert calls(clone) == ["q03"] * 3
    shutil.rmtree(clone.root)


def test_check_says_what_an_objective_lacks(project):
    project.write(
        "specs/a.yaml",
        SPEC.replace("    on: sft\n    elicit:\n      - {kind: logits, k: 8}\n      - {kind: hidden, layers: [-1]}\n", "").replace(
            "forward-kl}", "forward-kl, signal: stored}"
        ),
    )
    done = project.kdbuild("check", code=1)
    assert "objective `forward-kl` reads stored signals, and no phase so far stores any" in done.text
    project.write("specs/a.yaml", SPEC.replace("kind: label, max_new_tokens: 12", "kind: pair"))
    assert "operator `pair` reads `candidates`, which no seed has" in project.kdbuild("check", code=1).text
