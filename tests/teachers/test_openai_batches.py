"""The batch API: what was sent is found again, what went wrong is sent again, and nothing is paid twice."""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import pytest

from kdbuild import kinds
from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.teachers import Ask, _batch_api

sys.path.insert(0, str(Path(__file__).parent))
import servers

KEY = "sk-batch-8f3a9c0d1e2b4a5f60"
NUM_ROWS = 40
RETRIES = 2
ASKS = [Ask(f"row-{i}", (Message("user", f"question {i}"),), 5 + i % 30) for i in range(NUM_ROWS)]


def expected(ask: Ask) -> str:
    words = servers.written([{"role": m.role, "content": m.content} for m in ask.messages]).split()
    return " ".join(words[: ask.max_new_tokens])


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)


def teacher_at(server, **fields):
    knobs = {"batch_api": True, "batch_poll_s": 0.02, "retry_wait_s": 0.01, "max_retries": RETRIES, "api_key_env": "TEACHER_KEY", **fields}
    return kinds.parse("teachers", {"kind": "openai", "model": servers.MODEL, "endpoints": [server.url], **knobs})


def ask_all(server, asks=ASKS, **fields):
    with teacher_at(server, **fields).open(Path(), None) as session:
        found = list(session.generate(asks))
    assert sorted(index for index, _ in found) == list(range(len(asks)))
    return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]


def check_all_right(found, asks=ASKS):
    assert [answer.failed for answer in found if answer.failed] == []
    assert [answer.text for answer in found] == [expected(ask) for ask in asks]


def test_all_questions_are_one_batch_and_equal_ones_one_line():
    with servers.serve(key=KEY) as server:
        check_all_right(ask_all(server, [*ASKS, *ASKS[:5]]), [*ASKS, *ASKS[:5]])
        assert (len(server.batches), server.num_lines, len(server.calls)) == (1, NUM_ROWS, 0)


def test_many_questions_are_several_batches(monkeypatch):
    monkeypatch.setattr(_batch_api, "_MOST_LINES", 15)
    with servers.serve(key=KEY) as server:
        check_all_right(ask_all(server))
        assert [len(server.files[batch["input_file_id"]].splitlines()) for batch in server.batches.values()] == [15, 15, 10]


def test_questions_that_answers_bring_up_are_sent_after_them():
    asks = list(ASKS[:10])
    with servers.serve(key=KEY) as server, teacher_at(server).open(Path(), None) as session:
        found = {}
        for index, answer in session.generate(asks):
            found[index] = answer
            if len(asks) < 20:
                asks.append(Ask(f"more-{index}", (Message("user", f"more {index}"),), 30))
        check_all_right([found[i] for i in range(20)], asks)
        assert server.num_lines == 20


@pytest.mark.parametrize("seed", range(10))
def test_lines_that_are_missing_too_many_or_broken(seed):
    """A wrong row count either way: what is missing is sent again, what is too much is not read."""
    chance = random.Random(seed)

    def fault(text, attempt):
        return chance.choice(["missing", "twice", "500", "malformed", "unknown", None]) if attempt < RETRIES else None

    with servers.serve(key=KEY, line_faults=fault) as server:
        check_all_right(ask_all(server))
        assert server.num_lines <= NUM_ROWS * (RETRIES + 1)


def test_lines_that_always_fail_are_listed_with_the_reason():
    bad = {"question 3": "500", "question 4": "400", "question 5": "missing"}
    with servers.serve(key=KEY, line_faults=lambda text, attempt: bad.get(text)) as server:
        found = ask_all(server)
        assert server.num_lines == NUM_ROWS + 2 * RETRIES
    reasons = {i: answer.failed for i, answer in enumerate(found) if answer.failed}
    assert reasons == {
        3: "the server failed (HTTP 500)",
        4: "the server refused it (HTTP 400: this row is not liked)",
        5: "the batch gave no answer",
    }
    check_all_right([a for a in found if not a.failed], [a for i, a in enumerate(ASKS) if i not in reasons])


def test_a_batch_that_expires_is_gone_on_with():
    with servers.serve(key=KEY, batch_ends=lambda number: "completed" if number else "expired") as server:
        check_all_right(ask_all(server))
        assert server.num_lines == NUM_ROWS  # each line was run once
        assert len(server.batches) == 2


def test_a_batch_that_is_refused_as_a_whole():
    with servers.serve(key=KEY, batch_ends=lambda number: "failed") as server:
        with pytest.raises(StageError, match="refused a batch: the file is not liked"):
            ask_all(server)
        assert len(server.batches) == 1


@pytest.mark.parametrize("is_done", [False, True])
def test_a_batch_in_flight_is_taken_up_after_a_restart(is_done):
    with servers.serve(key=KEY, batch_s=0.6) as server:
        first = teacher_at(server)
        _abandon(server, first)
        if is_done:
            _wait_until_done(server)
        other = [*ASKS[10:], Ask("new", (Message("user", "a new question"),), 30)]  # the spec was edited in between
        check_all_right(ask_all(server, other), other)
        assert server.num_lines == NUM_ROWS + 1
        assert len(server.batches) == 2


def test_another_teacher_does_not_take_a_batch():
    with servers.serve(key=KEY, batch_s=0.2) as server:
        _abandon(server, teacher_at(server))
        check_all_right(ask_all(server, revision="2"))
        assert server.num_lines + NUM_ROWS >= 2 * NUM_ROWS
        assert len(server.batches) == 2


def test_old_batches_are_paged_through():
    with servers.serve(key=KEY) as server:
        for i in range(5):
            ask_all(server, ASKS[i * 5 : i * 5 + 5])
        before = server.num_lines
        check_all_right(ask_all(server, ASKS[:25]), ASKS[:25])
        assert server.num_lines == before == 25


def test_failures_of_an_earlier_batch_are_asked_again():
    with servers.serve(key=KEY, line_faults=lambda text, attempt: "400" if text == "question 3" and attempt == 0 else None) as server:
        assert ask_all(server)[3].failed
        check_all_right(ask_all(server))
        assert server.num_lines == NUM_ROWS + 1


def test_a_batch_that_was_started_without_our_being_told_is_not_started_twice():
    with servers.serve(key=KEY, drop_created=1) as server:
        check_all_right(ask_all(server))
        assert (len(server.batches), server.num_lines) == (1, NUM_ROWS)


def test_calls_about_batches_are_made_again():
    failing = {"/v1/files": 2, "/v1/batches": 2, "/v1/batches/batch-0": 3, "/v1/files/file-1/content": 2}
    with servers.serve(key=KEY, paths_failing=failing) as server:
        check_all_right(ask_all(server))
        assert (len(server.batches), server.num_lines) == (1, NUM_ROWS)


def test_a_server_without_a_batch_api():
    with servers.serve(key=KEY, with_batches=False) as server, pytest.raises(StageError, match=r"no batch API\n\nhint: `batch_api: false`"):
        ask_all(server)


def test_a_wrong_key_and_nobody_there():
    with servers.serve(key="sk-another") as server, pytest.raises(StageError, match="the key is refused") as caught:
        ask_all(server)
    assert KEY not in str(caught.value)
    with pytest.raises(StageError, match="has stopped answering: connection refused"):
        ask_all(server, max_outage_s=0.1)


def _abandon(server, teacher):
    """Ask as a stage does that is stopped when its batch has been sent."""
    with teacher.open(Path(), None) as session:
        threading.Thread(target=lambda: next(session.generate(ASKS), None), daemon=True).start()
        while not server.batches:
            time.sleep(0.005)


def _wait_until_done(server):
    while any(batch["status"] == "in_progress" for batch in server.batches.values()):
        time.sleep(0.02)


def test_told_to_stop_it_sends_no_further_batch_and_gives_what_is_on_its_way(monkeypatch):
    monkeypatch.setattr(_batch_api, "_MOST_LINES", 15)
    with servers.serve(key=KEY, line_faults=lambda text, attempt: "500" if text == "question 3" else None) as server:
        asks = list(ASKS)
        with teacher_at(server).open(Path(), None) as session:
            found = []
            for index, answer in session.generate(asks):
                if not found:
                    assert session.stop()
                    asks.append(Ask("more", (Message("user", "more"),), 30))
                found.append((index, answer))
        assert server.num_lines == NUM_ROWS
        assert sorted(index for index, _ in found) == [i for i in range(NUM_ROWS) if i != 3]
