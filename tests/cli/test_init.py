"""`kdbuild init` makes a project that builds, in an empty git repository."""

from __future__ import annotations

import subprocess

import pytest


@pytest.fixture
def empty(tmp_path, project_in):
    """Return an empty git repository."""
    subprocess.run(["git", "init", "-q", "-b", "main", str(tmp_path / "mine")], check=True)
    project = project_in(tmp_path / "mine")
    project.run("git", "config", "user.email", "tests@example.org")
    project.run("git", "config", "user.name", "tests")
    return project


def test_what_it_writes_is_a_compiled_project(empty):
    done = empty.kdbuild("init")
    assert "dvc remote modify storage verify true" in done.text
    assert "specs/first-student.yaml: ok" in empty.kdbuild("check").text
    empty.kdbuild("compile", "--check")
    assert empty.kdbuild("plan", code=2).text.splitlines()[-1].startswith("7 stages to run")
    assert "merge=binary" in empty.read(".gitattributes")


def test_a_second_time_it_keeps_what_is_there(empty):
    empty.kdbuild("init")
    empty.write("params.yaml", empty.read("params.yaml") + "# mine\n")
    assert "kept  params.yaml" in empty.kdbuild("init").text
    assert empty.read("params.yaml").endswith("# mine\n")


def test_outside_git_it_says_so(tmp_path, project_in):
    project = project_in(tmp_path)
    done = project.run("kdbuild", "init", code=1, env={"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})
    assert "run `git init` first" in done.text
    assert not list(tmp_path.iterdir())


def test_after_a_build_only_small_files_are_for_git(empty):
    empty.kdbuild("init")
    empty.edit("params.yaml", "    kind: transformers", "    kind: fake")
    text = empty.read("params.yaml")
    kept = [line for line in text.splitlines() if not line.strip().startswith(("model:", "dtype:"))]
    empty.write("params.yaml", "\n".join(kept[: kept.index("embedder:")] + kept[kept.index("runtime:") :]) + "\n")
    empty.edit("specs/first-student.yaml", "layers: 6", "layers: 2")
    empty.kdbuild("build")
    assert empty.json("artifacts/first-student/metrics.json")["num_held_out_rows"] == 8
    empty.run("git", "add", "-A")
    names = empty.run("git", "ls-files").text.split()
    assert all(name.endswith((".json", ".gitignore")) for name in names if name.startswith("artifacts/"))
    assert "dvc.lock" in names
    assert "nothing to do" in empty.kdbuild("build").text


@pytest.mark.real
def test_it_builds_with_the_real_teacher(empty):
    empty.kdbuild("init")
    empty.kdbuild("build")
    metrics = empty.json("artifacts/first-student/metrics.json")
    assert metrics["sft"]["kl_to_teacher_nats_per_token"] < metrics["init"]["kl_to_teacher_nats_per_token"]
