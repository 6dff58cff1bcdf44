"""Trajectories over tools that are really called: steps, a search over them, and calls inside a text."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from kdbuild.elicitors import Scene
from kdbuild.elicitors.trajectory import Trajectory
from kdbuild.errors import SpecError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Ask, Signal

TOOLS = '''
"""Sums."""
from typing import Literal

def add(b: int, a: int = 1, unit: Literal["kg", "g"] | None = None) -> int:
    """Add two numbers.

    More about it.
    """
    return a + b

def divide(x: float, y: float) -> float:
    return x / y

def leak(path: str) -> str:
    """Read a file."""
    return open(path).read()

class Words:
    @staticmethod
    def count(text: str, words: list[str]) -> dict:
        "Count words."
        return {word: text.split().count(word) for word in words}
'''
USER = Message("user", "What is 3 + 4, and half of it?")
ROW = Row("r1", (USER,), gold="3.5")
ADD, DIVIDE = {"callable": "tools.py:add"}, {"callable": "tools.py:divide"}


@pytest.fixture
def scene(tmp_path):
    (tmp_path / "tools.py").write_text(TOOLS)
    return Scene(tmp_path, gives={"teacher": frozenset({Signal.TEXT})})


def step(thought: str, tool: str, **arguments) -> str:
    return json.dumps({"thought": thought, "call": {"name": tool, "arguments": arguments}})


def finish(answer: str) -> str:
    return step("I know.", "finish", answer=answer)


def replies(*texts):
    left = list(texts)
    return lambda ask: left.pop(0)


def said(ask: Ask) -> str:
    return ask.messages[-1].content


# --- one step after the other ------------------------------------------------------------------------------------------------


def test_calls_are_made_and_their_results_told(drive, scene):
    operator = Trajectory(tools=[ADD, DIVIDE])
    texts = (step("First the sum.", "add", a=3, b=4, unit=None), step("Half of it.", "divide", x=7, y=2), finish("3.5"))
    driven = drive(operator, [ROW], replies(*texts), scene)
    first, second, third = (said(ask) for ask in driven.asks)
    assert '- add(b: integer, a: integer = ..., unit: "kg" | "g" = ...): Add two numbers.\n- divide(x: number, y: number)\n' in first
    assert USER.content in first
    assert 'Thought: First the sum.\nCall: add {"a":3,"b":4,"unit":null}\nResult: 7\n' in second
    assert "Result: 3.5\n" in third
    (row,) = driven.rows
    assert row.id == "r1"
    assert row.trajectory == (
        {"thought": "First the sum.", "action": "add", "args": '{"a":3,"b":4,"unit":null}', "observation": "7"},
        {"thought": "Half of it.", "action": "divide", "args": '{"x":7,"y":2}', "observation": "3.5"},
        {"thought": "I know.", "action": "finish", "args": '{"answer":"3.5"}', "observation": ""},
    )
    assert len(row.keys) == 3


def test_the_student_learns_calls_and_answer_but_no_results(drive, scene):
    driven = drive(Trajectory(tools=[ADD]), [ROW], replies(step("Sum.", "add", a=3, b=4), finish("7")), scene)
    system, user, call, result, answer = driven.rows[0].messages
    assert "- add(b: integer" in system.content
    assert user == USER
    assert call == Message("assistant", 'Thought: Sum.\nAction: add\nArguments: {"a":3,"b":4}', train=True)
    assert result == Message("tool", "7", train=False)
    assert answer == Message("assistant", "7", train=True)
    (row,) = drive(Trajectory(tools=[ADD], student_sees_tools=False), [ROW], replies(finish("7")), scene).rows
    assert [m.role for m in row.messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("text", "observation"),
    [
        (step("", "divide", x=1, y=0), "error: ZeroDivisionError: "),
        (step("", "divide", x=1, y="many"), "error: TypeError: unsupported operand"),
        (step("", "leak", path="/etc/passwd"), "error: tried to use files that are not its own"),
    ],
)
def test_a_call_that_fails_is_told(drive, scene, text, observation):
    operator = Trajectory(tools=[DIVIDE, {"callable": "tools.py:leak"}])
    driven = drive(operator, [ROW], replies(text, finish("?")), scene)
    assert driven.rows[0].trajectory[0]["observation"].startswith(observation)
    assert f"Result: {observation}" in said(driven.asks[1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Let me add.", "not JSON of the form asked for"),
        (Answer('{"thought": "so', False, 3, 512), "cut at the token limit"),
        (step("", "subtract", a=1), "calls what is not there, or without its arguments"),
        (step("", "add", a=1), "calls what is not there, or without its arguments"),
        (step("", "add", b=1, c=2), "calls what is not there, or without its arguments"),
        ('{"thought": "", "call": {"name": "add", "arguments": {"b": NaN}}}', "calls what is not there, or without its arguments"),
        ('{"thought": "", "call": {"name": "add", "arguments": [1]}}', "calls what is not there, or without its arguments"),
        (finish(" "), "empty answer"),
    ],
)
def test_what_cannot_be_read_is_rejected(drive, scene, text, reason):
    (rejected,) = drive(Trajectory(tools=[ADD]), [ROW], lambda ask: text, scene).rejected
    assert rejected.reason == reason


def test_after_the_last_step_only_the_answer_is_asked_for(drive, scene):
    operator = Trajectory(tools=[ADD], max_steps=2)
    driven = drive(operator, [ROW], replies(*[step("", "add", b=1)] * 2, finish("2")), scene)
    names = [[tool.split("(")[0] for tool in said(ask).splitlines() if tool.startswith("- ")] for ask in driven.asks]
    assert names == [["- add", "- finish"], ["- add", "- finish"], ["- finish"]]
    assert len(driven.rows) == 1
    again = drive(operator, [ROW], lambda ask: step("", "add", b=1), scene)
    assert len(again.asks) == 3
    assert again.rejected[0].reason == "calls what is not there, or without its arguments"


def test_the_schema_follows_the_signature(drive, scene):
    operator = Trajectory(tools=[ADD, {"callable": "tools.py:Words.count"}], max_thought_chars=10, max_argument_chars=5)
    driven = drive(operator, [ROW], lambda ask: finish("7"), scene)
    schema = json.loads(driven.asks[0].schema)
    Draft202012Validator.check_schema(schema)
    assert list(schema["properties"]) == ["thought", "call"]
    valid = Draft202012Validator(schema)

    def fits(thought, name, **arguments) -> bool:
        return valid.is_valid({"thought": thought, "call": {"name": name, "arguments": arguments}})

    assert fits("short", "add", b=1, a=None, unit="kg")
    assert fits("short", "count", text="a b", words=["a"])
    assert fits("short", "finish", answer="7" * 240)
    assert not fits("much too long", "add", b=1, a=None, unit=None)
    assert not fits("short", "add", b="1", a=None, unit=None)
    assert not fits("short", "add", b=1, a=None, unit="lb")
    assert not fits("short", "count", text="a" * 6, words=[])
    assert not fits("short", "finish", answer="")
    assert not fits("short", "other")


def test_check_compares_the_answer(drive, scene):
    operator = Trajectory(tools=[ADD], check="gold", answers="number")
    assert drive(operator, [ROW], lambda ask: finish("It is 3.50"), scene).rows
    assert drive(operator, [ROW], lambda ask: finish("7"), scene).rejected[0].reason == "not the right answer"
    driven = drive(operator, [Row("r", (USER,))], lambda ask: finish("7"), scene)
    assert (driven.asks, driven.rejected[0].reason) == ([], "no right answer to compare with")


# --- which tools -----------------------------------------------------------------------------------------------------------------


def test_a_rows_own_tool_is_called(drive, scene):
    tool = {
        "name": "gcd",
        "description": "Greatest common divisor.",
        "parameters": '{"type":"object","properties":{"version":{"type":"string"}},"required":["version"]}',
        "returns": "Version",
        "callable": "packaging.version:parse",
    }
    driven = drive(Trajectory(), [Row("r", (USER,), tool=tool)], replies(step("", "gcd", version="1.02"), finish("1.2")), scene)
    assert "- gcd(version: string): Greatest common divisor." in said(driven.asks[0])
    assert driven.rows[0].trajectory[0]["observation"] == "1.2"
    assert Trajectory().reads == ("prompt", "tool")


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (None, "the row's tool cannot be called"),
        ({"name": "f", "callable": ""}, "the row's tool cannot be called"),
        ({"name": "two words", "callable": "m:f"}, "the row's tool has no usable name"),
        ({"name": "f", "callable": "m:f", "parameters": "[1"}, "the row's tool has no JSON schema"),
    ],
)
def test_a_row_without_a_tool_is_rejected(drive, scene, tool, reason):
    driven = drive(Trajectory(), [Row("r", (USER,), tool=tool)], replies(), scene)
    assert (driven.asks, driven.rejected[0].reason) == ([], reason)


def test_a_tool_of_a_package_describes_itself(drive, scene):
    driven = drive(Trajectory(tools=[{"callable": "textwrap:shorten"}]), [ROW], lambda ask: finish("x"), scene)
    assert "- shorten(text: string, width: string): Collapse and truncate the given text to fit in the given width." in said(driven.asks[0])


def test_the_spec_may_say_what_a_tool_is(drive, scene):
    tool = {"callable": "tools.py:add", "name": "plus", "description": "Sums.", "parameters": {"properties": {"b": {"type": "integer"}}}}
    driven = drive(Trajectory(tools=[tool]), [ROW], replies(step("", "plus", b=1), finish("2")), scene)
    assert "- plus(b: integer = ...): Sums.\n" in said(driven.asks[0])
    assert driven.rows[0].trajectory[0]["observation"] == "2"


def test_files_of_tools_are_dependencies():
    operator = Trajectory(tools=[ADD, DIVIDE, {"callable": "math:gcd"}])
    assert operator.files() == ("tools.py",)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([{"callable": "../x.py:f"}], "not inside the project"),
        ([{"callable": "absent.py:f"}], "is not there"),
        ([{"callable": "tools.py:absent"}], "does not load: AttributeError"),
        ([{"callable": "no_such_package:f"}], "does not load: ModuleNotFoundError"),
        ([{"callable": "builtins:max"}], "does not load: ValueError"),
        ([{"callable": "broken.py:f"}], "does not load: it tried to reach the network"),
        ([ADD, ADD], "two tools are called `add`"),
    ],
)
def test_tools_that_are_none_are_a_sentence(drive, scene, tools, message):
    (scene.root / "broken.py").write_text("import urllib.request as u\nu.urlopen('http://example.org')\ndef f(): pass\n")
    with pytest.raises(SpecError, match=message):
        drive(Trajectory(tools=tools), [ROW], lambda ask: finish("x"), scene)


@pytest.mark.parametrize("callable", ["add", "tools.py", "tools.py:", "a b:c", "tools.py:f()", ":f"])
def test_a_callable_is_a_place_and_a_name(callable):
    with pytest.raises(ValidationError):
        Trajectory(tools=[{"callable": callable}])


# --- a search --------------------------------------------------------------------------------------------------------------------


def tree(**fields) -> Trajectory:
    return Trajectory(mode="tree", tools=[ADD], num_proposals=2, temperature=0.8, **fields)


def teacher(proposals, likes):
    """Answer by the results so far: `proposals` maps them to the texts of the samples, `likes` says which results are liked."""

    def reply(ask: Ask) -> str:
        results = tuple(line.removeprefix("Result: ") for line in said(ask).splitlines() if line.startswith("Result: "))
        if "Is the last call right" in said(ask):
            return json.dumps({"verdict": "yes" if likes(results) else "no"})
        return proposals[results][ask.sample]

    return reply


def test_the_best_proposal_is_followed_and_a_dead_end_left(drive, scene):
    good, bad = step("Good.", "add", b=6), step("Bad.", "add", b=1)
    proposals = {
        (): (bad, good),
        ("7",): ("no JSON", "nor this"),  # the liked one is a dead end
        ("2",): (finish("2"), step("On.", "add", b=2)),
        ("2", "3"): (finish("3"), finish("3")),
    }
    driven = drive(tree(), [ROW], teacher(proposals, lambda results: results == ("7",)), scene)
    asked = [said(ask).count("Result: ") for ask in driven.asks if "Is the last call right" not in said(ask)]
    assert asked == [0, 0, 1, 1, 1, 1]  # root, then below 7, then below 2
    (row,) = driven.rows
    assert row.answer == "2"
    assert [one["observation"] for one in row.trajectory] == ["2", ""]
    assert len(row.keys) == len(driven.asks) == 10


def test_likelihoods_of_yes_order_proposals(drive, scene):
    proposals = {(): (step("", "add", b=1), step("", "add", b=6)), ("2",): (finish("two"),) * 2, ("7",): (finish("seven"),) * 2}
    write = teacher(proposals, lambda results: True)

    def reply(ask: Ask):
        if ask.choices:
            assert ask.choices == ("yes", "no")
            return Answer("", True, 3, 0, logprobs=(-0.1, -3.0) if "Result: 7" in said(ask) else (-0.7, -0.8))
        return write(ask)

    sees = Scene(scene.root, gives={"teacher": frozenset({Signal.TEXT, Signal.CHOICES})})
    assert drive(tree(), [ROW], reply, sees).rows[0].answer == "seven"
    assert tree(verdict="choices").needs == frozenset({Signal.TEXT, Signal.CHOICES})


def test_the_search_ends_with_its_nodes(drive, scene):
    def endless(ask: Ask) -> str:
        return (
            '{"verdict": "no"}' if "Is the last call right" in said(ask) else step("", "add", b=said(ask).count("Result") * 2 + ask.sample)
        )

    driven = drive(tree(max_nodes=7, max_steps=20), [ROW], endless, scene)
    assert sum("Is the last call right" not in said(ask) for ask in driven.asks) == 7
    assert driven.rejected[0].reason == "no answer within its nodes"


def test_a_search_without_a_readable_step_says_so(drive, scene):
    driven = drive(tree(), [ROW], lambda ask: "I add.", scene)
    assert len(driven.asks) == 2
    assert driven.rejected[0].reason == "not JSON of the form asked for"


@pytest.mark.parametrize(
    "fields",
    [{"mode": "tree"}, {"mode": "tree", "num_proposals": 2}, {"num_proposals": 3}, {"mode": "insert", "check": "gold"}],
)
def test_fields_that_contradict_each_other(fields):
    with pytest.raises(ValidationError, match=r"temperature above 0|remove `check`"):
        Trajectory(**fields)


# --- calls in a text -------------------------------------------------------------------------------------------------------------

TEXT = "Seven apples and four pears\nare eleven fruits in all."
FILLED = Row("t1", (Message("user", "Tell me."), Message("assistant", TEXT, train=True)))


def insert(**fields) -> Trajectory:
    return Trajectory(mode="insert", tools=[ADD], **fields)


def call(tool: str, **arguments) -> str:
    return json.dumps({"call": {"name": tool, "arguments": arguments}})


def before(ask: Ask) -> str:
    return said(ask).partition("<HERE> marks a place:\n")[2].partition("<HERE>")[0]


def test_each_call_makes_a_row(drive, scene):
    def reply(ask: Ask) -> str:
        return call("add", a=7, b=4) if before(ask).endswith("are ") else call("none")

    driven = drive(insert(num_places=99), [FILLED], reply, scene)
    assert len(driven.rounds) == 1
    assert [before(ask) for ask in driven.asks] == [TEXT[: TEXT.index(word)] for word in TEXT.split()[1:]]
    (row,) = driven.rows
    assert row.answer == "Seven apples and four pears\nare [add(a=7, b=4) -> 11] eleven fruits in all."
    assert row.answer.replace("[add(a=7, b=4) -> 11] ", "") == TEXT
    assert row.parents == ("t1",)
    assert row.trajectory == ({"thought": "", "action": "add", "args": '{"a":7,"b":4}', "observation": "11"},)
    assert len(row.keys) == 1
    assert {one.reason for one in driven.dropped} == {"no call wanted"}
    assert len(driven.dropped) == len(TEXT.split()) - 2


def test_all_calls_can_be_in_one_row(drive, scene):
    def reply(ask: Ask) -> str:
        texts = {"Seven apples ": call("add", b=1), "Seven apples and ": call("add", b=2)}
        return texts.get(before(ask), call("none"))

    (row,) = drive(insert(num_places=99, rows="together"), [FILLED], reply, scene).rows
    assert row.id == "t1"
    assert row.answer == "Seven apples [add(b=1) -> 2] and [add(b=2) -> 3] four pears\nare eleven fruits in all."
    assert len(row.trajectory) == len(row.keys) == 2


def test_places_are_drawn_by_the_rows_id(drive, scene):
    def places(name: str, count: int) -> list[str]:
        row = Row(name, FILLED.messages)
        return [before(ask) for ask in drive(insert(num_places=count), [row], lambda ask: call("none"), scene).asks]

    assert places("a", 3) == places("a", 3)
    assert len(places("a", 3)) == 3
    assert set(places("a", 2)) < set(places("a", 3))
    assert len({tuple(places(f"r{i}", 2)) for i in range(20)}) > 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("add", "not JSON of the form asked for"),
        (call("divide", x=1, y=0), "the tool raised ZeroDivisionError"),
        (call("none"), "no call wanted"),
        (call("unknown"), "calls what is not there, or without its arguments"),
    ],
)
def test_calls_that_come_to_nothing(drive, scene, text, reason):
    (rejected,) = drive(Trajectory(mode="insert", tools=[DIVIDE], num_places=1), [FILLED], lambda ask: text, scene).rejected
    assert rejected.reason == reason


def test_a_text_without_a_place_is_rejected(drive, scene):
    for row in (Row("r", (USER,)), Row("r", (USER, Message("assistant", "Word", train=True)))):
        driven = drive(insert(), [row], replies(), scene)
        assert (driven.asks, driven.rejected[0].reason) == ([], "no text to put calls into")
