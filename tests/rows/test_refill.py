"""Answers that came with `dvc pull`, found the way DVC leaves them: in its cache, by the md5 in dvc.lock."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from kdbuild import records
from kdbuild.records import Call
from kdbuild.rows.answers import encode
from kdbuild.rows.refill import refill
from kdbuild.rows.store import Store
from kdbuild.teachers import Answer


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def write_calls(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    records.write_dataset(folder, Call, [Call(name, key(name), 64, encode(Answer(f"about {name}", True, 4, 3))) for name in names])


def to_cache(root: Path, folder: Path) -> str:
    """Move a folder into the DVC cache as `dvc commit` would, and return its md5."""
    entries = []
    for path in sorted(folder.iterdir()):
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        cached = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, cached)
        entries.append({"md5": md5, "relpath": path.name})
    folder.rmdir()
    listing = json.dumps(entries).encode()
    md5 = hashlib.md5(listing).hexdigest() + ".dir"
    cached = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(listing)
    return md5


def lock(root: Path, outs: dict[str, str]) -> None:
    lines = ["schema: '2.0'", "stages:"]
    for i, (path, md5) in enumerate(outs.items()):
        lines += [f"  s{i}:", "    cmd: x", "    outs:", f"    - path: {path}", "      hash: md5", f"      md5: {md5}"]
        lines += [f"    - path: {path}-other", "      hash: md5", "      md5: 00112233445566778899aabbccddeeff.dir"]
    (root / "dvc.lock").write_text("\n".join(lines) + "\n")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as store:
        yield store


def missing(store: Store, *names: str):
    asked = [(key(name), 64) for name in names]
    return lambda: [one for one in asked if store.serve(*one) is None]


def test_the_cache_gives_what_the_lock_names(tmp_path, store):
    root = tmp_path / "project"
    write_calls(root / "artifacts/s/p/calls", ["ant", "bee"])
    lock(root, {"artifacts/s/p/calls": to_cache(root, root / "artifacts/s/p/calls")})
    assert refill(store, root, missing(store, "ant", "new")) == 2
    assert store.serve(key("ant"), 64).text == "about ant"
    assert store.serve(key("bee"), 64).text == "about bee"
    assert store.serve(key("new"), 64) is None
    # What was taken in whole is not read again.
    assert refill(store, root, missing(store, "new")) == 0


def test_another_specs_answers_serve_and_the_smallest_set_is_read_first(tmp_path, store):
    root = tmp_path / "project"
    write_calls(root / "artifacts/big/p/calls", ["ant", *(f"more-{i}" for i in range(500))])
    write_calls(root / "artifacts/small/p/calls", ["ant"])
    outs = {f"artifacts/{name}/p/calls": to_cache(root, root / f"artifacts/{name}/p/calls") for name in ("big", "small")}
    lock(root, outs)
    assert refill(store, root, missing(store, "ant")) == 1
    assert store.num_answers() == 1
    assert refill(store, root, missing(store, "more-7")) == 501


def test_the_workspace_serves_without_a_lock(tmp_path, store):
    root = tmp_path / "project"
    write_calls(root / "artifacts/s/p/calls", ["ant"])
    assert refill(store, root, missing(store, "ant")) == 1


def test_nothing_missing_reads_nothing(tmp_path, store):
    root = tmp_path / "project"
    write_calls(root / "artifacts/s/p/calls", ["ant"])
    assert refill(store, root, missing(store)) == 0
    assert store.num_answers() == 0


def test_a_torn_file_is_said_and_left_out(tmp_path, store, capsys):
    root = tmp_path / "project"
    write_calls(root / "artifacts/s/p/calls", ["ant"])
    md5 = to_cache(root, root / "artifacts/s/p/calls")
    lock(root, {"artifacts/s/p/calls": md5})
    entries = json.loads((root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_text())
    shard = next(e["md5"] for e in entries if e["relpath"].endswith(".parquet"))
    path = root / ".dvc/cache/files/md5" / shard[:2] / shard[2:]
    path.write_bytes(path.read_bytes()[:-10])
    assert refill(store, root, missing(store, "ant")) == 0
    assert "cannot be read and are left out" in capsys.readouterr().err
    assert store.num_answers() == 0


@pytest.mark.parametrize("text", ["", "stages: [", "stages: {s: {outs: [{path: a/calls, md5: ../../../etc/passwd.dir}]}}", "stages: 3"])
def test_a_lock_that_says_nothing_useful_is_passed_over(tmp_path, store, text):
    root = tmp_path / "project"
    root.mkdir()
    (root / "dvc.lock").write_text(text)
    assert refill(store, root, missing(store, "ant")) == 0
