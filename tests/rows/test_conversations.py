"""Conversations of several rounds, driven by stored answers alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from kdbuild.elicitors import Conversation, Elicitor, Made, Rejected, Scene
from kdbuild.records import Message, Row
from kdbuild.rows.conversations import Failed, Setting, Talks, start
from kdbuild.rows.store import Store
from kdbuild.teachers import Answer, Ask


def setting(who: str = "someone", **more) -> Setting:
    return Setting(Scene(Path()), {"teacher": {"kind": who}}, **more)


IDENTITY = setting()


class TwoRounds(Elicitor):
    """Asks two questions at once, then one about both answers."""

    kind: Literal["two-rounds"] = "two-rounds"
    block: ClassVar[str | None] = None

    def elicit(self, row: Row, scene: Scene) -> Conversation:
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
    talks, missing = start(TwoRounds(), rows("a", "b"), IDENTITY, store, allowed_failures=0)
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
    talks, missing = start(TwoRounds(), rows("a", "b"), IDENTITY, store, allowed_failures=0)
    while missing:
        put(store, missing)
        missing = talks.advance()
    again, missing = start(TwoRounds(), rows("b", "a"), IDENTITY, store, allowed_failures=0)
    assert missing == []
    assert sorted(again.rows, key=lambda row: row.id) == talks.rows
    other, missing = start(TwoRounds(), rows("a"), setting("someone else"), store, allowed_failures=0)
    assert len(missing) == 2
    assert other.rows == []


def test_rejected_and_failed_rows_stop_and_the_others_go_on(store):
    talks = Talks(TwoRounds(), rows("a", "b", "c"), IDENTITY, store, failures=False)
    first = {q.ask.messages[0].content: q for q in talks.advance()}
    put(store, [first["second, the same for all"], first["first c"]])
    put(store, [first["first a"]], text="")
    talks.deliver(first["first b"], Answer("", False, 0, 0, failed="gone"))
    put(store, talks.advance())
    assert talks.advance() == []
    a, b, c = (talk.result for talk in talks.talks)
    assert a == Rejected("no draft")
    assert b == Failed("b", "gone")
    assert [row.id for row in c] == ["c"]
    assert [one.row for one in talks.failed] == ["b"]


def test_failures_accepted_before_are_asked_again_where_there_are_too_many(store):
    given = rows("a", "b")
    _, missing = start(TwoRounds(), given, IDENTITY, store, allowed_failures=1)
    put(store, missing[1:2])
    for question in (missing[0], missing[2]):
        store.put(*question.asked, Answer("", False, 0, 0, failed="gone"))
    talks, missing = start(TwoRounds(), given, IDENTITY, store, allowed_failures=2)
    assert missing == []
    assert len(talks.failed) == 2
    talks, missing = start(TwoRounds(), given, IDENTITY, store, allowed_failures=1)
    assert len(missing) == 2
    assert talks.failed == []


def test_an_answer_brings_up_the_next_question_at_once(store):
    talks, missing = start(TwoRounds(), rows("a", "b"), IDENTITY, store, allowed_failures=0)
    first_a, second, first_b = missing
    store.put(*second.asked, answer("s"))
    assert talks.deliver(second, answer("s")) == []
    store.put(*first_a.asked, answer("one"))
    (final,) = talks.deliver(first_a, answer("one"))
    assert final.ask.messages[0].content == "one + s"
    store.put(*final.asked, answer("the end"))
    assert talks.deliver(final, answer("the end")) == []
    assert [row.answer for row in talks.rows] == ["the end"]
    assert talks.advance() == [first_b]


def test_a_question_asked_a_moment_ago_is_not_asked_again(store):
    # b comes to the very question that a was just answered, and that is in the store's buffer only.
    talks, missing = start(TwoRounds(), rows("a", "b"), IDENTITY, store, allowed_failures=0)
    for question in missing:
        store.put(*question.asked, answer("same"))
    new = [one for question in missing for one in talks.deliver(question, answer("same"))]
    assert len(new) == 1
    store.put(*new[0].asked, answer("end"))
    assert talks.deliver(new[0], answer("end")) == []
    assert [row.answer for row in talks.rows] == ["end", "end"]


class Pool(Elicitor):
    """Asks one question that shows all rows, and goes on without what failed."""

    kind: Literal["pool"] = "pool"
    pooled: ClassVar[bool] = True

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        raise NotImplementedError

    def gather(self, rows, scene):
        answers = yield [Ask(f"part-{i}", (Message("user", f"{i} {' '.join(row.id for row in rows)}"),)) for i in range(2)]
        used = [one for one in answers if one.answer.failed is None]
        return Made([scene.child(rows, messages=(Message("user", one.answer.text),), keys=(one.key,)) for one in used])


def test_a_pool_is_split_by_side_and_outlives_a_failure(store):
    given = rows(*"abcdefghij")
    talks, missing = start(Pool(), given, setting(held_out_frac=0.4), store, allowed_failures=1)
    shown = [question.ask.messages[0].content.split()[1:] for question in missing]
    assert sorted(shown[0] + shown[2]) == list("abcdefghij")
    assert shown[0] == shown[1]
    talks.deliver(missing[0], Answer("", False, 0, 0, failed="gone"))
    for question in missing[1:]:
        talks.deliver(question, answer(question.ask.messages[0].content))
    assert len(talks.rows) == 3
    assert [(one.row, one.reason) for one in talks.failed] == [("part-0", "gone")]
    sides = {tuple(sorted(row.roots)) for row in talks.rows}
    assert sides == {tuple(shown[0]), tuple(shown[2])}


def test_what_is_made_of_few_seeds_is_split_by_itself(store):
    scene = Scene(Path(), few_seeds=True)
    seed = Row("s")
    first = scene.child([seed], messages=(Message("user", "one"),))
    assert (first.parents, first.roots) == (("s",), ())
    assert scene.child([first], messages=(Message("user", "two"),)).roots == (first.id,)
    assert Scene(Path()).child([seed], messages=(Message("user", "one"),)).roots == ("s",)
