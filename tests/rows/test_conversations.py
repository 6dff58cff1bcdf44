"""Conversations of several rounds, driven by stored answers alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from kdbuild.elicitors import Conversation, Elicitor, Rejected
from kdbuild.records import Message, Row
from kdbuild.rows.conversations import Failed, Talks, start
from kdbuild.rows.store import Store
from kdbuild.teachers import Answer, Ask

IDENTITY = {"kind": "someone"}


class TwoRounds(Elicitor):
    """Asks two questions at once, then one about both answers."""

    kind: Literal["two-rounds"] = "two-rounds"
    block: ClassVar[str | None] = None

    def elicit(self, row: Row, root: Path) -> Conversation:
        def ask(text: str) -> Ask:
            return Ask(row.id, (Message("user", text),), 20)

        drafts = yield [ask(f"first {row.id}"), ask("second, the same for all")]
        if not drafts[0].answer.text:
            return Rejected("no draft")
        (final,) = yield [ask(" + ".join(d.answer.text for d in drafts))]
        return [row.with_answer(final.answer.text, ended=True, keys=[*(d.key for d in drafts), final.key])]


def rows(*names: str) -> list[Row]:
    return [Row(name, (Message("user", name),)) for name in names]


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as store:
        yield store


def answer(text: str) -> Answer:
    return Answer(text, True, 1, 2)


def put(store: Store, questions, text=None) -> None:
    for question in questions:
        content = question.ask.messages[0].content
        store.put(*question.asked, answer(f"<{content}>" if text is None else text))


def test_rounds_follow_as_answers_come_and_equal_questions_are_one(store):
    talks, missing = start(TwoRounds(), rows("a", "b"), Path(), IDENTITY, store, allowed_failures=0)
    assert [q.ask.messages[0].content for q in missing] == ["first a", "second, the same for all", "first b"]
    put(store, missing[:2])
    missing = talks.advance()
    assert {q.ask.messages[0].content for q in missing} == {"<first a> + <second, the same for all>", "first b"}
    put(store, missing)
    put(store, talks.advance())
    assert talks.advance() == []
    (a, b) = talks.rows
    assert a.answer == "<<first a> + <second, the same for all>>"
    assert len(a.keys) == 3
    assert a.keys[1] == b.keys[1]
    assert len(talks.talks[0].used) == 3


def test_the_same_answers_lead_to_the_same_rows_in_one_go(store):
    talks, missing = start(TwoRounds(), rows("a", "b"), Path(), IDENTITY, store, allowed_failures=0)
    while missing:
        put(store, missing)
        missing = talks.advance()
    again, missing = start(TwoRounds(), rows("b", "a"), Path(), IDENTITY, store, allowed_failures=0)
    assert missing == []
    assert sorted(again.rows, key=lambda row: row.id) == talks.rows
    other, missing = start(TwoRounds(), rows("a"), Path(), {"kind": "someone else"}, store, allowed_failures=0)
    assert len(missing) == 2
    assert other.rows == []


def test_rejected_and_failed_rows_stop_and_the_others_go_on(store):
    talks = Talks(TwoRounds(), rows("a", "b", "c"), Path(), IDENTITY, store, failures=False)
    first = {q.ask.messages[0].content: q for q in talks.advance()}
    put(store, [first["second, the same for all"], first["first c"]])
    put(store, [first["first a"]], text="")
    talks.fail(first["first b"], Answer("", False, 0, 0, failed="gone"))
    put(store, talks.advance())
    assert talks.advance() == []
    a, b, c = (talk.result for talk in talks.talks)
    assert a == Rejected("no draft")
    assert b == Failed("gone")
    assert [row.id for row in c] == ["c"]
    assert [talk.row.id for talk in talks.failed] == ["b"]


def test_failures_accepted_before_are_asked_again_where_there_are_too_many(store):
    given = rows("a", "b")
    _, missing = start(TwoRounds(), given, Path(), IDENTITY, store, allowed_failures=1)
    put(store, missing[1:2])
    for question in (missing[0], missing[2]):
        store.put(*question.asked, Answer("", False, 0, 0, failed="gone"))
    talks, missing = start(TwoRounds(), given, Path(), IDENTITY, store, allowed_failures=2)
    assert missing == []
    assert len(talks.failed) == 2
    talks, missing = start(TwoRounds(), given, Path(), IDENTITY, store, allowed_failures=1)
    assert len(missing) == 2
    assert talks.failed == []
