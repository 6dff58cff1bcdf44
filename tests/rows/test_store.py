"""The row store: what serves, what lasts, and what is said when it cannot be written."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from kdbuild.errors import StageError
from kdbuild.rows import database, place
from kdbuild.rows.store import Spent, Store
from kdbuild.teachers import Answer


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def ended(tokens: int, text: str = "yes") -> Answer:
    return Answer(text, True, 5, tokens)


def cut(tokens: int, text: str = "and so") -> Answer:
    return Answer(text, False, 5, tokens)


@pytest.mark.parametrize(
    ("stored_limit", "answer", "limit", "serves"),
    [
        (64, ended(10), 64, True),
        (64, ended(10), 128, True),
        (64, ended(10), 10, True),
        (64, ended(10), 9, False),
        (64, cut(64), 64, True),
        (64, cut(64), 128, False),
        (64, cut(64), 32, False),
    ],
)
def test_an_answer_serves_if_it_ended_within_the_limit_or_was_cut_at_it(tmp_path, stored_limit, answer, limit, serves):
    with Store.open(tmp_path) as store:
        store.put(key(1), stored_limit, answer)
        assert store.serve(key(1), limit) == (answer if serves else None)
        assert store.serve(key(2), limit) is None


def test_a_key_holds_one_answer_a_limit_and_the_exact_limit_comes_first(tmp_path):
    with Store.open(tmp_path) as store:
        store.put(key(1), 128, ended(40, "asked with 128"))
        store.put(key(1), 64, ended(41, "asked with 64"))
        store.put(key(1), 32, cut(32))
        assert store.serve(key(1), 64).text == "asked with 64"
        assert store.serve(key(1), 128).text == "asked with 128"
        assert store.serve(key(1), 100).text == "asked with 64"
        assert store.serve(key(1), 32).text == "and so"


def test_the_first_writer_wins(tmp_path):
    with Store.open(tmp_path) as one, Store.open(tmp_path) as two:
        one.put(key(1), 64, ended(3, "first"))
        one.flush()
        two.put(key(1), 64, ended(4, "second"))
        assert two.serve(key(1), 64).text == "first"
        assert one.num_answers() == 1


def test_an_accepted_failure_serves_only_where_asked_for_and_gives_way_to_an_answer(tmp_path):
    failure = Answer("", False, 0, 0, failed="no luck")
    with Store.open(tmp_path) as store:
        store.put(key(1), 64, failure)
        assert store.serve(key(1), 64) is None
        assert store.serve_many([(key(1), 64)], failures=True) == {(key(1), 64): failure}
        assert store.serve_many([(key(1), 65)], failures=True) == {}
        store.put(key(1), 32, ended(8))
        assert store.serve_many([(key(1), 64)], failures=True) == {(key(1), 64): ended(8)}
        store.put(key(1), 64, ended(9))
        assert store.serve(key(1), 64) == ended(9)
        store.put(key(2), 64, failure)
        assert store.forget_failures([key(1), key(2)]) == 1
        assert store.num_answers() == 2


def test_an_answer_that_was_taken_back_returns_only_by_another_call_or_as_another_answer(tmp_path):
    garbled, good = ended(8, "garbled"), ended(9, "good")
    with Store.open(tmp_path) as store:
        for n in (1, 2, 3):
            store.put(key(n), 64, garbled, cost_usd=0.5)
        assert store.taken_by([key(1), key(2), key(2), key(9)]) == Spent(2, 2 * garbled.num_prompt_tokens, 16, 1.0)
        assert store.forget_answers([key(1), key(2), key(3), key(9)]) == 3
        assert store.serve_many([(key(n), 64) for n in (1, 2, 3)]) == {}
        assert store.taken_by([key(1)]) == Spent()
        store.put(key(1), 64, garbled, pulled=True)
        store.put(key(2), 64, good, pulled=True)
        store.put(key(3), 64, garbled)  # the server says the same again
        assert store.serve_many([(key(n), 64) for n in (1, 2, 3)]) == {(key(2), 64): good, (key(3), 64): garbled}


def test_thousands_at_once(tmp_path):
    asked = [(key(i), 64) for i in range(3000)]
    with Store.open(tmp_path) as store:
        for i, (k, limit) in enumerate(asked):
            store.put(k, limit, ended(i % 70 + 1, str(i)))
        found = store.serve_many(asked)
    assert {k: a.text for (k, _), a in found.items()} == {key(i): str(i) for i in range(3000) if i % 70 + 1 <= 64}


def test_what_was_put_becomes_durable_without_another_call(tmp_path):
    with Store.open(tmp_path, commit_interval_s=0.05) as store, Store.open(tmp_path) as reader:
        for i in range(3):
            store.put(key(i), 64, ended(3))
            deadline = time.monotonic() + 20
            while reader.serve(key(i), 64) is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert reader.serve(key(i), 64) == ended(3)


def test_a_killed_writer_loses_nothing_that_was_flushed(tmp_path):
    script = """
        import sys
        from kdbuild.rows.store import Store
        from kdbuild.teachers import Answer
        from pathlib import Path
        store = Store.open(Path(sys.argv[1]), commit_interval_s=1000)
        for i in range(10):
            store.put(f"{i:064x}", 64, Answer("yes", True, 5, 3))
        store.flush()
        print("flushed", flush=True)
        sys.stdin.read()
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "flushed\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    with Store.open(tmp_path) as store:
        assert len(store.serve_many([(f"{i:064x}", 64) for i in range(10)])) == 10


def test_several_processes_write_at_once(tmp_path):
    script = """
        import sys
        from kdbuild.rows.store import Store
        from kdbuild.teachers import Answer
        from pathlib import Path
        with Store.open(Path(sys.argv[1]), commit_interval_s=0.01) as store:
            for i in range(300):
                store.put(f"{(i + int(sys.argv[2]) * 100):064x}", 64, Answer("yes", True, 5, 3))
                if i % 20 == 0:
                    store.flush()
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), str(tmp_path)]
    writers = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(3)]
    for writer in writers:
        assert writer.communicate()[1] == ""
        assert writer.returncode == 0
    with Store.open(tmp_path) as store:
        assert store.num_answers() == 500


@pytest.mark.parametrize("damage", ["not a database at all" * 100, None])
def test_a_torn_file_names_doctor(tmp_path, damage):
    with Store.open(tmp_path) as store:
        for i in range(2000):
            store.put(key(i), 64, ended(3, "x" * 200))
    path = tmp_path / database.NAME
    if damage is not None:
        path.write_text(damage)
    else:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 4)
            file.write(b"\xff" * (path.stat().st_size // 2))
    with pytest.raises(StageError, match="torn") as caught, Store.open(tmp_path) as store:
        store.serve_many([(key(i), 64) for i in range(2000)])
    assert "kdbuild doctor" in caught.value.hint


def test_a_store_of_another_format_is_refused(tmp_path):
    Store.open(tmp_path).close()
    connection = sqlite3.connect(tmp_path / database.NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StageError, match="format 99"):
        Store.open(tmp_path)


def test_reading_a_store_that_is_not_there_makes_nothing(tmp_path):
    with Store.open(tmp_path / "absent", read_only=True) as store:
        assert store.serve(key(1), 64) is None
        assert store.last_run("s") is None
    assert not (tmp_path / "absent").exists()


def test_a_read_only_store_serves_and_says_why_it_cannot_write(tmp_path):
    with Store.open(tmp_path) as store:
        store.put(key(1), 64, ended(3))
    store = Store.open(tmp_path, read_only=True)
    assert store.serve(key(1), 64) == ended(3)
    store.put(key(2), 64, ended(3))
    with pytest.raises(StageError, match="cannot be written"):
        store.close()
    with Store.open(tmp_path) as store:
        assert store.num_answers() == 1


def test_no_room_for_the_reserve_is_said_before_a_teacher_is_asked(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(StageError, match="cannot be written") as caught:
            Store.open(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "4 MiB free" in caught.value.hint


def test_a_disk_that_fills_up_keeps_every_answer_and_says_so(small_disk):
    store = Store.open(small_disk, commit_interval_s=1000)
    kept = 0
    caught = None
    while caught is None:
        try:
            store.put(key(kept), 64, ended(3, f"{kept} " + "x" * 4000))
        except StageError as error:
            caught = error
        kept += 1  # the last one too: its put made the group durable, out of the reserve
    assert "disk is full" in caught.message
    assert "free some space" in caught.hint
    with pytest.raises(StageError, match="disk is full"):
        store.put(key("more"), 64, ended(3, "x" * 2**23))  # more than a group's text: written at once
    with pytest.raises(StageError, match="disk is full"):
        store.close()
    assert not (small_disk / database.RESERVE).exists()
    with Store.open(small_disk, read_only=True) as reader:
        found = reader.serve_many([(key(i), 64) for i in range(kept)])
    assert len(found) == kept


def test_a_read_only_disk_is_said(small_disk):
    with Store.open(small_disk) as store:
        store.put(key(1), 64, ended(3))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StageError, match="cannot be written") as caught, Store.open(small_disk) as store:
        store.put(key(2), 64, ended(3))
    assert "rows_dir" in caught.value.hint
    with Store.open(small_disk, read_only=True) as store:
        assert store.serve(key(1), 64) == ended(3)
    with pytest.raises(StageError, match="cannot be made"):
        place.store_dir(small_disk, "rows")


def test_a_rollback_journal_is_used_where_wal_cannot_work_and_said_aloud(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(database, "_file_system", lambda folder: "nfs4")
    with Store.open(tmp_path) as store:
        store.put(key(1), 64, ended(3))
        assert store.serve(key(1), 64) == ended(3)
    assert "rollback journal" in capfd.readouterr().err
    connection = sqlite3.connect(tmp_path / database.NAME)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    connection.close()


def test_the_ledger_keeps_the_last_finished_run(tmp_path):
    with Store.open(tmp_path) as store:
        assert store.last_run("a_p_elicit") is None
        with store.run("a_p_elicit", "k1") as ledger:
            ledger.count(ended(7), 0.25)
            ledger.rows = {"r1": [key(1)], "r2": []}
        with contextlib.suppress(ZeroDivisionError), store.run("a_p_elicit", "k2") as ledger:
            ledger.count(ended(9), 0.5)
            ledger.rows = {"r3": []}
            raise ZeroDivisionError
        assert store.last_run("a_p_elicit") == {"r1": [key(1)], "r2": []}
        first, second = store.runs("a_p_elicit")
    assert (first.section_key, first.finished, first.num_calls, first.num_new_tokens, first.cost_usd) == ("k1", True, 1, 7, 0.25)
    assert (second.section_key, second.finished, second.num_calls, second.num_prompt_tokens) == ("k2", False, 1, 5)
    assert first.seconds >= 0
