"""Leftovers of killed processes, and what only looks like them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys

import pytest

from kdbuild.plan import damage, leftovers

CMD = "dvc repro"


@pytest.fixture
def project(tmp_path):
    for folder in (".dvc/tmp", ".dvc/cache/runs/ab/abc", ".dvc/kdbuild/locks", "artifacts/s/sft"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _rwlock(project, value) -> list[damage.Damage]:
    path = project / ".dvc/tmp/rwlock"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return damage.find(project)


def test_rwlock_cut_at_every_byte(project, dead_pid):
    whole = json.dumps({"write": {"/p/o": {"pid": dead_pid, "cmd": CMD}}, "read": {"/p/i": [{"pid": dead_pid, "cmd": CMD}]}})
    path = project / ".dvc/tmp/rwlock"
    for length in range(len(whole)):
        path.write_text(whole[:length])
        ((what, _, mend),) = leftovers.find_rwlock(path)
        assert "torn" in what
        mend()
        assert not path.exists()


@pytest.mark.parametrize(
    "value", [[], {"write": {"/p": []}}, {"read": {"/p": [{"pid": "1", "cmd": ""}]}}, {"other": {}}, {"read": {"/p": [{}]}}]
)
def test_rwlock_of_another_form(project, value):
    assert ["torn" in one.what for one in _rwlock(project, value)] == [True]


def test_rwlock_of_the_dead(project, dead_pid):
    (one,) = _rwlock(project, {"write": {"/p/o": {"pid": dead_pid, "cmd": CMD}}, "read": {}})
    assert str(dead_pid) in one.what
    one.mend()
    assert damage.find(project) == []


def test_rwlock_of_the_living_is_left_alone(project, dead_pid):
    living = {"pid": os.getpid(), "cmd": CMD}
    assert _rwlock(project, {"write": {"/p/o": living}, "read": {"/p/i": [{"pid": dead_pid, "cmd": CMD}]}}) == []
    assert _rwlock(project, {}) == []


def test_rwlock_with_a_number_used_again(project):
    _rwlock(project, {"write": {"/p/o": {"pid": os.getpid(), "cmd": CMD}}})
    # The file is older than the process that now has the number.
    os.utime(project / ".dvc/tmp/rwlock", (1_000_000_000, 1_000_000_000))
    assert ["gone" in one.what for one in damage.find(project)] == [True]


HASH = "  hash: md5\n  md5: 5d41402abc4b2a76b9719d911017c592\n"
ENTRY = f"cmd: echo\ndeps:\n- path: a\n{HASH}outs:\n- path: o\n{HASH}"


def test_run_cache_keeps_what_is_whole(project):
    folder = project / ".dvc/cache/runs/ab/abc"
    (folder / "good").write_text(ENTRY)
    (folder / ".x1y2.tmp").write_text(ENTRY)
    (folder / "no outs").write_text(ENTRY[: ENTRY.index("outs:")])
    (folder / "empty").write_text("")
    (folder / "torn").write_text("cmd: [")
    (folder / "bytes").write_bytes(b"\xff\x00")
    (one,) = damage.find(project)
    assert one.what.startswith("5 unfinished entries")
    one.mend()
    assert [path.name for path in folder.iterdir()] == ["good"]


def test_run_cache_entries_cut_at_every_byte(project):
    path = project / ".dvc/cache/runs/ab/abc/entry"
    for length in range(len(ENTRY)):
        path.write_text(ENTRY[:length])
        found = list(leftovers.find_run_cache(project / ".dvc/cache/runs", is_own=True))
        # What is cut inside the last line still has outputs: DVC finds no object of that hash and builds the stage.
        assert found or length > ENTRY.rindex("md5: "), length


def test_young_entries_of_a_shared_cache_are_left_alone(tmp_path):
    folder = tmp_path / "runs/ab/abc"
    folder.mkdir(parents=True)
    (folder / ".x.tmp").write_text("")
    assert list(leftovers.find_run_cache(tmp_path / "runs", is_own=False)) == []
    os.utime(folder / ".x.tmp", (1_000_000_000, 1_000_000_000))
    assert len(list(leftovers.find_run_cache(tmp_path / "runs", is_own=False))) == 1


def test_half_written_outputs(project):
    (project / "artifacts/s/sft/model.partial").mkdir()
    (project / "artifacts/s/sft/model.partial/weights").write_text("")
    (project / "artifacts/s/sft/elicit.json.partial").write_text("")
    (project / "artifacts/s/.resolved.json.123.partial").write_text("")
    (project / ".dvc.yaml.9.partial").write_text("")
    (project / "artifacts/s/sft/model").mkdir()
    (one,) = damage.find(project)
    assert one.what.startswith("4 outputs")
    one.mend()
    assert [path.name for path in (project / "artifacts/s/sft").iterdir()] == ["model"]
    assert damage.find(project) == []


@pytest.mark.parametrize("held", [".dvc/tmp/lock", ".dvc/tmp/rwlock.lock", ".dvc/kdbuild/locks/s_sft_train.lock"])
def test_nothing_is_mended_under_a_living_build(project, held):
    (project / "artifacts/s/sft/model.partial").mkdir()
    with (project / held).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (one,) = damage.find(project)
        assert one.mend is None
        assert one.remedy.startswith("nothing while")
    assert damage.find(project)[0].mend is not None


def test_a_running_dvc_is_found(project):
    # DVC lets go of its lock while a stage's command runs; the process itself is what shows.
    (project / "dvc").write_text("import sys; print(flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "dvc"], cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.read(1)
        assert leftovers.dvc_process(project) == process.pid
        process.stdin.close()
    assert leftovers.dvc_process(project) is None


def test_advice_names_remotes_that_are_not_verified(project):
    (project / ".dvc/config").write_text("['remote \"far\"']\n    url = s3://x\n['remote \"near\"']\n    url = /x\n    verify = true\n")
    (project / ".dvc/config.local").write_text("['remote \"mine\"']\n    url = /y\n")
    advice = list(damage.advice(project))
    assert [line.split("`")[1] for line in advice] == ["dvc remote modify far verify true", "dvc remote modify mine verify true"]
