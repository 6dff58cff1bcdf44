"""Tasks that become harder, rarer or joined."""

from __future__ import annotations

import json
import zlib
from collections import Counter

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene
from kdbuild.elicitors.evol import Evol
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

DEPTH = ["deepen", "constrain", "concretise", "reason", "complicate", "breadth"]


def row(name: str, text: str = "", **more) -> Row:
    return Row(name, (Message("user", text or f"Describe the plant number {name}."),), **more)


ROWS = [row(f"r{i}") for i in range(60)]


def numbered(ask) -> str:
    """A new task that depends on the question."""
    return f"Explain in detail: {zlib.crc32(ask.messages[-1].content.encode())} {ask.row}"


def test_each_round_is_a_child_of_the_one_before(drive):
    seed = row("a", answer := "Name a tree.", gold="oak", meta={"topic": "plants"})
    driven = drive(Evol(ops=["deepen"], rounds=3), [seed], numbered)
    one, two, three = driven.rows
    assert (one.parents, two.parents, three.parents) == (("a",), (one.id,), (two.id,))
    assert all(made.roots == ("a",) and made.gold is None and made.answer is None for made in driven.rows)
    assert [(made.meta["op"], made.meta["round"], made.meta["topic"]) for made in driven.rows] == [
        ("deepen", str(i), "plants") for i in (1, 2, 3)
    ]
    assert answer in driven.asks[0].messages[-1].content
    assert one.prompt[-1].content in driven.asks[1].messages[-1].content
    assert [len(made.keys) for made in driven.rows] == [1, 2, 3]


def test_the_last_only_or_the_row_as_well(drive):
    last = drive(Evol(ops=["deepen"], rounds=3, emit="last"), ROWS[:1], numbered).rows
    assert [made.meta["round"] for made in last] == ["3"]
    assert drive(Evol(ops=["deepen"], keep_original=True), ROWS[:1], numbered).rows[0] == ROWS[0]


def test_ops_are_drawn_by_row_and_round(drive):
    operator = Evol(ops=DEPTH, rounds=2)
    made = drive(operator, ROWS, numbered).rows
    counts = Counter(one.meta["op"] for one in made)
    assert set(counts) == set(DEPTH)
    assert min(counts.values()) >= 8  # of 120 draws, 20 each
    assert len({(one.roots[0], one.meta["op"]) for one in made}) > 80  # the second round draws anew
    alone = drive(operator, ROWS[7:8], numbered).rows
    assert [one.id for one in alone] == [one.id for one in made if one.roots == (ROWS[7].id,)]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "empty answer"),
        ("describe the plant, number a", "the same as before"),
        ("Oak?", "too short"),
        ("?!" * 20, "too short"),
        ("word " * 200, "too long"),
        ("Write a harder version of the task about plants.", "copies words of the question"),
        ("I'm sorry, but I cannot do that.", "refusal"),
        (Answer("Describe the plant and", False, 9, 384), "cut at the token limit"),
    ],
)
def test_failed_evolutions(drive, said, reason):
    driven = drive(Evol(ops=["deepen"]), [row("a")], lambda ask: said)
    assert [one.reason for one in driven.rejected] == [reason]
    assert driven.rows == []


def test_words_of_the_task_itself_are_no_copy(drive):
    seed = row("a", "Say what a given prompt is.")
    assert drive(Evol(ops=["deepen"]), [seed], lambda ask: "Explain in three steps what a given prompt is.").rows


def test_the_next_round_starts_from_the_task_that_stood(drive):
    replies = iter(["", "Describe the plant in the desert."])
    driven = drive(Evol(ops=["deepen"], rounds=2), [row("a")], lambda ask: next(replies))
    assert [(made.meta["round"], made.parents) for made in driven.rows] == [("2", ("a",))]
    assert [(one.id, one.reason) for one in driven.dropped] == [("a", "empty answer")]
    assert driven.asks[0].messages == driven.asks[1].messages


def test_two_tasks_become_one(drive):
    operator = Evol(ops=["fuse"])
    assert operator.pooled
    assert not Evol().pooled
    driven = drive(operator, ROWS, numbered)
    assert len(driven.rounds) == 1
    for made, ask in zip(driven.rows, driven.asks, strict=True):
        first, partner = made.parents
        assert first == ask.row != partner
        assert made.roots == tuple(sorted(made.parents))
        assert f"number {first}." in ask.messages[0].content
        assert f"number {partner}." in ask.messages[0].content
    assert len({made.parents[1] for made in driven.rows}) > 20


def test_one_changed_row_changes_its_own_and_its_partners_questions(drive):
    operator = Evol(ops=["fuse"])
    before = drive(operator, ROWS, numbered)
    partners = {made.parents[0]: made.parents[1] for made in before.rows}
    changed = "r11"
    after = drive(operator, [row(one.id, "Name a bird.") if one.id == changed else one for one in ROWS], numbered)
    differ = {a.row for a, b in zip(before.asks, after.asks, strict=True) if a.messages != b.messages}
    assert differ == {changed, *(one for one, partner in partners.items() if partner == changed)}


def test_a_row_of_another_id_moves_its_neighbours_only(drive):
    operator = Evol(ops=["fuse"])
    before = {ask.row: ask.messages for ask in drive(operator, ROWS, numbered).asks}
    after = {ask.row: ask.messages for ask in drive(operator, [*ROWS, row("new")], numbered).asks}
    differ = {name for name in before if before[name] != after[name]}
    assert len(differ) <= 6  # one is expected
    assert all("number new." in after[name][0].content for name in differ)


def test_a_failed_answer_costs_its_own_row_only(drive):
    driven = drive(
        Evol(ops=["fuse"]), ROWS[:10], lambda ask: Answer("", False, 3, 0, failed="no route") if ask.row == "r3" else numbered(ask)
    )
    assert len(driven.rows) == 9
    assert [(one.id, one.reason) for one in driven.dropped] == [("r3", "failed: no route")]


def test_nothing_to_join(drive):
    driven = drive(Evol(ops=["fuse"]), ROWS[:1], numbered)
    assert driven.asks == []
    assert [one.reason for one in driven.dropped] == ["no other task to join it with"]
    assert drive(Evol(ops=["fuse", "deepen"]), ROWS[:1], numbered).rows[0].meta["op"] == "deepen"


def test_a_tree_grows_by_nodes(drive):
    operator = Evol(ops=["tree"], num_nodes=3)
    said = {"nodes": ["its root", "its leaves", "its fruit"], "task": "Describe the plant, its root, leaves and fruit."}
    driven = drive(operator, [row("a")], lambda ask: json.dumps(said))
    schema = json.loads(driven.asks[0].schema)
    assert (schema["properties"]["nodes"]["minItems"], schema["properties"]["task"]["maxLength"]) == (3, 480)
    assert driven.rows[0].prompt[-1].content == said["task"]
    few = json.dumps({**said, "nodes": ["its root"]})
    assert drive(operator, [row("a")], lambda ask: few).rejected[0].reason == "not JSON of the form asked for"
    cut = Answer('{"nodes": ["its', False, 3, 384)
    assert drive(operator, [row("a")], lambda ask: cut).rejected[0].reason == "cut at the token limit"


def test_the_default_form_fits_the_default_limit():
    operator = Evol(ops=["tree"])
    longest = json.dumps({"nodes": ["n" * 60] * operator.num_nodes, "task": "t" * operator.max_chars})
    assert len(longest) <= 2 * operator.max_new_tokens


def test_earlier_turns_stay_and_few_seeds_split_by_themselves(drive):
    turns = (Message("system", "Be exact."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Name a tree."))
    seed = Row("m", (*turns, Message("assistant", "Oak.", train=True)), context=({"doc_id": "d", "text": "Oaks.", "score": None},))
    (made,) = drive(Evol(ops=["deepen"]), [seed], numbered, Scene(None, few_seeds=True)).rows
    assert made.messages[:3] == turns[:3]
    assert len(made.messages) == 4
    assert made.roots == ()
    assert made.context == seed.context


def test_lengths_that_nothing_meets():
    with pytest.raises(ValidationError, match="no task could pass"):
        Evol(min_chars=500)
