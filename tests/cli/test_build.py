"""`kdbuild build` from the outside."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SPEC = """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/s.jsonl}
phases:
  sft:
    elicit:
      - {kind: label, max_new_tokens: 12, system: "Answer briefly."}
    select:
      - {kind: exact-dedup}
"""
FILES = {
    "params.yaml": "teachers:\n  asked: {kind: fake}\n",
    "specs/a.yaml": SPEC,
    "specs/b.yaml": SPEC.replace("briefly", "well"),
    "specs/seeds/s.jsonl": "".join(f'{{"id": "s{i}", "prompt": "Say {i}."}}\n' for i in range(4)),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory, new_project):
    project = new_project(tmp_path_factory.mktemp("built") / "project", FILES)
    done = project.kdbuild("build")
    assert {"a_report", "b_report"} <= done.ran
    assert project.num_answers() == 8
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "built")
    return project


@pytest.fixture
def edited(built):
    yield built
    built.run("git", "checkout", "-q", ".")
    built.kdbuild("build", "--yes")


def test_nothing_to_do_reads_no_spec(built):
    assert built.kdbuild("build").text == "nothing to do: 6 stages fresh\n"
    assert built.kdbuild("build", "b").text == "nothing to do: 6 stages fresh\n"
    program = (
        "import sys\nfrom kdbuild.cli import main\nsys.argv = ['kdbuild', 'build']\n"
        "try:\n    main()\nexcept SystemExit:\n    print(sorted({'pydantic', 'ruamel.yaml', 'subprocess', 'jinja2'} & set(sys.modules)))"
    )
    done = built.run(sys.executable, "-c", program)
    assert done.text.splitlines()[-1] in ("['subprocess']", "[]")


@pytest.mark.parametrize("path", ["artifacts/a/sft/selected/manifest.json", "artifacts/b/report.html", "artifacts/a/sft/select.json"])
def test_a_lost_output_is_brought_back(edited, path):
    text = edited.read(path)
    (edited.root / path).unlink()
    done = edited.kdbuild("build")
    assert done.ran == set()
    assert len(done.restored) == 1
    assert edited.read(path) == text


def test_an_edit_compiles_and_builds(edited):
    edited.edit("specs/a.yaml", "max_new_tokens: 12", "max_new_tokens: 9")
    done = edited.kdbuild("build", "a")
    assert "wrote artifacts/a/resolved.json" in done.text
    assert "operators.0.max_new_tokens: 12 -> 9" in done.text
    assert "a_sft_elicit" in done.ran
    assert not any(name.startswith("b_") for name in done.ran)
    assert edited.kdbuild("build", "a").text.startswith("nothing to do: ")


def test_a_new_spec_needs_no_compile(edited):
    edited.write("specs/c.yaml", SPEC)
    done = edited.kdbuild("build")
    assert {"c_sft_elicit", "c_sft_select", "c_report"} <= done.ran
    assert edited.num_answers() >= 8
    (edited.root / "specs/c.yaml").unlink()
    assert "wrote dvc.yaml" in edited.kdbuild("build").text


def test_a_failing_stage_is_named(edited):
    edited.edit("params.yaml", "{kind: fake}", "{kind: fake, fail_frac: 1.0}")
    done = edited.kdbuild("build", code=1)
    assert "error: stage a_sft_elicit failed\n" in done.text
    assert "Traceback" not in done.text


TWO_PHASES = """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/s.jsonl}
phases:
  first:
    elicit: [{kind: label, max_new_tokens: 12}]
    select: [{kind: exact-dedup}]
  second:
    elicit: [{kind: label, max_new_tokens: 12, system: "Once more.", by: other}]
"""


def test_the_stage_that_failed_is_named_not_the_first_that_waits(edited):
    # The first spec waits for nothing that failed; the second's second phase fails, and DVC goes on to no other stage.
    edited.edit("params.yaml", "{kind: fake}\n", "{kind: fake}\n  other: {kind: fake, model: other, fail_frac: 1.0}\n")
    edited.write("specs/a0.yaml", TWO_PHASES)
    edited.write("specs/c.yaml", SPEC.replace("briefly", "at once"))
    done = edited.kdbuild("build", code=1)
    assert "a0_first_select" in done.ran
    assert "error: stage a0_second_elicit failed\n" in done.text
    done = edited.kdbuild("build", "c", "a0", code=1)
    assert "error: stage a0_second_elicit failed\n" in done.text
    for name in ("a0", "c"):
        (edited.root / f"specs/{name}.yaml").unlink()


def test_a_stage_that_is_killed_is_named(edited):
    edited.edit("specs/b.yaml", "Answer well.", "Answer slowly.")
    edited.edit("params.yaml", "{kind: fake}", "{kind: fake, latency_s: 60}")
    command = [sys.executable, "-m", "kdbuild", "build", "b"]
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # noqa: PTH120
    process = subprocess.Popen(command, cwd=edited.root, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stage = _child_with(process.pid, b"kdbuild\0stage\0elicit")
    _wait_until_it_runs(stage)
    os.kill(stage, signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"error: stage b_sft_elicit failed\n" in said


def _wait_until_it_runs(stage: int) -> None:
    env = dict(line.partition("=")[::2] for line in (Path("/proc") / str(stage) / "environ").read_text().split("\0"))
    note = Path(env["KDBUILD_RUNNING"])
    while not (note.exists() and note.read_text()):
        time.sleep(0.1)


def _child_with(parent: int, words: bytes) -> int:
    """Wait for a process below `parent` whose command line holds `words`."""
    for _ in range(600):
        below = {parent}
        for pid in sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            try:
                if int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1]) in below:
                    below.add(pid)
                    if words in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                        return pid
            except OSError:
                continue
        time.sleep(0.1)
    raise AssertionError("the stage never began")


# --- specs that are not valid ---------------------------------------------------------------------------------------------


def test_a_broken_spec_does_not_stop_the_others(edited):
    edited.edit("specs/a.yaml", "label", "lable")
    edited.edit("specs/b.yaml", "max_new_tokens: 12", "max_new_tokens: 9")
    said = "specs/a.yaml is left out: it is not valid (`kdbuild check a` says why)\n"
    assert "Did you mean `label`?" in edited.kdbuild("plan", code=1).text
    assert "Did you mean `label`?" in edited.kdbuild("build", "a", code=1).text
    plan = edited.kdbuild("plan", "b", code=2).text
    assert said in plan
    assert "operators.0.max_new_tokens: 12 -> 9" in plan
    before = edited.read("dvc.yaml")
    done = edited.kdbuild("build", "b")
    assert said in done.text
    assert {"b_compile", "b_sft_elicit"} <= done.ran
    assert edited.read("dvc.yaml") == before
    assert edited.kdbuild("plan", "b").text.endswith("nothing to do\n")


def test_stages_that_were_never_compiled_wait_for_the_broken_spec(edited):
    edited.edit("specs/a.yaml", "label", "lable")
    edited.write("specs/c.yaml", SPEC.replace("briefly", "at once"))
    assert "c_sft_elicit" in edited.kdbuild("plan", "c", code=2).text
    said = edited.kdbuild("build", "c", code=1).text
    assert "the stages of c are not in dvc.yaml yet, which cannot be written while specs/a.yaml is not valid" in said
    (edited.root / "specs/c.yaml").unlink()


def test_a_spec_that_reads_a_broken_one_says_so(edited):
    train = "train: {num_epochs: 1, learning_rate: 1.0e-3, batch_tokens: 64}"
    more = f"  kl:\n    data: [{{from: a/sft}}]\n    objective: {{kind: sft}}\n    {train}\n"
    student = "student: {kind: causal-lm, init: {from: teacher, layers: 1}}\nphases:\n"
    edited.write("specs/c.yaml", SPEC.replace("phases:\n", student) + more)
    edited.edit("specs/a.yaml", "label", "lable")
    done = edited.kdbuild("plan", "c", code=1)
    assert "names spec `a`" in done.text or "specs/a.yaml" in done.text
    assert "Traceback" not in done.text
    (edited.root / "specs/c.yaml").unlink()


def test_dvc_yaml_edited_by_hand(edited):
    edited.write("dvc.yaml", edited.read("dvc.yaml") + "\n")
    done = edited.kdbuild("build", code=4)
    assert done.ran == set()
    assert "kdbuild compile --force" in done.text
    edited.run("git", "checkout", "-q", "dvc.yaml")


def test_a_misspelt_spec_writes_nothing(edited):
    edited.write("specs/c.yaml", SPEC)
    before = edited.read("dvc.yaml")
    assert "there is no spec named `bb`" in edited.kdbuild("build", "bb", code=1).text
    assert edited.read("dvc.yaml") == before
    (edited.root / "specs/c.yaml").unlink()


# --- money ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def paid(edited):
    edited.edit("params.yaml", "{kind: fake}", "{kind: fake, model: dear, price: {answer_usd_per_mtok: 9000.0}}")
    return edited


def _answered(project, reply: str) -> tuple[int, str]:
    """Run a build on a terminal whose person types `reply`."""
    leader, follower = pty.openpty()
    try:
        os.write(leader, reply.encode())
        path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"  # noqa: PTH120
        done = subprocess.run(
            [sys.executable, "-m", "kdbuild", "build"],
            cwd=project.root, env={**os.environ, "PATH": path}, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False, timeout=600,
        )  # fmt: skip
    finally:
        os.close(leader)
        os.close(follower)
    return done.returncode, done.stdout


def test_nobody_there_to_agree(paid):
    calls = paid.num_answers()
    process = subprocess.run(
        [sys.executable, "-m", "kdbuild", "build"], cwd=paid.root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "pass --yes" in process.stderr
    assert paid.num_answers() == calls


@pytest.mark.parametrize("reply", ["\n", "n\n"])
def test_no_is_the_default(paid, reply):
    calls = paid.num_answers()
    code, text = _answered(paid, reply)
    assert code == 1
    assert "Ask asked for about $" in text
    assert "nothing was spent" in text
    assert paid.num_answers() == calls


def test_yes(paid):
    calls = paid.num_answers()
    code, text = _answered(paid, "y\n")
    assert code == 0, text
    assert paid.num_answers() == calls + 8
    # Paid once: nobody is asked about answers that are there.
    paid.edit("specs/a.yaml", "briefly.", "briefly!")
    paid.kdbuild("build", "--yes")
    paid.edit("specs/a.yaml", "briefly!", "briefly.")
    code, text = _answered(paid, "")
    assert code == 0, text
    assert "Ask asked" not in text
