"""A damaged row store: what can be read is kept, and nothing that was not an answer gets in."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from contextlib import closing

import pytest

from kdbuild.plan import sqlite_pages, torn_store
from kdbuild.rows.store import Store
from kdbuild.teachers import Answer

NUM_ANSWERS = 300
PAGE = 4096


def _key(i: int) -> str:
    return hashlib.sha256(str(i).encode()).hexdigest()


def _answer(i: int) -> Answer:
    # Every tenth does not fit into a page, some need several: the overflow chain is read too.
    text = f"answer {i} ü " * (40 * i if i % 10 == 0 else 3)
    return Answer(text, True, 5, i + 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with Store.open(folder) as store, store.run("stage", "key") as ledger:
        for i in range(NUM_ANSWERS):
            store.put(_key(i), 1000, _answer(i), row=f"row {i}", cost_usd=i / 8)
            ledger.count(_answer(i), i / 8)
        ledger.rows = {"row 1": [_key(1)]}
    return folder


@pytest.fixture
def damaged(whole, tmp_path):
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    return folder


def _kept(folder) -> int:
    """Return how many answers there are, each checked against what was put in."""
    with Store.open(folder) as store:
        found = store.serve_many([(_key(i), 1000) for i in range(NUM_ANSWERS)])
        for i in range(NUM_ANSWERS):
            assert found.get((_key(i), 1000), _answer(i)) == _answer(i)
        assert store.num_answers() == len(found), "nothing else got in"
        return len(found)


def _mend(folder) -> str | None:
    found = list(torn_store.find(folder))
    return found[0][2]() if found else None


def test_a_whole_store_is_left_alone(whole):
    assert list(torn_store.find(whole)) == []
    assert list(torn_store.find(whole / "nothing")) == []


def test_every_answer_is_read_without_the_tree(whole):
    found = [record for record in sqlite_pages.records(whole / "rows.sqlite") if len(record) == 7]
    assert len(found) == NUM_ANSWERS
    with closing(sqlite3.connect(whole / "rows.sqlite")) as connection:
        rows = connection.execute("SELECT key, answer, cost_usd FROM answers ORDER BY key").fetchall()
    assert sorted((record[1], record[3].decode(), float(record[6])) for record in found) == rows


def test_head_lost(damaged):
    path = damaged / "rows.sqlite"
    content = path.read_bytes()
    path.write_bytes(b"\0" * PAGE + content[PAGE:])
    assert _mend(damaged).startswith(f"kept {NUM_ANSWERS} answers")
    assert _kept(damaged) == NUM_ANSWERS
    assert (damaged / "rows.sqlite.torn-0").read_bytes() == b"\0" * PAGE + content[PAGE:], "the damaged file is kept as it was"
    assert list(torn_store.find(damaged)) == []


@pytest.mark.parametrize("seed", range(6))
def test_cut_anywhere(damaged, seed):
    path, dice = damaged / "rows.sqlite", random.Random(seed)
    content = path.read_bytes()
    length = dice.randrange(PAGE, len(content))
    path.write_bytes(content[:length])
    said = _mend(damaged)
    kept = _kept(damaged)
    assert said is None or said.startswith(f"kept {kept} answer")
    # Each page holds its share; what a cut takes away is at most what lies behind it, and the chains that lead there.
    assert kept >= NUM_ANSWERS * length / len(content) * 0.3 - 10
    with Store.open(damaged) as store:
        store.put("0" * 64, 1, Answer("new", True, 1, 1))
        assert store.serve("0" * 64, 1) is not None


@pytest.mark.parametrize("seed", range(6))
def test_pages_overwritten(damaged, seed):
    path, dice = damaged / "rows.sqlite", random.Random(seed)
    content = bytearray(path.read_bytes())
    pages = dice.sample(range(len(content) // PAGE), 3)
    for page in pages:
        content[page * PAGE : (page + 1) * PAGE] = dice.randbytes(PAGE)
    path.write_bytes(content)
    assert _mend(damaged) is not None
    assert _kept(damaged) >= NUM_ANSWERS - 3 * 60


def test_an_answer_that_is_none_is_left_out(damaged):
    with closing(sqlite3.connect(damaged / "rows.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE answers SET answer = '{\"text\": 1}' WHERE key = ?", (bytes.fromhex(_key(3)),))
    (found,) = torn_store.find(damaged)
    assert "1 of its answers is not one" in found[0]
    found[2]()
    assert _kept(damaged) == NUM_ANSWERS - 1
    with Store.open(damaged) as store:
        (run,) = store.runs("stage")
        assert run.num_calls == NUM_ANSWERS, "the ledger of what was spent stays"
        assert store.last_run("stage") == {"row 1": [_key(1)]}


def test_answers_in_the_log_are_kept(damaged):
    store = Store.open(damaged)
    store.put("a" * 64, 7, Answer("only in the log", True, 1, 1))
    store.flush()
    crashed = damaged.parent / "crashed"
    shutil.copytree(damaged, crashed)
    store.close()
    assert (crashed / "rows.sqlite-wal").stat().st_size > 0
    content = (crashed / "rows.sqlite").read_bytes()
    (crashed / "rows.sqlite").write_bytes(b"\0" * PAGE + content[PAGE:])
    assert _mend(crashed).startswith(f"kept {NUM_ANSWERS + 1} answers")
    with Store.open(crashed) as after:
        assert after.serve("a" * 64, 7) == Answer("only in the log", True, 1, 1)


def test_not_a_database_at_all(tmp_path):
    (tmp_path / "rows.sqlite").write_bytes(random.Random(0).randbytes(20_000))
    assert _mend(tmp_path).startswith("kept 0 answers")
    with Store.open(tmp_path) as store:
        assert store.num_answers() == 0
