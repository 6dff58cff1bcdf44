"""Several actors behind one operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from kdbuild.elicitors import Answered, Conversation, Elicitor, Made, Rejected, Scene, _agreement, _ensemble
from kdbuild.elicitors._words import words
from kdbuild.elicitors.label import Label
from kdbuild.errors import SpecError
from kdbuild.records import Dropped, Message, Row
from kdbuild.teachers import Answer, Ask, Signal

ROW = Row("r", (Message("user", "Name a tree."),))
SCENE = Scene(Path())


class Twice(Elicitor):
    """Asks two rounds where the first answer is `more`, and makes two rows, the second of the first."""

    kind: Literal["twice"] = "twice"

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        (first,) = yield [Ask("r", row.messages, to=scene.actor)]
        if first.answer.text == "more":
            (first,) = yield [Ask("r", row.messages, sample=1, to=scene.actor)]
        one = scene.child([row], messages=(Message("user", first.answer.text),), keys=(first.key,))
        return [one, scene.child([one], messages=(Message("user", "then"),), keys=(first.key,))]


class Pool(Elicitor):
    """Hands every row on as it is, and adds one that is made of all; what it has asked for `bad` is dropped."""

    kind: Literal["pool"] = "pool"
    pooled: ClassVar[bool] = True

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        raise AssertionError

    def gather(self, rows: Sequence[Row], scene: Scene) -> Conversation:
        (said,) = yield [Ask("pool", (Message("user", " ".join(row.id for row in rows)),), to=scene.actor)]
        if said.answer.text == "bad":
            return Made(list(rows), [Dropped(rows[0].id, "pool", "bad")])
        return Made([*rows, scene.child(rows, messages=(Message("user", said.answer.text),), keys=(said.key,))])


def run(conversation: Conversation, replies: dict[str, list[str]]):
    """Answer each actor's questions in turn; return the rounds of (actor) and what came of it."""
    replies, rounds, answers = {actor: list(texts) for actor, texts in replies.items()}, [], None
    try:
        while True:
            asks = list(next(conversation) if answers is None else conversation.send(answers))
            rounds.append([ask.to for ask in asks])
            answers = [Answered(Answer(replies[ask.to].pop(0), True, 1, 1), f"{ask.to}{len(rounds)}") for ask in asks]
    except StopIteration as end:
        return rounds, end.value


def test_one_actor_is_the_plain_conversation():
    rounds, rows = run(_ensemble.conversation(Label(by="b"), ROW, SCENE), {"b": ["An oak."]})
    assert rounds == [["b"]]
    assert rows == [ROW.with_answer("An oak.", ended=True, keys=["b1"])]


def test_a_union_asks_all_together_and_keeps_a_row_of_each():
    rounds, made = run(_ensemble.conversation(Label(by=["a", "b"]), ROW, SCENE), {"a": ["An oak."], "b": ["A fir."]})
    assert rounds == [["a", "b"]]
    assert [(row.answer, row.meta, row.keys, row.parents, row.roots) for row in made.rows] == [
        ("An oak.", {"actor": "a"}, ("a1",), ("r",), ("r",)),
        ("A fir.", {"actor": "b"}, ("b1",), ("r",), ("r",)),
    ]
    assert len({"r", *(row.id for row in made.rows)}) == 3


def test_equal_answers_of_a_union_are_two_rows():
    _, made = run(_ensemble.conversation(Label(by=["a", "b"]), ROW, SCENE), {"a": ["An oak."], "b": ["An oak."]})
    assert len({row.id for row in made.rows}) == 2


def test_a_rejected_answer_of_a_union_costs_its_own_row_only():
    _, made = run(_ensemble.conversation(Label(by=["a", "b"]), ROW, SCENE), {"a": [" "], "b": ["A fir."]})
    assert [row.answer for row in made.rows] == ["A fir."]
    assert [(dropped.id, dropped.by, dropped.reason) for dropped in made.dropped] == [("r", "label", "empty answer")]


def test_conversations_of_different_lengths_and_rows_made_of_rows():
    rounds, made = run(_ensemble.conversation(Twice(by=["a", "b"]), ROW, SCENE), {"a": ["more", "x"], "b": ["x"]})
    assert rounds == [["a", "b"], ["a"]]
    assert len({row.id for row in made.rows}) == 4
    first, second, third, fourth = made.rows
    assert (second.parents, fourth.parents) == ((first.id,), (third.id,))
    assert all(row.roots == ("r",) for row in made.rows)


def test_ids_do_not_depend_on_the_other_actors():
    def ids(*actors: str) -> list[str]:
        _, made = run(_ensemble.conversation(Twice(by=list(actors)), ROW, SCENE), {actor: ["x"] for actor in actors})
        return [row.id for row in made.rows if row.meta["actor"] == "a"]

    assert ids("a", "b") == ids("c", "a")


def test_a_route_asks_one_and_spreads_rows():
    rows = [replace(ROW, id=f"r{i}") for i in range(400)]
    counts = {"a": 0, "b": 0}
    for row in rows:
        rounds, made = run(_ensemble.conversation(Label(by=["a", "b"], combine="route"), row, SCENE), {"a": ["An oak."], "b": ["A fir."]})
        ((actor,),) = rounds
        counts[actor] += 1
        assert [(r.id, r.meta) for r in made.rows] == [(row.id, {"actor": actor})]
    assert 150 < counts["a"] < 250


def test_a_consensus_is_the_answer_most_like_the_others():
    replies = {"a": ["the cat sat"], "b": ["the cat ran"], "c": ["a dog ran"]}
    _, rows = run(_ensemble.conversation(Label(by=["a", "b", "c"], combine="consensus"), ROW, SCENE), replies)
    # By hand: F(a, b) = 2*2/6 = 2/3, F(b, c) = 2*1/6 = 1/3, F(a, c) = 0: b has the highest mean, 1/2.
    (row,) = rows
    assert (row.id, row.answer, row.scores, row.keys, row.meta) == (
        "r",
        "the cat ran",
        {"agreement": 0.5},
        ("a1", "b1", "c1"),
        {"actor": "b"},
    )


def test_ties_of_a_consensus_go_to_the_first_actor():
    replies = {"b": ["two three"], "a": ["one two"]}
    _, (row,) = run(_ensemble.conversation(Label(by=["b", "a"], combine="consensus"), ROW, SCENE), replies)
    assert (row.answer, row.scores) == ("two three", {"agreement": 0.5})


def test_a_consensus_of_one_answer_agrees_with_nobody_and_of_none_is_rejected():
    label = Label(by=["a", "b"], combine="consensus")
    _, (row,) = run(_ensemble.conversation(label, ROW, SCENE), {"a": [" "], "b": ["A fir."]})
    assert (row.answer, row.scores) == ("A fir.", {"agreement": 0.0})
    _, result = run(_ensemble.conversation(label, ROW, SCENE), {"a": [" "], "b": [" "]})
    assert isinstance(result, Rejected)
    assert result.reason == "empty answer"


def test_a_pool_of_several_actors():
    rows = [Row("p"), Row("q")]
    _, made = run(_ensemble.conversation(Pool(by=["a", "b"]), rows, SCENE), {"a": ["new"], "b": ["bad"]})
    # What both handed on as it was stays one row.
    assert [row.id for row in made.rows[:2]] == ["p", "q"]
    assert [row.meta for row in made.rows[2:]] == [{"actor": "a"}]
    assert made.rows[2].parents == ("p", "q")
    assert made.dropped == [Dropped("p", "pool", "bad")]


def test_a_routed_pool_is_split():
    rows = [Row(f"p{i}") for i in range(20)]
    rounds, made = run(_ensemble.conversation(Pool(by=["a", "b"], combine="route"), rows, SCENE), {"a": ["x"], "b": ["y"]})
    assert rounds == [["a", "b"]]
    shares = [row.parents for row in made.rows if row.parents]
    assert sorted(parent for share in shares for parent in share) == sorted(row.id for row in rows)


@pytest.mark.parametrize("operator", [Pool(by=["a", "b"], combine="consensus"), Twice(by=["a", "b"], combine="consensus")])
def test_a_consensus_without_answers_is_refused(operator):
    with pytest.raises(SpecError, match=r"several actors to compare|no consensus"):
        _ensemble.conversation(operator, [ROW] if operator.pooled else ROW, SCENE)


def test_an_operator_that_combines_is_left_alone():
    class Own(Label):
        combines: ClassVar[bool] = True

    rounds, _ = run(_ensemble.conversation(Own(by=["b", "a"], combine="consensus"), ROW, SCENE), {"b": ["An oak."]})
    assert rounds == [["b"]]


def test_who_would_be_asked_by_an_operator_that_asks_nobody_does_not_count():
    class Quiet(Label):
        needs: ClassVar[frozenset[Signal]] = frozenset()

        def elicit(self, row: Row, scene: Scene) -> Conversation:
            return [row]
            yield []

    assert run(_ensemble.conversation(Quiet(by=["a", "b"]), ROW, SCENE), {}) == ([], [ROW])


def test_closing_it_closes_every_conversation():
    closed = []

    class Careful(Label):
        def elicit(self, row: Row, scene: Scene) -> Conversation:
            try:
                yield [Ask("r", row.messages, to=scene.actor)]
            finally:
                closed.append(scene.actor)
            return []

    conversation = _ensemble.conversation(Careful(by=["a", "b"]), ROW, SCENE)
    next(conversation)
    conversation.close()
    assert closed == ["a", "b"]


@given(*[st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat-", "It's"]), max_size=30).map(" ".join)] * 2)
def test_rouge_l_is_rouge_scores(one, other):
    expected = RougeScorer(["rougeL"]).score(one, other)["rougeL"].fmeasure
    assert _agreement.f1(words(one), words(other)) == pytest.approx(expected, abs=1e-12)
