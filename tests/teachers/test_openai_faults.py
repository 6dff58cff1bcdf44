"""The `openai` teacher against a server that fails in every way, ten times each: all rows right in the end, or failed with a reason."""

from __future__ import annotations

import logging
import random
import sys
import time
from pathlib import Path

import pytest

from kdbuild import kinds
from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.rows.store import Store
from kdbuild.teachers import Ask, row_key

sys.path.insert(0, str(Path(__file__).parent))
import servers
from servers import Fault, at_random, status

KEY = "sk-proj-8f3a9c0d1e2b4a5f6071"
HALF, END = KEY[:16].encode(), KEY[-4:].encode()
NUM_ROWS = 60
RETRIES = 3
SEEDS = [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 10))]
"""Ten runs of everything; three of them by default."""
ASKS = [Ask(f"row-{i}", (Message("user", f"question {i}"),), 5 + i % 30) for i in range(NUM_ROWS)]


def expected(ask: Ask) -> str:
    words = servers.written([{"role": m.role, "content": m.content} for m in ask.messages]).split()
    return " ".join(words[: ask.max_new_tokens])


def number_of(call: servers.Call) -> int:
    """Return which of the asks a call is."""
    return int(call.body["messages"][0]["content"].split()[1])


def raw(body: bytes) -> Fault:
    return Fault("raw", 200, (), body)


FAULTS = {
    "hang": lambda: Fault("hang"),
    "reset": lambda: Fault("reset"),
    "reset in mid body": lambda: Fault("reset-in-body"),
    "500": lambda: status(500),
    "502 of a proxy": lambda: status(502, body=b"<html>Bad Gateway</html>"),
    "503": lambda: status(503),
    "503 with Retry-After": lambda: status(503, served=False, Retry_After="0.02"),
    "429": lambda: status(429, served=False),
    "429 with Retry-After": lambda: status(429, served=False, Retry_After="0.02"),
    "429 with Retry-After 0": lambda: status(429, served=False, Retry_After="0"),
    "429 with reset": lambda: status(429, served=False, x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="20ms"),
    "malformed JSON": lambda: raw(b'{"choices": [{"message": {"content": "ha'),
    "no JSON": lambda: raw(b"<html>hello</html>"),
    "no choices": lambda: raw(b'{"choices": []}'),
    "null": lambda: raw(b"null"),
    "an error with status 200": lambda: raw(b'{"error": {"message": "overloaded", "code": 502}}'),
    "a limit with status 200": lambda: Fault("raw", 200, (), b'{"error": {"message": "slow down", "code": 429}}', served=False),
    "half an answer": lambda: raw(b'{"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}'),
    "given up": lambda: Fault("answer", change=lambda value: value["choices"][0].update(finish_reason="error")),
}
"""What a call meets; it is made again."""


@pytest.fixture
def ask_all(tmp_path, monkeypatch, capfd, caplog):
    """Return a function that asks everything and stores it; afterwards the key must be in nothing that was written or said."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TEACHER_KEY", KEY)
    said = []

    def run(*running, asks=ASKS, during=lambda num_answers: None, **fields):
        knobs = {"retry_wait_s": 0.005, "timeout_s": 20.0, "max_retries": RETRIES, "concurrency": {"start": 16, "most": 32}, **fields}
        teacher = kinds.parse(
            "teachers",
            {"kind": "openai", "model": servers.MODEL, "endpoints": [one.url for one in running], "api_key_env": "TEACHER_KEY", **knobs},
        )
        found = {}
        said.append(repr(teacher))
        (tmp_path / "rows").mkdir(exist_ok=True)
        try:
            with Store.open(tmp_path / "rows") as store, teacher.open(tmp_path, None) as session:
                identity = teacher.answer_identity(tmp_path)
                for index, answer in session.generate(asks):
                    assert index not in found
                    found[index] = answer
                    store.put(row_key(identity, asks[index]), asks[index].max_new_tokens, answer, row=asks[index].row)
                    during(len(found))
        except StageError as error:
            said.append(str(error))
            error.found = found
            raise
        return [found[i] for i in range(len(asks))]

    yield run
    out, err = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in "\n".join([*said, out, err, caplog.text])
    assert KEY[:12] not in "\n".join([*said, out, err, caplog.text])
    assert KEY.encode() not in written


def check_all_right(found, asks=ASKS):
    assert [answer.failed for answer in found if answer.failed] == []
    assert [answer.text for answer in found] == [expected(ask) for ask in asks]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FAULTS)
def test_what_passes_is_answered_in_the_end(name, seed, ask_all):
    share, timeout_s = (0.1, 0.3) if name == "hang" else (0.3, 20.0)
    with servers.serve(key=KEY, faults=at_random(seed, share, FAULTS[name])) as server:
        check_all_right(ask_all(server, timeout_s=timeout_s))
        assert NUM_ROWS <= server.num_served <= NUM_ROWS * (RETRIES + 1)
        assert server.num_served + server.num_turned_away > NUM_ROWS


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_at_once(seed, ask_all):
    chance = random.Random(seed)
    kinds_of = [make for name, make in FAULTS.items() if name != "hang"]
    with servers.serve(key=KEY, faults=at_random(seed, 0.4, lambda: chance.choice(kinds_of)(), most_a_body=3)) as server:
        check_all_right(ask_all(server))
        assert server.num_served <= NUM_ROWS * (RETRIES + 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("down_s", [0.0, 0.1])
def test_a_server_that_restarts(seed, down_s, ask_all):
    """0: a restart at once, else it refuses connections for a while."""
    chance = random.Random(seed)
    when = {chance.randrange(1, 40), chance.randrange(1, 40)}

    def restart(num_answers):
        if num_answers in when:
            server.go_down()
            time.sleep(down_s)
            server.come_up()

    with servers.serve(key=KEY, median_s=0.01, sigma=1.0) as server:
        check_all_right(ask_all(server, during=restart))
        assert server.num_served <= NUM_ROWS * (RETRIES + 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("says_when", [True, False])
def test_a_storm_of_429(seed, says_when, ask_all):
    """The server takes 3 calls at a time, and is asked 32 at first: what it cannot take costs no retry and grows less."""
    more = {"Retry_After": "0.03"} if says_when else {}
    with servers.serve(key=KEY, median_s=0.004 + 0.001 * (seed % 5), sigma=0.5) as server:
        server.faults = lambda call: status(429, served=False, **more) if server.running >= 3 else None
        check_all_right(ask_all(server, concurrency={"start": 32, "most": 32}, max_retries=0))
        assert server.num_served == NUM_ROWS
        assert server.num_turned_away > 0


def test_a_date_to_come_back_at(ask_all):
    told = []

    def once(call):
        if told:
            return None
        told.append(call.at)
        return status(429, served=False, Retry_After=servers.http_date(2))

    with servers.serve(key=KEY, faults=once) as server:
        check_all_right(ask_all(server, asks=ASKS[:3], concurrency={"start": 1, "most": 1}), ASKS[:3])
        assert server.calls[1].at - told[0] > 0.9


def test_a_limit_that_is_used_up_is_waited_for_before_it_refuses(ask_all):
    used_up = (("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "0.2"))
    with servers.serve(key=KEY) as server:
        server.faults = lambda call: Fault("raw", 200, used_up, servers.dumps(server.answer(call.body))) if call.number == 0 else None
        check_all_right(ask_all(server, asks=ASKS[:5], concurrency={"start": 1, "most": 1}), ASKS[:5])
        assert server.calls[1].at - server.calls[0].at > 0.15


# --- answers that are odd ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_empty_texts_and_cut_answers_are_answers(seed, ask_all):
    cut = Fault("answer", change=lambda value: value["choices"][0].update(finish_reason="length"))
    change = {"empty": servers.content(""), "length": cut}
    chance = random.Random(seed)
    odd = {i: chance.choice(list(change)) for i in chance.sample(range(NUM_ROWS), 20)}
    with servers.serve(key=KEY, faults=lambda call: change.get(odd.get(number_of(call)))) as server:
        found = ask_all(server)
        assert server.num_served == NUM_ROWS
    for i, answer in enumerate(found):
        assert answer.failed is None
        assert answer.text == ("" if odd.get(i) == "empty" else expected(ASKS[i]))
        if odd.get(i) == "length":
            assert not answer.ended


@pytest.mark.parametrize("seed", SEEDS)
def test_nul_and_bytes_that_are_no_text(seed, ask_all):
    chance = random.Random(seed)
    bodies = [b'"a\\u0000b"', b'"a\0b"', b'"a\xffb"', b'"a\xe2\x82"', b'"a\\ud800b"', b'"\\udc00\\ud800"', b'"a\xed\xa0\x80b"']
    odd = {i: chance.choice(bodies) for i in chance.sample(range(NUM_ROWS), 30)}

    def fault(call):
        text = odd.get(number_of(call))
        return text and raw(b'{"choices": [{"message": {"content": %s}, "finish_reason": "stop"}]}' % text)

    with servers.serve(key=KEY, faults=fault) as server:
        found = ask_all(server)
    for i, answer in enumerate(found):
        assert answer.failed is None
        assert "\0" not in answer.text
        answer.text.encode()
        if i in odd and odd[i].startswith(b'"a'):
            assert answer.text.startswith("a")
        elif i not in odd:
            assert answer.text == expected(ASKS[i])


def test_a_key_that_comes_back_in_an_answer_is_hidden(ask_all):
    with servers.serve(key=KEY, faults=lambda call: servers.content(f"You sent {KEY}.")) as server:
        assert {answer.text for answer in ask_all(server)} == {"You sent [key]."}


# --- rows that fail ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("fault", "reason", "calls_each"),
    [
        (status(500), "the server failed (HTTP 500)", RETRIES + 1),
        (raw(b"{"), "the answer is not one", RETRIES + 1),
        (Fault("reset"), "the connection was lost", RETRIES + 1),
        (
            status(400, body=b'{"error": {"message": "too long"}}'),
            "the server refused it (HTTP 400: too long)",
            1,
        ),
        (status(422, body=b'{"detail": "not liked"}'), "the server refused it (HTTP 422: not liked)", 1),
    ],
)
def test_rows_that_always_fail_are_listed_with_the_reason_and_the_rest_is_right(seed, fault, reason, calls_each, ask_all):
    bad = set(random.Random(seed).sample(range(NUM_ROWS), 6))
    with servers.serve(key=KEY, faults=lambda call: fault if number_of(call) in bad else None) as server:
        found = ask_all(server)
        assert server.num_served == NUM_ROWS - 6 + 6 * calls_each
    assert {i for i, answer in enumerate(found) if answer.failed} == bad
    assert {found[i].failed for i in bad} == {reason}
    good = [i for i in range(NUM_ROWS) if i not in bad]
    check_all_right([found[i] for i in good], [ASKS[i] for i in good])


def test_a_row_that_hangs_each_time(ask_all):
    with servers.serve(key=KEY, faults=lambda call: Fault("hang") if number_of(call) == 7 else None) as server:
        found = ask_all(server, max_retries=1, timeout_s=0.3)
    assert [i for i, answer in enumerate(found) if answer.failed] == [7]
    assert found[7].failed == "timed out"


# --- what ends a stage at once -----------------------------------------------------------------------------------------------

MANY = [Ask(f"row-{i}", (Message("user", f"question {i}"),), 8) for i in range(2000)]


@pytest.mark.parametrize("num_good", [0, 25])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401, body=b'{"error": {"message": "Incorrect API key: %s*****%s"}}' % (HALF, END)), r"the key is refused \(HTTP 401"),
        (status(403), r"the key is refused \(HTTP 403: no\)"),
        (status(402), "no credit left"),
        (status(429, body=b'{"error": {"code": "insufficient_quota", "message": "pay"}}'), "no credit left"),
        (status(404, body=b"gone"), r"not found \(HTTP 404"),
        (status(307, Location="http://elsewhere.example/"), "this is not where the server answers"),
        (
            status(400, body=b'{"error": {"message": "unknown field"}}'),
            "20 questions in a row were refused, the last: .*unknown field",
        ),
    ],
)
def test_what_no_row_survives_stops_early_and_keeps_the_answers(fault, message, num_good, ask_all):
    with servers.serve(key=KEY, faults=lambda call: None if call.number < num_good else fault) as server:
        with pytest.raises(StageError, match=message) as caught:
            ask_all(server, asks=MANY)
        assert len(server.calls) <= num_good + 20 + 3 * 32
        assert caught.value.hint
    assert sum(answer.failed is None for answer in caught.value.found.values()) == num_good


def test_a_wrong_model_name(ask_all):
    with servers.serve(key=KEY, models=("small-model", "other")) as server:
        with pytest.raises(StageError, match=r"no model `smal-model`\n\nhint: correct `model` in params.yaml: `model: small-model`"):
            ask_all(server, asks=MANY, model="smal-model")
        assert len(server.calls) <= 16
        with pytest.raises(StageError, match="it has small-model, other"):
            ask_all(server, asks=MANY, model="gpt-99")


def test_a_wrong_key_is_not_told(ask_all):
    with servers.serve(key="sk-another-key-0123") as server, pytest.raises(StageError, match="the key is refused"):
        ask_all(server, asks=MANY)


def test_nobody_there(ask_all):
    with servers.serve() as server:
        server.go_down()
        with pytest.raises(StageError, match="has not answered yet: connection refused"):
            ask_all(server)
        server.come_up()


def test_a_host_that_does_not_exist(ask_all):
    with servers.serve() as server, pytest.raises(StageError, match="has not answered yet: no such host"):
        ask_all(server, endpoints=["http://no-such-host.invalid/v1"])


def test_a_server_that_does_not_come_back(ask_all):
    with servers.serve(key=KEY, median_s=0.01) as server:
        with pytest.raises(StageError, match="has stopped answering: connection refused") as caught:
            ask_all(server, during=lambda n: server.go_down() if n == 20 else None, max_outage_s=0.3)
        server.come_up()
    assert len(caught.value.found) >= 20


def test_a_limit_that_never_ends(ask_all):
    with servers.serve(key=KEY, faults=lambda call: status(429, served=False, Retry_After="0.05")) as server:
        with pytest.raises(StageError, match="nothing but rate limits"):
            ask_all(server, max_rate_limit_wait_s=0.3)
        assert server.num_turned_away < 100
        with pytest.raises(StageError, match="nothing but rate limits"):
            ask_all(server, max_rate_limit_wait_s=0.01)


def test_a_row_that_only_meets_limits_fails_alone(ask_all):
    limited = status(429, served=False, Retry_After="0.02")
    with servers.serve(key=KEY, median_s=0.02, faults=lambda call: limited if number_of(call) == 5 else None) as server:
        found = ask_all(server, max_rate_limit_wait_s=0.1)
    assert [i for i, answer in enumerate(found) if answer.failed] == [5]
    assert found[5].failed == "rate limited for longer than max_rate_limit_wait_s"


def test_one_of_two_servers_is_not_there(ask_all):
    with servers.serve(key=KEY) as one, servers.serve(key=KEY) as other:
        other.go_down()
        check_all_right(ask_all(one, other))
        other.come_up()


def test_one_of_two_servers_only_fails(ask_all):
    with servers.serve(key=KEY, median_s=0.005) as one, servers.serve(key=KEY, faults=lambda call: status(500)) as other:
        check_all_right(ask_all(one, other))
        assert other.num_served < NUM_ROWS
