"""Recorded answers."""

from __future__ import annotations

import json

import pytest

from kdbuild import records
from kdbuild.errors import ArtifactError, RowError, SpecError
from kdbuild.records import Call, Message
from kdbuild.rows.answers import encode
from kdbuild.teachers import Answer, Ask
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
