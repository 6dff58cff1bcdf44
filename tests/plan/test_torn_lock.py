"""dvc.lock cut at any byte: after mending, every stage has the entry it had, or none that could be taken for fresh."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from kdbuild.plan import damage, lockfile, torn_lock

NAMES = ("first", "second", "third")


def _entry(name: str, digest: str) -> str:
    return (
        f"  {name}:\n    cmd: echo {name}\n    deps:\n    - path: {name}.in\n      hash: md5\n      md5: {digest}\n      size: 3\n"
        f"    params:\n      r.json:\n        {name}._key: abc\n        {name}.rate: 5e-05\n"
        f"    outs:\n    - path: {name}.out\n      hash: md5\n      md5: 5d41402abc4b2a76b9719d911017c592\n      size: 5\n"
    )


def _lock(names=NAMES, digest="b" * 32) -> str:
    return "schema: '2.0'\nstages:\n" + "".join(_entry(name, digest) for name in names)


@pytest.fixture
def project(tmp_path):
    stages = "".join(f"  {name}:\n    cmd: echo {name}\n    outs: [{name}.out]\n" for name in NAMES)
    for path, text in {"dvc.yaml": f"stages:\n{stages}", "dvc.lock": _lock(), ".dvc/config": ""}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    for name in NAMES:
        (tmp_path / f"{name}.out").write_text("hello")
    snapshots = tmp_path / ".dvc/kdbuild/dvc-lock"
    snapshots.mkdir(parents=True)
    (snapshots / "00000001.lock").write_text(_lock(("first",)))
    (snapshots / "00000002.lock").write_text(_lock())
    return tmp_path


def _found(root: Path) -> list[damage.Damage]:
    return [one for one in damage.find(root) if "dvc.lock" in one.what]


def test_a_good_lock_is_left_alone(project):
    assert _found(project) == []


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_every_cut_is_mended(project, step):
    whole, good = _lock(), lockfile.parse(_lock())
    snapshots = project / ".dvc/kdbuild/dvc-lock"
    for length in range(0, len(whole), step):
        (project / "dvc.lock").write_text(whole[:length])
        for _, _, mend in torn_lock.find(project, snapshots):
            mend()
        after = lockfile.parse((project / "dvc.lock").read_text())
        assert set(after) == set(NAMES), length
        for name in NAMES:
            # An entry cut where it still reads well lacks outputs, or has a hash of nothing: DVC builds or restores that stage.
            assert after[name] == good[name] or after[name].outs != good[name].outs or after[name].deps != good[name].deps, length
            if length < whole.index("  third:"):
                assert after[name] == good[name], length
        assert list(torn_lock.find(project, snapshots)) == []


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 100, b"\xff\xfe", b"[]", b"stages: {}\n", b"<<<<<<< HEAD\n" + _lock().encode()])
def test_what_is_no_lock_is_mended(project, content):
    (project / "dvc.lock").write_bytes(content)
    (one,) = _found(project)
    assert "dvc stops at it" in one.what
    said = one.mend()
    assert YAML(typ="safe").load((project / "dvc.lock").read_text()) == YAML(typ="safe").load(_lock())
    aside = next((project / ".dvc/tmp").glob("torn-*"))
    assert aside.name in said
    assert aside.read_bytes() == content


@pytest.mark.parametrize("last", ["md5:", "md5: 5d41"])
def test_a_hash_that_dvc_would_stumble_over(project, last):
    # DVC's own schema lets an empty hash pass: `dvc repro` then stops with a TypeError (seen after a kill -9).
    text = _lock()
    (project / "dvc.lock").write_text(text[: text.rindex("md5: ")] + last)
    (one,) = _found(project)
    one.mend()
    assert lockfile.parse((project / "dvc.lock").read_text()) == lockfile.parse(text)


def test_the_entry_of_what_is_there_is_taken(project):
    newest = project / ".dvc/kdbuild/dvc-lock/00000003.lock"
    newest.write_text(_lock(digest="c" * 32).replace("5d41402abc4b2a76b9719d911017c592", "f" * 32, 1))
    (project / "dvc.lock").write_text("")
    _found(project)[0].mend()
    after = lockfile.parse((project / "dvc.lock").read_text())
    assert after["first"].deps == {"first.in": "b" * 32}, "its newest entry is of other outputs than those that are there"
    assert after["second"].deps == {"second.in": "c" * 32}


def test_the_committed_lock_serves_where_there_is_no_snapshot(project):
    for snapshot in (project / ".dvc/kdbuild/dvc-lock").iterdir():
        snapshot.unlink()
    for command in (["init", "-q"], ["add", "dvc.lock"], ["-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-qm", "lock"]):
        subprocess.run(["git", *command], cwd=project, check=True)
    (project / "dvc.lock").write_text(_lock()[:200])
    _found(project)[0].mend()
    assert lockfile.parse((project / "dvc.lock").read_text()) == lockfile.parse(_lock())


def test_without_any_good_lock_it_is_put_aside(project):
    for snapshot in (project / ".dvc/kdbuild/dvc-lock").iterdir():
        snapshot.write_text("torn too")
    (project / "dvc.lock").write_text("")
    (one,) = _found(project)
    assert "run cache" in one.remedy
    one.mend()
    assert not (project / "dvc.lock").exists()


def test_stages_taken_out_of_dvc_yaml_are_not_missed(project):
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text[: text.index("  third:")])
    (project / "dvc.lock").write_text(_lock(("first", "second")))
    assert list(torn_lock.find(project, project / ".dvc/kdbuild/dvc-lock")) == []
