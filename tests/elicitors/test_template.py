"""Rows written by templates."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene, _patterns
from kdbuild.elicitors.template import Template
from kdbuild.errors import SpecError
from kdbuild.records import Message, Row

ROW = Row("r", (Message("user", "Is an oak a tree? It is 20 m tall."),), gold="yes", meta={"topic": "plants"}, keys=("k",))
PASSAGES = Row(
    "p",
    context=(
        {"doc_id": "1", "text": "An oak is defined as a tree with acorns. An elm is defined as a tree with wings.", "score": None},
        {"doc_id": "2", "text": "A rose is a shrub.", "score": None},
    ),
)


def only(drive, operator, row=ROW, scene=None) -> Row:
    driven = drive(operator, [row], None, scene)
    assert driven.asks == []
    (made,) = driven.rows
    return made


def test_prompt_and_answer_are_written_from_the_row(drive):
    made = only(drive, Template(system="About {{ meta.topic }}.", prompt="Q: {{ prompt }}", answer="A: {{ gold }}"))
    assert made.messages == (
        Message("system", "About plants."),
        Message("user", "Q: Is an oak a tree? It is 20 m tall."),
        Message("assistant", "A: yes", train=True),
    )
    assert (made.parents, made.roots, made.gold, made.keys) == (("r",), ("r",), "yes", ("k",))


def test_a_row_that_only_gets_an_answer_stays_that_row(drive):
    made = only(drive, Template(answer="{{ gold }}"))
    assert (made.id, made.prompt, made.answer) == ("r", ROW.messages, "yes")


def test_without_a_template_the_right_answer_is_learned(drive):
    assert only(drive, Template()).answer == "yes"
    assert Template().writes == ("answer",)


def test_a_prompt_alone_has_no_answer(drive):
    row = Row("r", (*ROW.messages, Message("assistant", "Yes.", train=True)))
    made = only(drive, Template(prompt="Again: {{ prompt }} ({{ answer }})"), row)
    assert [m.content for m in made.messages] == ["Again: Is an oak a tree? It is 20 m tall. (Yes.)"]
    under = only(drive, Template(system="Be exact."), row)
    assert [(m.role, m.train) for m in under.messages] == [("system", False), ("user", False), ("assistant", True)]


def test_forms_are_drawn_by_the_rows_id(drive):
    forms = [{"name": f"f{i}", "prompt": f"{i}: {{{{ prompt }}}}", "answer": "{{ gold }}"} for i in range(4)]
    rows = [Row(f"r{i}", ROW.messages, gold="yes") for i in range(200)]
    made = drive(Template(forms=forms), rows, None).rows
    counts = Counter(row.meta["form"] for row in made)
    assert set(counts) == {"f0", "f1", "f2", "f3"}
    assert min(counts.values()) >= 25  # 50 each
    fewer = {row.parents: row.meta["form"] for row in drive(Template(forms=forms[:3]), rows, None).rows}
    assert all(fewer[row.parents] == row.meta["form"] for row in made if row.meta["form"] != "f3")


def test_a_row_a_role(drive):
    row = Row(
        "t", (Message("user", "2 + 2?"),), trajectory=({"thought": "Add them.", "action": "add", "args": "2, 2", "observation": "4"},)
    )
    forms = [
        {"name": "planner", "prompt": "Plan: {{ prompt }}", "answer": "{{ trajectory[0].thought }}"},
        {"name": "caller", "prompt": "Call: {{ trajectory[0].thought }}", "answer": "{{ trajectory[0].action }}({{ trajectory[0].args }})"},
    ]
    made = drive(Template(forms=forms, pick="all"), [row], None).rows
    assert [(one.meta["form"], one.prompt[0].content, one.answer) for one in made] == [
        ("planner", "Plan: 2 + 2?", "Add them."),
        ("caller", "Call: Add them.", "add(2, 2)"),
    ]
    assert all(one.parents == ("t",) for one in made)


def test_what_a_pattern_finds_is_a_name_and_a_field(drive):
    operator = Template(
        prompt="How tall is it, in {{ unit }}?", answer="{{ label }}", extract={"label": r"(\d+) m", "unit": r"\d+ (?P<u>\w)"}
    )
    made = only(drive, operator)
    assert (made.prompt[0].content, made.answer, made.label) == ("How tall is it, in m?", "20", "20")
    assert made.meta == {"topic": "plants", "unit": "m", "u": "m"}
    assert operator.writes == ("answer", "label", "meta")
    gold = only(drive, Template(extract={"gold": r"#### (.*)"}, search="gold"), Row("g", ROW.messages, gold="3*6\n#### 18"))
    assert (gold.id, gold.gold, gold.messages) == ("g", "18", ROW.messages)
    none = drive(Template(answer="x", extract={"label": "absent"}), [ROW], None)
    assert [one.reason for one in none.rejected] == ["a pattern does not match"]


def test_a_row_a_match(drive):
    pattern = r"An? (?P<term>\w+) is defined as (?P<meaning>[^.]+)\."
    operator = Template(
        prompt="What is an {{ term }}?", answer="It is {{ meaning }}.", extract={"sentence": pattern}, search="context", each="match"
    )
    made = drive(operator, [PASSAGES], None).rows
    assert [(one.prompt[0].content, one.answer) for one in made] == [
        ("What is an oak?", "It is a tree with acorns."),
        ("What is an elm?", "It is a tree with wings."),
    ]
    assert drive(operator, [Row("e")], None).rejected[0].reason == "no match to write a row of"


def test_a_row_a_passage(drive):
    made = drive(Template(prompt="{{ index }}: {{ item.text }}", each="context"), [PASSAGES], None).rows
    assert [one.prompt[0].content[:10] for one in made] == ["0: An oak ", "1: A rose "]


def test_templates_of_the_project(drive, tmp_path):
    (tmp_path / "q.j2").write_text("{{ prompt | upper }}")
    operator = Template(prompt="q.j2", answer="{{ gold }}")
    assert operator.files() == ("q.j2",)
    assert only(drive, operator, scene=Scene(tmp_path)).prompt[0].content == ROW.messages[0].content.upper()
    with pytest.raises(SpecError, match="not inside the project"):
        drive(Template(prompt="../q.j2"), [ROW], None, Scene(tmp_path))


def test_what_is_empty_is_rejected_and_what_is_not_there_an_error(drive):
    assert drive(Template(answer="{{ label }}"), [ROW], None).rejected[0].reason == "empty answer"
    with pytest.raises(SpecError, match=r"'labl' is undefined.*row `r`"):
        drive(Template(answer="{{ labl }}"), [ROW], None)
    with pytest.raises(SpecError, match="not a Jinja template"):
        drive(Template(answer="{{ label"), [ROW], None)
    with pytest.raises(SpecError):
        drive(Template(answer="{{ ''.__class__.__mro__[1].__subclasses__() }}"), [ROW], None)


def test_a_catastrophic_pattern_ends_with_a_sentence(drive, monkeypatch):
    monkeypatch.setattr(_patterns, "LONGEST_SEARCH_S", 0.2)
    slow = Row("s", (Message("user", "a" * 40 + "!"),))
    with pytest.raises(SpecError, match=r"takes longer than 0\.2 s"):
        drive(Template(answer="x", extract={"label": r"^(a|aa|a?)+(b|\1c)$"}), [slow], None)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"answer": "x", "forms": [{"answer": "y"}]}, "the only form"),
        ({"forms": [{"name": "a"}]}, "writes nothing"),
        ({"answer": "x", "extract": {"label": "("}}, "not a regular expression"),
        ({"answer": "x", "extract": {"prompt": "a"}}, "taken"),
        ({"answer": "x", "extract": {"a b": "a"}}, "not a word"),
        ({"answer": "x", "each": "match"}, "exactly one pattern"),
    ],
)
def test_specs_that_cannot_be(fields, match):
    with pytest.raises(ValidationError, match=match):
        Template(**fields)


def test_it_needs_nobody():
    assert Template(answer="x").needs == frozenset()
    assert Template(answer="x").writes == ("answer",)
    assert Template(forms=[{"answer": "x"}, {"prompt": "y"}]).writes == ()
