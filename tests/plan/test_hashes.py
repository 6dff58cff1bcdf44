"""Hashes and run-cache keys against those that DVC itself writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from kdbuild.plan import lockfile
from kdbuild.plan.hashes import Hashes
from kdbuild.plan.runcache import RunCache, key_of

DVC_YAML = """
stages:
  make:
    cmd: ./tool.sh && mkdir -p out/deep && cp data/a.txt out/deep/b && echo 1 > facts.json
    deps: [data, deep/data, tool.sh]
    params: [{params.json: [a.size, a.rate, a.names, a.table, a.none]}]
    outs: [out]
    metrics: [{facts.json: {cache: false}}]
"""
PARAMS = '{"a": {"size": 3, "rate": 5e-05, "names": ["ä", "b"], "table": {"size": 1, "x": 2.0}, "none": null}}'


FILES = {
    "dvc.yaml": DVC_YAML,
    "params.json": PARAMS,
    "tool.sh": "#!/bin/sh\n",
    ".dvcignore": "# not these\n*.bak\n/data/skipped/\n!keep.bak\n",
    "data/a.txt": "one\r\n",
    "data/ü b.txt": "two",
    "data/old.bak": "left out",
    "data/keep.bak": "kept",
    "data/skipped/c": "left out",
    "data/z/z.txt": "three",
    "data/z.txt": "sorts before z/z.txt",
    "data/.git/x": "left out",
    "deep/.dvcignore": "!b.bak\n*.old\n",
    "deep/data/a.bak": "left out",
    "deep/data/b.bak": "taken back in by the nearer file",
    "deep/data/c.old": "left out",
    "deep/data/sub/.dvc/config": "another project: left out",
    "elsewhere/d": "linked",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("dvc")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True)
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, newline="")
    (root / "tool.sh").chmod(0o755)
    (root / "data/link.txt").symlink_to("a.txt")
    (root / "data/linked").symlink_to("../elsewhere")
    (root / "data/empty").mkdir()
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)
    return root


def _lock(root: Path) -> dict:
    return YAML(typ="safe").load((root / "dvc.lock").read_text())["stages"]["make"]


def test_hashes_are_those_of_dvc(built):
    lock, hashes = _lock(built), Hashes(built)
    expected = {item["path"]: item["md5"] for item in [*lock["deps"], *lock["outs"]]}
    assert set(expected) == {"data", "deep/data", "tool.sh", "out", "facts.json"}
    assert {path: hashes.of(path) for path in expected} == expected
    assert hashes.of("nothing/here") is None


def test_run_cache_key_is_that_of_dvc(built):
    lock = _lock(built)
    (folder,) = (built / ".dvc/cache/runs").glob("*/*")
    # The executable bit is part of what DVC hashes; sizes are not.
    assert next(dep for dep in lock["deps"] if dep["path"] == "tool.sh")["isexec"] is True
    deps = [{"path": path, "hash": "md5", "md5": Hashes(built).of(path)} for path in ("deep/data", "data")]
    deps.append({"path": "tool.sh", "hash": "md5", "md5": Hashes(built).of("tool.sh"), "isexec": Hashes(built).is_executable("tool.sh")})
    key = key_of(lock["cmd"], deps, lock["params"], [out["path"] for out in lock["outs"]])
    assert key == folder.name
    cache = RunCache(built / ".dvc/cache")
    entry = cache.entry(key)
    assert entry == lockfile.entry_of(lock, "make")
    assert cache.has(entry.outs)
    assert cache.read(entry.outs["out"], "deep/b") == b"one\r\n"


def test_missing_or_spoilt_cache_objects_are_seen(built, tmp_path):
    outs = lockfile.entry_of(_lock(built), "make").outs
    cache = RunCache(built / ".dvc/cache")
    member = cache.objects(outs["out"])[1]
    content = member.read_bytes()
    member.chmod(0o644)
    assert cache.has(outs), "an unprotected object with the right bytes is good"
    member.write_bytes(b"other")
    assert not cache.has(outs)
    member.unlink()
    assert not cache.has(outs)
    member.write_bytes(content)
    member.chmod(0o444)
    assert cache.has(outs)


def test_unchanged_files_are_not_read_again(tmp_path):
    (tmp_path / "big").write_text("first")
    os.utime(tmp_path / "big", ns=(10**18, 10**18))
    kept = tmp_path / "kept" / "hashes.json"
    first = Hashes(tmp_path, kept)
    digest = first.of("big")
    first.save()
    facts = (tmp_path / "big").stat()
    # Same inode, size and time: DVC takes it for unchanged, and so does the plan.
    with (tmp_path / "big").open("r+") as file:
        file.write("tsrif")
    os.utime(tmp_path / "big", ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    assert Hashes(tmp_path, kept).of("big") == digest
    os.utime(tmp_path / "big", ns=(facts.st_mtime_ns + 1, facts.st_mtime_ns + 1))
    assert Hashes(tmp_path, kept).of("big") != digest


def test_a_file_of_this_moment_is_read_again(tmp_path):
    (tmp_path / "young").write_text("first")
    kept = tmp_path / "hashes.json"
    first = Hashes(tmp_path, kept)
    first.of("young")
    first.save()
    assert not kept.exists(), "the hash of a file that may change within the same tick is not kept"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"/x": [1, 2]}', "null"])
def test_a_torn_store_of_hashes_costs_only_time(tmp_path, text):
    (tmp_path / "hashes.json").write_text(text)
    (tmp_path / "a").write_text("hello")
    assert Hashes(tmp_path, tmp_path / "hashes.json").of("a") == "5d41402abc4b2a76b9719d911017c592"
