"""Answers under drawn system messages."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene
from kdbuild.elicitors.system import System
from kdbuild.errors import SpecError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

USER = Message("user", "Why is the sky blue?")
ROWS = [Row(f"r{i}", (USER,)) for i in range(200)]
BANK = ["Be brief.", "Be kind.", "Explain it."]


def drawn(drive, operator, rows=ROWS, scene=None):
    return {ask.row: ask.messages[0].content for ask in drive(operator, rows, lambda ask: "Light.", scene).asks}


def test_the_message_is_a_system_turn_of_question_and_row(drive):
    driven = drive(System(messages=["Be brief."]), ROWS[:1], lambda ask: "Light.")
    assert driven.asks[0].messages == (Message("system", "Be brief."), USER)
    (row,) = driven.rows
    assert row.messages == (Message("system", "Be brief."), USER, Message("assistant", "Light.", train=True))
    assert row.id == "r0"
    hidden = drive(System(messages=["Be brief."], keep_system=False), ROWS[:1], lambda ask: "Light.").rows[0]
    assert hidden.prompt == (USER,)


def test_every_message_is_drawn_and_the_draw_is_the_rows_own(drive):
    before = drawn(drive, System(messages=BANK))
    counts = Counter(before.values())
    assert set(counts) == set(BANK)
    assert min(counts.values()) > 40  # 200 rows, 3 messages: 66 each, 40 is four standard deviations below
    assert drawn(drive, System(messages=BANK), ROWS[50:60]) == {row.id: before[row.id] for row in ROWS[50:60]}


def test_a_message_added_changes_only_the_rows_that_draw_it(drive):
    before, after = drawn(drive, System(messages=BANK)), drawn(drive, System(messages=[*BANK, "Rhyme."]))
    changed = {row for row in before if before[row] != after[row]}
    assert {after[row] for row in changed} == {"Rhyme."}
    assert 25 < len(changed) < 80


def test_several_are_put_together_in_their_order(drive):
    two = set(drawn(drive, System(messages=BANK, num_messages=2)).values())
    assert two == {"Be brief.\nBe kind.", "Be brief.\nExplain it.", "Be kind.\nExplain it."}
    assert set(drawn(drive, System(messages=BANK, num_messages=9)).values()) == {"\n".join(BANK)}


def test_banks_of_the_project(drive, tmp_path):
    scene = Scene(tmp_path)
    (tmp_path / "lines.txt").write_text("One.\n\n  Two.  \n")
    assert set(drawn(drive, System(bank="lines.txt"), scene=scene).values()) == {"One.", "Two."}
    assert System(bank="lines.txt").files() == ("lines.txt",)
    (tmp_path / "names.yaml").write_text("short: Be brief.\nlong: Be thorough.\n")
    rows = [Row("a", (USER,), meta={"style": "long"}), Row("b", (USER,), meta={"style": "none"})]
    driven = drive(System(bank="names.yaml", by_meta="style"), rows, lambda ask: "Light.", scene)
    assert [(row.messages[0].content, row.meta["system"]) for row in driven.rows] == [("Be thorough.", "long")]
    assert [one.reason for one in driven.rejected] == ["no system message of the name that its meta gives"]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.yaml", "a: [1, 2]", "not a list of texts"),
        ("a.yaml", "a: b: c", "not YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "not YAML"),
        ("a.txt", "\n\n", "holds no texts"),
        ("a.txt", b"\xff\xfe", "cannot be read"),
    ],
)
def test_bad_banks_are_named(drive, tmp_path, name, text, match):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError, match=match):
        drive(System(bank=name), ROWS[:1], lambda ask: "x", Scene(tmp_path))
    with pytest.raises(SpecError, match="not inside the project"):
        drive(System(bank="../x.txt"), ROWS[:1], lambda ask: "x", Scene(tmp_path))


@pytest.mark.parametrize("bank", ["explain", "strategies", "principles"])
def test_shipped_banks(drive, bank):
    operator = System(bank=bank)
    assert operator.files() == ()
    assert any(path.name == f"{bank}.yaml" and path.is_file() for path in operator.templates())
    assert len(set(drawn(drive, operator).values())) >= 5


def test_an_expert_is_asked_for_first(drive):
    def reply(ask):
        return "You are a physicist who explains light." if "Do not answer" in ask.messages[-1].content else "Light scatters."

    driven = drive(System(expert=True), ROWS[:1], reply)
    assert [len(asks) for asks in driven.rounds] == [1, 1]
    assert driven.asks[1].messages == (Message("system", "You are a physicist who explains light."), USER)
    assert (driven.rows[0].answer, len(driven.rows[0].keys)) == ("Light scatters.", 2)
    both = drive(System(expert=True, messages=["Be brief."]), ROWS[:1], reply)
    assert both.asks[1].messages[0].content == "Be brief.\n\nYou are a physicist who explains light."


@pytest.mark.parametrize(
    ("answer", "reason"), [("", "empty answer"), (Answer("You are", False, 1, 9), "cut at the token limit"), ("I'm sorry, no.", "refusal")]
)
def test_an_expert_that_is_none(drive, answer, reason):
    assert drive(System(expert=True), ROWS[:1], lambda ask: answer).rejected[0].reason == f"expert: {reason}"


def test_it_joins_the_seeds_own_system_turn(drive):
    row = Row("r", (Message("system", "You are a poet."), USER))
    (made,) = drive(System(messages=["Be brief."]), [row], lambda ask: "Light.").rows
    assert made.messages[0].content == "Be brief.\n\nYou are a poet."
    (plain,) = drive(System(messages=["Be brief."], keep_system=False), [row], lambda ask: "Light.").rows
    assert plain.prompt == row.messages
    assert drive(System(messages=["Be brief."]), [row], lambda ask: " ").rejected[0].reason == "empty answer"


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"messages": ["a"], "bank": "b.txt"}, "keep one"),
        ({"messages": ["a"], "by_meta": "m"}, "with names"),
        ({"by_meta": "m"}, "with names"),
    ],
)
def test_specs_that_say_two_things(fields, match):
    with pytest.raises(ValidationError, match=match):
        System(**fields)
