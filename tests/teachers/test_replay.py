"""Recorded answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kdbuild import records
from kdbuild.errors import ArtifactError, RowError, SpecError
from kdbuild.records import Call, Message
from kdbuild.rows.answers import encode
from kdbuild.teachers import Answer, Ask, Reading, Signal, _feature_files, row_key
from kdbuild.teachers._feature_files import Source, write_features
from kdbuild.teachers.fake import Fake
from kdbuild.teachers.replay import Replay


def line(question: str, answer: str, **more) -> str:
    return json.dumps({"messages": [{"role": "user", "content": question}], "answer": answer, **more}) + "\n"


def replayed(root, asks, path="r.jsonl"):
    with Replay(path=path).open(root, None) as session:
        return [answer for _, answer in sorted(session.generate(asks))]


def ask(text: str, limit: int = 10, row: str = "r1", sample: int = 0) -> Ask:
    return Ask(row, (Message("user", text),), limit, sample=sample)


def test_a_question_gets_its_answer_by_content(tmp_path):
    (tmp_path / "r.jsonl").write_text(line("A?", "one two") + "\n" + line("B?", "three", ended=False) + line("A?", "again", sample=1))
    found = replayed(tmp_path, [ask("B?"), ask("A?"), ask("A?", row="r2"), ask("A?", sample=1)])
    assert found == [
        Answer("three", False, 1, 10),
        Answer("one two", True, 1, 3),
        Answer("one two", True, 1, 3),
        Answer("again", True, 1, 2),
    ]


def test_it_is_cut_by_words(tmp_path):
    (tmp_path / "r.jsonl").write_text(line("A?", "one two  three"))
    assert replayed(tmp_path, [ask("A?", 4), ask("A?", 3), ask("A?", 2)]) == [
        Answer("one two  three", True, 1, 4),
        Answer("one two  three", False, 1, 3),
        Answer("one two", False, 1, 2),
    ]


def test_a_question_without_an_answer_fails_and_names_the_row(tmp_path):
    (tmp_path / "r.jsonl").write_text(line("A?", "one"))
    (found,) = replayed(tmp_path, [ask("Never asked before?", row="seed-7")])
    assert found.failed == "r.jsonl has no answer recorded for row `seed-7` ('Never asked before?')"


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        '{"answer": "x"}',
        '{"messages": [{"role": "user"}], "answer": "x"}',
        '{"messages": [{"role": "user", "content": 3}], "answer": "x"}',
        '{"messages": [], "answer": null}',
        '{"messages": [], "answer": "x", "ended": "yes"}',
        '{"messages": [], "answer": "x", "sample": true}',
        '{"messages": [], "choices": ["a", "b"], "logprobs": [-1]}',
        '{"messages": [], "choices": ["a", "b"]}',
        '{"messages": [], "choices": ["a", 2], "logprobs": [-1, -2]}',
        '{"messages": [], "choices": ["a"], "logprobs": [0.5]}',
        '{"messages": [], "choices": ["a"], "logprobs": [NaN]}',
        '{"messages": [], "choices": "ab", "logprobs": [-1, -1]}',
        '{"messages": [], "choices": ["a"], "logprobs": [-1], "num_choice_tokens": [0]}',
        '{"messages": [], "choices": ["a"], "logprobs": [-1], "num_choice_tokens": [1, 2]}',
    ],
)
def test_a_bad_line_is_named(tmp_path, bad):
    (tmp_path / "r.jsonl").write_text(line("A?", "one") + bad + "\n")
    with pytest.raises(RowError, match=r"^r\.jsonl:2: "):
        replayed(tmp_path, [ask("A?")])


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "r.jsonl").write_bytes(line("A?", "one").encode() + b'{"messages": [], "answer": "\xff"}\n')
    with pytest.raises(RowError, match=r"^r\.jsonl:2: "):
        replayed(tmp_path, [ask("A?")])


def test_two_answers_to_one_question_are_refused(tmp_path):
    (tmp_path / "r.jsonl").write_text(line("A?", "one") + line("A?", "two"))
    with pytest.raises(RowError, match=r"r\.jsonl:2.*another answer"):
        replayed(tmp_path, [ask("A?")])


def test_a_calls_directory_answers_by_row(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    calls = [
        Call("ended", "a" * 64, 64, encode(Answer("yes", True, 4, 5))),
        Call("cut", "b" * 64, 64, encode(Answer("and so", False, 4, 64))),
        Call("twice", "c" * 64, 64, encode(Answer("one", True, 4, 5))),
        Call("twice", "d" * 64, 64, encode(Answer("two", True, 4, 5))),
    ]
    records.write_dataset(folder, Call, calls)
    asks = [
        ask("?", 64, "ended"),
        ask("?", 4, "ended"),
        ask("?", 64, "cut"),
        ask("?", 65, "cut"),
        ask("?", 64, "twice"),
        ask("?", 64, "no"),
    ]
    found = replayed(tmp_path, asks, "calls")
    assert found[0] == Answer("yes", True, 4, 5)
    assert found[2] == Answer("and so", False, 4, 64)
    assert "no answer for a limit of 4 tokens" in found[1].failed
    assert "no answer for a limit of 65 tokens" in found[3].failed
    assert "2 answers" in found[4].failed
    assert "no answer recorded for row `no`" in found[5].failed


def test_the_recordings_content_is_its_identity_and_not_its_path(tmp_path):
    for name, text in (("r.jsonl", "one"), ("s.jsonl", "one"), ("t.jsonl", "two")):
        (tmp_path / name).write_text(line("A?", text))
    one, same, other = (Replay(path=f"{name}.jsonl").answer_identity(tmp_path) for name in "rst")
    assert one == same
    assert one != other
    assert Replay(path="r.jsonl").files() == ("r.jsonl",)


def test_what_is_not_there_or_not_a_recording(tmp_path):
    with pytest.raises(SpecError, match="not there"):
        replayed(tmp_path, [], "absent.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError):
        replayed(tmp_path, [], "empty")


TURNS = (Message("user", "Hi"), Message("assistant", "Good day", train=True))
SCHEMA = '{"type":"object","properties":{"word":{"type":"string","maxLength":8}},"required":["word"]}'
EVERYTHING = [
    ask("A?", 40, "r1"),
    ask("A?", 40, "r1", sample=1),
    Ask("r1", (Message("user", "B?"),), choices=("yes", "no")),
    Ask("r1", (Message("user", "C?"),), 40, schema=SCHEMA),
    Ask("r1", TURNS, reading=Reading("top-k", k=3)),
    Ask("r1", TURNS, reading=Reading("hidden", layers=(-1,))),
]


def record(root, asks, *, named: bool):
    """Record what the fake teacher answers, as a build does: `calls/`, and `features/` for readings."""
    fake = Fake(num_layers=2, hidden_size=16)
    identity = fake.answer_identity(root)
    with fake.open(root, None) as session:
        answers = [answer for _, answer in sorted(session.generate(asks), key=lambda one: one[0])]
    (root / "calls").mkdir()
    (root / "features").mkdir()
    keyed = [(one, row_key(identity, one), answer) for one, answer in zip(asks, answers, strict=True)]
    calls = [Call(one.row, key, one.max_new_tokens, encode(answer)) for one, key, answer in keyed if one.reading is None]
    manifest = {"teachers": {"teacher": {"name": "fake", "identity": identity}}} if named else {}
    records.write_dataset(root / "calls", Call, calls, manifest=manifest)
    read = [_feature_files.feature(one, key, answer, encode(replace(answer, payload=b""))) for one, key, answer in keyed if one.reading]
    write_features(root / "features", read, [], {"teacher": Source("fake", identity, None)})
    return answers


def test_a_recording_that_names_its_teacher_answers_every_question_by_content(tmp_path):
    answers = record(tmp_path, EVERYTHING, named=True)
    assert replayed(tmp_path, EVERYTHING, ["calls", "features"]) == answers
    elsewhere = [replace(one, row="other") for one in EVERYTHING]
    assert replayed(tmp_path, elsewhere, ["calls", "features"]) == answers
    changed = [ask("A??", 40, "r1"), ask("A?", 40, "r1", sample=2), replace(EVERYTHING[2], choices=("no", "yes"))]
    for answer in replayed(tmp_path, changed, ["calls", "features"]):
        assert answer.failed.startswith("calls has no answer, features has no answer recorded for row `r1`")


def test_a_recording_without_a_name_tells_the_operations_of_a_row_apart(tmp_path):
    asks = [EVERYTHING[0], EVERYTHING[2], EVERYTHING[4], EVERYTHING[5]]
    answers = record(tmp_path, asks, named=False)
    assert replayed(tmp_path, asks[:2], "calls") == answers[:2]
    assert replayed(tmp_path, asks[2:], ["calls", "features"]) == answers[2:]
    (other,) = replayed(tmp_path, [replace(asks[1], choices=("one", "two", "three"))], "calls")
    assert "calls has no answer recorded" in other.failed


def test_given_answers_are_written_by_hand_as_well(tmp_path):
    lines = line("A?", "one") + json.dumps(
        {"messages": [{"role": "user", "content": "A?"}], "choices": ["yes", "no"], "logprobs": [-0.5, -1]}
    )
    (tmp_path / "r.jsonl").write_text(lines)
    chosen = Ask("r", (Message("user", "A?"),), choices=("yes", "no"))
    found = replayed(tmp_path, [chosen, ask("A?"), replace(chosen, choices=("no", "yes"))])
    assert found[0] == Answer("", True, 1, 0, logprobs=(-0.5, -1.0))
    assert found[1].text == "one"
    assert "no answer recorded" in found[2].failed


def test_stops_hold_for_recorded_lines(tmp_path):
    (tmp_path / "r.jsonl").write_text(line("A?", "one two three. four"))
    (found,) = replayed(tmp_path, [replace(ask("A?", 4), stop=(". ", "four"))])
    assert found == Answer("one two three", True, 1, 4)


def test_what_recordings_can_give():
    given = {Signal.TEXT, Signal.CHOICES, Signal.LIKELIHOOD}
    assert Replay(path="r.jsonl").gives == given
    assert Replay(path=["r.jsonl", "features"]).gives == {*given, Signal.TOP_K, Signal.HIDDEN}


def test_a_recording_with_an_answer_that_is_none_is_refused(tmp_path):
    (tmp_path / "calls").mkdir()
    records.write_dataset(tmp_path / "calls", Call, [Call("r", "a" * 64, 5, '{"said": 1}')])
    with pytest.raises(ArtifactError, match="an answer that is none"):
        replayed(tmp_path, [], "calls")
