"""The cache of embeddings: what comes back is what was put, and whatever breaks costs time only."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdbuild.rows import database
from kdbuild.rows.vectors import NAME, VectorCache


def digests(count: int, start: int = 0) -> list[bytes]:
    return [hashlib.sha256(f"text {i}".encode()).digest() for i in range(start, start + count)]


def vectors(count: int, dimension: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


def found(cache: VectorCache, names: list[bytes]) -> dict[bytes, bytes]:
    return {names[i]: vector.tobytes() for at, some in cache.vectors(names) for i, vector in zip(at, some, strict=True)}


def test_exact_bytes_come_back_in_another_process(tmp_path: Path) -> None:
    names, given = digests(1300), vectors(1300)
    given[0, :4] = [np.nan, np.inf, -0.0, 1e-42]
    VectorCache(tmp_path / "c").put(names, given)
    asked = [*digests(50, 5000), *reversed(names)]
    assert found(VectorCache(tmp_path / "c"), asked) == {name: vector.tobytes() for name, vector in zip(names, given, strict=True)}


def test_the_first_vector_of_a_text_stays(tmp_path: Path) -> None:
    first, second = VectorCache(tmp_path / "c"), VectorCache(tmp_path / "c")
    first.put(digests(3), vectors(3))
    second.put(digests(5), vectors(5, seed=1))
    expected = [*vectors(3), *vectors(5, seed=1)[3:]]
    assert found(first, digests(5)) == {name: vector.tobytes() for name, vector in zip(digests(5), expected, strict=True)}


def test_graphs_are_replaced_by_name(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "c")
    assert cache.graph("a") is None
    cache.put_graph("a", b"one")
    cache.put_graph("b", b"")
    cache.put_graph("a", b"two")
    again = VectorCache(tmp_path / "c")
    assert (again.graph("a"), again.graph("b")) == (b"two", b"")


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


@pytest.mark.parametrize("harm", ["header", "garbage", "emptied tables"])
def test_a_torn_cache_is_said_once_and_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    folder = tmp_path / "c"
    VectorCache(folder).put(digests(2000), vectors(2000))
    file = folder / NAME
    for log in folder.glob(f"{NAME}-*"):
        log.unlink()
    if harm == "header":
        flip(file, 3)
    elif harm == "garbage":
        file.write_bytes(os.urandom(20_000))
    else:
        file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 60_000)
    cache = VectorCache(folder)
    assert found(cache, digests(2000)) == {}
    cache.put(digests(10), vectors(10))
    assert len(found(cache, digests(2000))) == 10, "the rest of the build keeps what it needs in memory"
    assert capsys.readouterr().err.count("kdbuild: the cache of embeddings") == 1
    fresh = VectorCache(folder)
    fresh.put(digests(4), vectors(4))
    assert len(found(VectorCache(folder), digests(2000))) == 4
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_changed_vector_is_never_handed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, names = tmp_path / "c", digests(3)
    VectorCache(folder).put(names, vectors(3))
    connection = sqlite3.connect(folder / NAME)
    sealed = connection.execute("SELECT vector FROM vectors WHERE digest = ?", (names[1],)).fetchone()[0]
    connection.execute("UPDATE vectors SET vector = ? WHERE digest = ?", (bytes([sealed[0] ^ 1]) + sealed[1:], names[1]))
    connection.commit()
    connection.close()
    assert names[1] not in found(VectorCache(folder), names)
    assert "torn" in capsys.readouterr().err


def test_a_full_disk_costs_time_only(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VectorCache(tmp_path / "c")
    cache.put(digests(10), vectors(10))
    cache._connection.execute(f"PRAGMA max_page_count = {cache._connection.execute('PRAGMA page_count').fetchone()[0] + 2}")
    cache.put(digests(3000), vectors(3000))
    assert "cannot be used" in capsys.readouterr().err
    cache.put(digests(3000), vectors(3000))
    assert len(found(cache, digests(3000))) == 3000
    assert capsys.readouterr().err == ""
    assert len(found(VectorCache(tmp_path / "c"), digests(3000))) == 10


def test_a_folder_that_cannot_be_made_costs_time_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c").write_text("in the way")
    cache = VectorCache(tmp_path / "c")
    cache.put(digests(2), vectors(2))
    assert len(found(cache, digests(2))) == 2
    assert "cannot be used" in capsys.readouterr().err
    assert (tmp_path / "c").read_text() == "in the way"


WRITER = """
import sys, hashlib, numpy as np
from pathlib import Path
from kdbuild.rows.vectors import VectorCache
cache, start = VectorCache(Path(sys.argv[1])), int(sys.argv[2])
for group in range(int(sys.argv[3])):
    numbers = range(start + group * 200, start + group * 200 + 200)
    cache.put([hashlib.sha256(f"text {i}".encode()).digest() for i in numbers], np.array([[i, -i] for i in numbers], np.float32))
    print(group, flush=True)
"""


def test_two_writers_and_a_kill_leave_whole_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "c")]
    steady = subprocess.Popen([*command, "0", "20"], stdout=subprocess.DEVNULL)
    killed = subprocess.Popen([*command, "2000", "100000"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    with killed.stdout:
        done = [int(killed.stdout.readline()) for _ in range(5)][-1]
        time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert steady.wait() == 0
    there = found(VectorCache(tmp_path / "c"), digests(4000))
    assert all(there[name] == np.array([i, -i], np.float32).tobytes() for i, name in enumerate(digests(2000 + done * 200)))
    assert capsys.readouterr().err == ""


def test_the_row_store_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    cache = VectorCache.open(tmp_path, None, "ab" * 32)
    cache.put(digests(1), vectors(1))
    store = tmp_path / ".dvc/kdbuild"
    assert (store / "vectors" / ("ab" * 16) / NAME).is_file()
    assert not (store / database.NAME).exists()
    assert (store / ".gitignore").read_text() == "*\n"
