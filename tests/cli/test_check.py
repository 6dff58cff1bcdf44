"""`kdbuild check`: output, exit codes, and what it must not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdbuild import cli

HEAVY = ["torch", "transformers", "deepspeed", "datasets", "sentence_transformers", "numpy", "pandas", "pyarrow", "peft", "dvc", "vllm"]
PARAMS = "teachers: {tiny: {kind: fake}}\n"
SPEC = """\
target: {skill: sums}
teacher: tiny
student: {kind: causal-lm, init: {from: teacher, layers: 2}}
seeds: {kind: dataset, path: specs/seeds/a.jsonl}
phases:
  sft:
    elicit: [{kind: label}]
    select: [{kind: exact-dedup}]
    objective: {kind: sft}
  kl:
    objective: {kind: forward-kl}
evaluate: [{kind: held-out-loss}, {kind: rouge}]
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "specs" / "seeds").mkdir(parents=True)
    (tmp_path / "specs" / "seeds" / "a.jsonl").write_text("".join(f'{{"prompt": "What is {i} and one?"}}\n' for i in range(200)))
    (tmp_path / "specs" / "a.yaml").write_text(SPEC)
    (tmp_path / "specs" / "b.yaml").write_text(SPEC.replace("student:", "#").replace("    objective: {kind: sft}\n", "").split("  kl:")[0])
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["kdbuild", "check", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


A = "specs/a.yaml: ok (phases sft, kl; teacher tiny; objectives sft, forward-kl)\n"
B = "specs/b.yaml: ok (phase sft; teacher tiny)\n"


def test_good_specs(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(monkeypatch, capsys) == (0, A + B, "")
    assert check(monkeypatch, capsys, "b") == (0, B, "")
    assert check(monkeypatch, capsys, "specs/b.yaml", "a") == (0, B + A, "")


def test_from_a_folder_inside(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root / "specs" / "seeds")
    assert check(monkeypatch, capsys, "a") == (0, A, "")


def test_one_bad_spec_does_not_hide_the_others(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "specs" / "a.yaml").write_text(SPEC.replace("layers: 2", "layers: two"))
    (root / "specs" / "c.yaml").write_text(SPEC.replace("teacher: tiny", "teacher: tin"))
    code, out, err = check(monkeypatch, capsys)
    assert (code, out) == (1, B)
    assert [block.split(": ")[0] for block in err.split("\n\n")] == ["specs/a.yaml:3", "specs/c.yaml:2"]


def test_a_warning_is_not_an_error(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "specs" / "seeds" / "a.jsonl").write_text(
        "".join(f'{{"id": "first-{i:02d}", "prompt": "What is {i} and one?"}}\n' for i in range(24))
    )
    code, out, err = check(monkeypatch, capsys, "a")
    assert (code, out) == (0, A)
    assert err.startswith("warning: specs/a.yaml:4: seeds: ")


@pytest.mark.parametrize(("given", "said"), [("aa", "no spec named `aa`. Did you mean `a`?"), ("x/y", "no spec named `x/y`")])
def test_no_such_spec(given: str, said: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check(monkeypatch, capsys, given)
    assert (code, out) == (1, "")
    assert err == f"error: {said}\n\nhint: specs/ holds a, b\n"


def test_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    code, out, err = check(monkeypatch, capsys)
    assert (code, out) == (1, "")
    assert err == "error: there is no folder specs/ here\n\nhint: `kdbuild init` starts a project, with a first spec\n"


@pytest.mark.parametrize("command", [["check"], ["schema"], ["schema", "--params"]])
def test_nothing_heavy_is_imported(command: list[str], root: Path) -> None:
    code = (
        f"import sys; sys.argv = ['kdbuild', *{command!r}]\n"
        "from kdbuild import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
