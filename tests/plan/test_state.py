"""The no-op check: quick to say yes, and never when anything changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdbuild.plan import state

PATHS = ("specs", "params.yaml", "dvc.lock", "artifacts/o", "not/there")


@pytest.fixture
def built(tmp_path):
    for path in ("specs/a.yaml", "specs/deep/seeds.jsonl", "params.yaml", "dvc.lock", "artifacts/o/part", ".dvc/config"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("" if path == ".dvc/config" else "text")
    _age(tmp_path)
    state.remember(tmp_path, [], PATHS, 7)
    assert state.nothing_to_do(tmp_path, []) == 7
    return tmp_path


def _age(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1_600_000_000, 1_600_000_000))


def _rewrite(root: Path) -> None:
    """Write other bytes of the same length and put the old times back: DVC would not see it."""
    path = root / "artifacts/o/part"
    facts = path.stat()
    path.write_text("txet")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


CHANGES = {
    "edited": lambda root: (root / "specs/a.yaml").write_text("other text"),
    "touched": lambda root: (root / "params.yaml").touch(),
    "same size and times": _rewrite,
    "new spec": lambda root: (root / "specs/b.yaml").write_text(""),
    "new seed file": lambda root: (root / "specs/deep/more.jsonl").write_text(""),
    "seed file gone": lambda root: (root / "specs/deep/seeds.jsonl").unlink(),
    "output gone": lambda root: (root / "artifacts/o/part").unlink(),
    "replaced by its copy": lambda root: (root / "dvc.lock").replace(root / "dvc.lock.old") and (root / "dvc.lock").write_text("text"),
    "there now": lambda root: (root / "not").mkdir() or (root / "not/there").write_text(""),
    "torn state": lambda root: (state.folder(root) / "built.json").write_text('{"schema": 1'),
    "state of another kind": lambda root: (state.folder(root) / "built.json").write_text("[]"),
    "state gone": state.forget,
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_is_seen(built, name):
    CHANGES[name](built)
    assert state.nothing_to_do(built, []) is None


def test_another_kdbuild_is_another_answer(built, monkeypatch):
    monkeypatch.setattr(state.sys, "version", "3.99")
    assert state.nothing_to_do(built, []) is None


def test_state_of_some_specs_answers_for_those_alone(built):
    (built / "specs/b.yaml").write_text("b")
    _age(built)
    state.remember(built, ["a"], PATHS, 3)
    assert state.nothing_to_do(built, ["a"]) == 3
    assert state.nothing_to_do(built, ["b"]) is None
    assert state.nothing_to_do(built, []) is None


def test_a_spec_that_is_not_there_is_left_to_the_error_message(built):
    assert state.nothing_to_do(built, ["a"]) == 7
    assert state.nothing_to_do(built, ["misspelt"]) is None


def test_files_of_this_moment_are_not_trusted(built):
    # The times below count in whole seconds, as on some file systems: a change within the same second would not show.
    (built / "params.yaml").write_text("new")
    now = int(state.time.time())
    os.utime(built / "params.yaml", (now, now))
    state.forget(built)
    state.remember(built, [], PATHS, 7)
    assert state.nothing_to_do(built, []) is None


def test_two_checkouts_do_not_share_it(tmp_path):
    assert state.folder(tmp_path / "a").name != state.folder(tmp_path / "b").name
    (tmp_path / "a").mkdir()
    state.remember(tmp_path / "a", [], [], 1)
    assert json.loads((state.folder(tmp_path / "a") / "built.json").read_text())["num_stages"] == 1
