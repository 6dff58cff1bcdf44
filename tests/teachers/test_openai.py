"""The `openai` teacher: what it sends to a server and what it reads from it."""

from __future__ import annotations

import json
import math
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdbuild import kinds
from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.rows.answers import serves
from kdbuild.teachers import Answer, Ask, Signal, row_key
from kdbuild.teachers._endpoints import label_of, secrets_of
from kdbuild.teachers._rate_headers import duration_s, spent_s, wait_s
from kdbuild.teachers._secrets import Secrets
from kdbuild.teachers.openai import Openai

sys.path.insert(0, str(Path(__file__).parent))
import servers

KEY = "sk-test-0123456789abcdef"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": 9}, "maxLength": {"type": "integer", "minimum": 1}},
        "required": ["answer", "maxLength"],
        "additionalProperties": False,
    }
)


@pytest.fixture
def server():
    with servers.serve() as one:
        yield one


def teacher_at(*running: servers.Server, **fields) -> Openai:
    given = {"model": servers.MODEL, "endpoints": [one.url for one in running], "retry_wait_s": 0.01, **fields}
    return kinds.parse("teachers", {"kind": "openai", **given})


def answers(teacher: Openai, asks: list[Ask]) -> list[Answer]:
    with teacher.open(Path(), None) as session:
        found = list(session.generate(asks))
    assert sorted(index for index, _ in found) == list(range(len(asks)))
    return [answer for _, answer in sorted(found, key=lambda pair: pair[0])]


def ask(text: str = "Name a tree.", limit: int = 40, row: str = "r", **more) -> Ask:
    return Ask(row, (Message("user", text),), limit, **more)


def expected(one: Ask) -> str:
    turns = [{"role": message.role, "content": message.content} for message in one.messages]
    return servers.written(turns, one.seed % 2**31 if one.temperature else 0)


# --- what is promised of every teacher ---------------------------------------------------------------------------------------


def test_each_question_is_answered_once_within_its_limit_in_any_order_and_company(server):
    asks = [ask(f"question {i % 7}", 4 + i % 20) for i in range(40)]
    teacher = teacher_at(server)
    found = answers(teacher, asks)
    assert found == answers(teacher, asks[::-1])[::-1]
    assert found[3] == answers(teacher, [asks[3]])[0]
    assert answers(teacher, []) == []
    for one, answer in zip(asks, found, strict=True):
        assert answer.failed is None
        assert 0 < answer.num_new_tokens <= one.max_new_tokens
        assert serves(answer, one.max_new_tokens, one.max_new_tokens)
        assert answer.num_prompt_tokens == 2
        assert expected(one).startswith(answer.text)
        assert answer.ended == (answer.text == expected(one) and len(answer.text.split()) < one.max_new_tokens)
    assert {answer.ended for answer in found} == {True, False}


def test_questions_that_answers_bring_up_join_while_others_are_on_their_way(server):
    server.median_s, server.sigma = 0.02, 1.0
    asks = [ask(f"first {i}") for i in range(30)]
    with teacher_at(server, concurrency={"start": 4, "most": 8}).open(Path(), None) as session:
        seen = {}
        for index, answer in session.generate(asks):
            seen[index] = answer
            if len(asks) < 60:
                asks.append(ask(f"second {index}"))
    assert sorted(seen) == list(range(60))
    assert all(seen[i].text == expected(asks[i]) for i in range(60))
    second = next(i for i, call in enumerate(server.calls) if call.body["messages"][0]["content"].startswith("second"))
    assert second < 29  # before the last of the first was sent


def test_the_longest_are_sent_first(server):
    server.median_s = 0.01
    limits = [5, 40, 10, 30, 20, 40]
    answers(teacher_at(server, concurrency={"start": 1, "most": 1}), [ask(f"q{i}", limit) for i, limit in enumerate(limits)])
    assert [call.body["max_tokens"] for call in server.calls] == [40, 40, 30, 20, 10, 5]


def test_a_session_left_early_ends_at_once(server):
    server.faults = lambda call: servers.Fault("hang") if call.number else None
    began = time.monotonic()
    with teacher_at(server).open(Path(), None) as session:
        found = session.generate([ask(f"q{i}") for i in range(20)])
        next(found)
        found.close()
        server.faults = lambda call: None
        assert [answer.text for _, answer in session.generate([ask("another")])] == [expected(ask("another"))]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("run", range(5))
def test_several_endpoints_share_the_work_by_their_room(run):
    with servers.serve(median_s=0.02) as one, servers.serve(median_s=0.02, most=4) as small:
        asks = [ask(f"q{i}") for i in range(300)]
        teacher = teacher_at(one, small, concurrency={"start": 16, "most": 16}, max_retries=0)
        found = answers(teacher, asks)
        assert [answer.text for answer in found] == [expected(a) for a in asks]
        assert one.num_served + small.num_served == 300
        assert one.num_served > 2 * small.num_served > 20


# --- identity and secrets ----------------------------------------------------------------------------------------------------


def test_where_and_how_fast_it_runs_is_not_in_the_key():
    teacher = Openai(model="m")
    moved = teacher.model_copy(update={name: object() for name in kinds.knobs(Openai)})
    assert moved.answer_identity(Path()) == teacher.answer_identity(Path())
    assert "endpoints" in kinds.knobs(Openai)
    others = [
        teacher.model_copy(update=change)
        for change in (
            {"model": "n"},
            {"revision": "2"},
            {"extra": {"min_p": 0.1}},
            {"structured": "none"},
            {"limit_field": "max_completion_tokens"},
            {"omit": ("seed",)},
            {"logprobs": True},
        )
    ]
    keys = {row_key(one.answer_identity(Path()), ask()) for one in [teacher, *others]}
    assert len(keys) == 8
    assert kinds.parse("teachers", teacher.identity()).identity() == teacher.identity()


def test_reading_choices_changes_what_it_gives_and_no_key():
    plain, reading = Openai(model="m"), Openai(model="m", choice_logprobs=True)
    assert plain.gives == {Signal.TEXT}
    assert reading.gives == {Signal.TEXT, Signal.CHOICES}
    assert plain.identity() != reading.identity()
    assert plain.answer_identity(Path()) == reading.answer_identity(Path())


def test_repr_and_errors_hold_no_secret(monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    teacher = Openai(model="m", endpoints=("http://user:pa55word@127.0.0.1:9/v1?token=s3cr3t-t0ken",), api_key_env="MY_KEY")
    with (
        pytest.raises(StageError, match=r"http://127\.0\.0\.1:9/v1: its address holds a user, and there is a key") as caught,
        teacher.open(Path(), None),
    ):
        pass
    for text in (repr(teacher), str(teacher), str(caught.value)):
        assert not any(secret in text for secret in ("pa55word", "s3cr3t", KEY))


def test_the_key_travels_in_the_header_alone(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    server.key = KEY
    assert answers(teacher_at(server, api_key_env="MY_KEY"), [ask()])[0].text == expected(ask())
    assert KEY not in json.dumps(server.calls[0].body) + server.calls[0].path
    monkeypatch.delenv("MY_KEY")
    with (
        pytest.raises(StageError, match=r"MY_KEY, which holds the teacher's key, is not set"),
        teacher_at(server, api_key_env="MY_KEY").open(Path(), None),
    ):
        pass


def test_a_user_and_a_query_of_the_address_are_sent_and_not_told(server):
    address = server.url.replace("http://", "http://me:pa55word@") + "?api-version=7-secret"
    found = answers(teacher_at(server, endpoints=[address]), [ask()])
    assert found[0].failed is None
    assert server.calls[0].path == "/v1/chat/completions?api-version=7-secret"
    assert server.calls[0].headers["authorization"] == "Basic bWU6cGE1NXdvcmQ="


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"api_key_env": KEY}, "the name of an environment variable"),
        ({"endpoints": ["localhost:8000"]}, "an endpoint is a URL such as"),
        ({"endpoints": ["http://h/v1/chat/completions"]}, "the address before"),
        ({"endpoints": []}, "at least 1 item"),
        ({"extra": {"temperature": 1}}, "`extra` may not hold `temperature`"),
        ({"extra": {"api_key": "x"}}, "`extra` is written to files"),
        ({"omit": ["messages"]}, "'temperature', 'top_p', 'seed' or 'stop'"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Openai(model="m", **fields)


# --- requests ----------------------------------------------------------------------------------------------------------------


def sent(server, one: Ask, **fields) -> dict:
    answers(teacher_at(server, **fields), [one])
    return server.calls[-1].body


def test_greedy_requests(server):
    one = Ask("r", (Message("system", "Be brief."), Message("user", "Hi"), Message("tool", "3")), 7)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "user", "content": "3"}]
    assert sent(server, one) == {"model": servers.MODEL, "messages": turns, "max_tokens": 7, "temperature": 0.0}


def test_sampled_requests(server):
    one = ask(temperature=0.8, top_p=0.9, stop=("\n", "END"))
    body = sent(server, one, extra={"min_p": 0.1})
    assert (body["temperature"], body["top_p"], body["stop"], body["min_p"]) == (0.8, 0.9, ["\n", "END"], 0.1)
    assert body["seed"] == one.seed % 2**31
    other = sent(server, one, limit_field="max_completion_tokens", omit=["temperature", "top_p", "seed", "stop"])
    assert set(other) == {"model", "messages", "max_completion_tokens"}


def test_a_prompt_with_half_a_surrogate_pair_is_asked(server):
    assert sent(server, ask("a\ud800b"))["messages"][0]["content"] == "a\ufffdb"


@pytest.mark.parametrize("structured", ["json_schema", "json_schema_no_bounds", "json_object", "none"])
def test_forms(server, structured):
    body = sent(server, ask(schema=SCHEMA), structured=structured)
    if structured == "none":
        assert "response_format" not in body
    elif structured == "json_object":
        assert body["response_format"] == {"type": "json_object"}
    else:
        form = json.loads(SCHEMA)
        if structured == "json_schema_no_bounds":  # the field that is called maxLength stays
            form["properties"] = {"answer": {"type": "string"}, "maxLength": {"type": "integer"}}
        assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "answer", "schema": form, "strict": True}}


# --- answers -----------------------------------------------------------------------------------------------------------------


def changed(server, change, one: Ask | None = None, **fields) -> Answer:
    server.faults = lambda call: servers.Fault("answer", change=change)
    return answers(teacher_at(server, **fields), [one or ask()])[0]


def with_message(**fields):
    return lambda value: value["choices"][0].update(message={"role": "assistant", "content": None, **fields})


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": ""}, ""),
        ({"content": None}, ""),
        ({"content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}, "a b"),
        ({"refusal": "I cannot help with that."}, "I cannot help with that."),
        ({"content": "a\0b\ud83d"}, "ab\ufffd"),
        ({"tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}, '{"name": "add", "arguments": {"a": 1}}'),
        (
            {"content": "Let me see.", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            'Let me see.\n{"name": "f", "arguments": "{"}',
        ),
    ],
)
def test_forms_of_a_text(server, message, text):
    server.faults = lambda call: servers.Fault("answer", body=json.dumps(_body(message)).encode())
    answer = answers(teacher_at(server), [ask()])[0]
    assert (answer.text, answer.ended, answer.failed) == (text, True, None)


def _body(message: dict) -> dict:
    return {
        "choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }


def test_tokens_are_estimated_where_they_are_not_counted(server):
    answer = changed(server, lambda value: value.pop("usage"), ask("x" * 40))
    assert answer.num_prompt_tokens == 10
    assert answer.num_new_tokens == math.ceil(len(answer.text) / 4)


def test_an_answer_that_ended_serves_its_limit_whatever_is_counted(server):
    answer = changed(server, lambda value: value["usage"].update(completion_tokens=500))
    assert (answer.ended, answer.num_new_tokens) == (True, 40)
    cut = changed(server, lambda value: value["choices"][0].update(finish_reason="length"))
    assert not cut.ended
    silent = changed(server, lambda value: value["choices"][0].update(finish_reason=None))
    assert silent.ended


def test_a_filtered_answer_fails(server):
    answer = changed(server, lambda value: value["choices"][0].update(finish_reason="content_filter"))
    assert answer.failed == "the server's content filter cut the answer"
    assert len(server.calls) == 1


def test_log_probability_of_a_text_where_it_is_asked_for(server):
    plain, asked = answers(teacher_at(server), [ask(limit=4)])[0], answers(teacher_at(server, logprobs=True), [ask(limit=4)])[0]
    assert plain.logprob is None
    assert asked.logprob == -2.0
    assert answers(teacher_at(server, logprobs=True), [ask(limit=4, schema=SCHEMA)])[0].logprob is None


def test_choices_are_read_from_the_likeliest_first_tokens(server):
    tops = [("A", math.log(0.5)), (" A", math.log(0.1)), ("B ", math.log(0.2)), ("a", math.log(0.05)), ("AB", math.log(0.02))]
    server.top_logprobs = lambda body: tops
    one = ask(limit=1, choices=("A", "B", "C"))
    answer = answers(teacher_at(server, choice_logprobs=True), [one])[0]
    assert [math.exp(value) for value in answer.logprobs] == pytest.approx([0.6, 0.2, 0.01])
    assert (answer.text, answer.ended, answer.num_new_tokens) == ("", True, 0)
    body = server.calls[0].body
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"], body["temperature"]) == (1, True, 20, 1.0)
    none = answers(teacher_at(server, choice_logprobs=True), [ask(choices=("yes", "no"))])[0]
    assert none.failed == "none of the choices is among the likeliest first tokens"


def test_a_server_without_log_probabilities_is_told_once(server):
    asks = [ask(f"q{i}", 1, choices=("A", "B")) for i in range(500)]
    with pytest.raises(StageError, match="gives no log-probabilities"):
        answers(teacher_at(server, choice_logprobs=True), asks)
    assert len(server.calls) <= 64


# --- headers -----------------------------------------------------------------------------------------------------------------

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("1.5", 1.5),
        ("17ms", 0.017),
        ("6m0s", 360),
        ("1h2m3s", 3723),
        ("2m59.56s", 179.56),
        (str(NOW + 30), 30),
        (str(int(NOW * 1000) + 2500), 2.5),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        ("2027-01-15T08:00:30Z", 30),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("", None),
    ],
)
def test_durations(text, seconds):
    assert duration_s(text, NOW) == (None if seconds is None else pytest.approx(seconds, abs=1e-3))


def test_how_long_to_wait():
    limits = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-remaining-tokens": "100",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert spent_s(limits, NOW) == 2
    assert spent_s({**limits, "x-ratelimit-remaining-requests": "1"}, NOW) is None
    assert wait_s({"retry-after": "7", **limits}, NOW) == 7
    assert wait_s({"retry-after-ms": "250", "retry-after": "7"}, NOW) == 0.25
    assert wait_s(limits, NOW) == 2
    assert wait_s({}, NOW) is None
    assert spent_s({"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:30Z"}, NOW) == 30


def test_told_to_stop_it_begins_no_further_call_and_gives_what_is_on_its_way(server):
    server.median_s, server.sigma = 0.05, 0.5
    asks = [ask(f"q{i}") for i in range(100)]
    with teacher_at(server, concurrency={"start": 10, "most": 10}).open(Path(), None) as session:
        found = []
        for one in session.generate(asks):
            if not found:
                assert session.stop()
            found.append(one)
        assert not session.stop()
    assert len(found) == server.num_served
    assert 10 <= server.num_served < 40


# --- secrets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"Incorrect API key provided: {KEY}.", "Incorrect API key provided: [key]."),
        (f"key {KEY[:9]}*****{KEY[-4:]} is wrong", "key [key] is wrong"),
        ("Bearer abcdefgh12345 is not known", "[key] is not known"),
        ("no\nsuch\tmodel\x00", "no such model?"),
        ("w" * 300, "w" * 199 + "…"),
    ],
)
def test_messages_of_servers_are_shown_without_keys(said, shown):
    assert Secrets([KEY, "abc"]).message(said) == shown


def test_texts_keep_all_but_the_secret_itself():
    assert Secrets([KEY, "abc"]).hide_in(f"abc {KEY[:9]} {KEY}!") == f"abc {KEY[:9]} [key]!"
    assert KEY not in repr(Secrets([KEY]))


def test_addresses_are_shown_without_what_may_be_secret():
    url = "https://me:pa55%20word@host.example:8443/v1/?api-version=2&sig=a%2Bb-long"
    assert label_of(url) == "https://host.example:8443/v1"
    assert label_of("http://[::1]:80/v1") == "http://[::1]:80/v1"
    assert {"pa55%20word", "pa55 word", "a%2Bb-long", "a+b-long"} <= set(secrets_of(url))
