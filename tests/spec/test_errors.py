"""What a user reads when a spec is wrong, byte for byte: each folder of errors/ over errors/_base is a project, expected.txt the output.

`<<family>>` in expected.txt stands for the names of the family's kinds, so that a new kind changes no text here.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from kdbuild import cli
from kdbuild.kinds import available

ERRORS = Path(__file__).parent / "errors"
CASES = sorted(path.name for path in ERRORS.iterdir() if not path.name.startswith("_"))


def lay_out(case: str, root: Path) -> None:
    """Write the project of a case to `root`; its spec.yaml is specs/a.yaml."""
    shutil.copytree(ERRORS / "_base", root, dirs_exist_ok=True)
    shutil.copytree(ERRORS / case, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("expected.txt"))
    if (root / "spec.yaml").exists():
        (root / "spec.yaml").rename(root / "specs" / "a.yaml")
    if not [*(root / "specs").glob("*.y*ml")]:
        shutil.copy(ERRORS / "_base" / "valid.yaml", root / "specs" / "a.yaml")
    (root / "valid.yaml").unlink()


def check(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Run `kdbuild check` in `root`; return exit code, stdout, stderr."""
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["kdbuild", "check", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


@pytest.mark.parametrize("case", CASES)
def test_error(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(case, tmp_path)
    code, _, err = check(tmp_path, monkeypatch, capsys)
    expected = (ERRORS / case / "expected.txt").read_text(encoding="utf-8")
    assert err == re.sub(r"<<([a-z]+)>>", lambda found: ", ".join(available(found[1])), expected)
    assert code == (0 if case.startswith("warning-") else 1)


def test_base_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "specs").mkdir()
    shutil.copytree(ERRORS / "_base", tmp_path, dirs_exist_ok=True)
    shutil.move(tmp_path / "valid.yaml", tmp_path / "specs" / "a.yaml")
    assert check(tmp_path, monkeypatch, capsys) == (0, "specs/a.yaml: ok (phases sft, kl; teacher tiny; objectives sft, forward-kl)\n", "")


def test_every_error_says_where_and_nothing_twice() -> None:
    for case in CASES:
        text = (ERRORS / case / "expected.txt").read_text(encoding="utf-8")
        blocks = text.strip().split("\n\n")
        assert len(blocks) == len(set(blocks)), case
        for block in blocks:
            assert re.match(r"(warning: )?(specs/|params\.yaml)[^:\n]*(:\d+)?:? \S", block), f"{case}: {block}"
