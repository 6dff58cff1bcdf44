"""The teacher answers each row's prompt."""

from __future__ import annotations

import os

import pytest

from kdbuild.elicitors import Answered, Rejected, Scene
from kdbuild.elicitors.label import Label
from kdbuild.errors import SpecError
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Ask

USER = Message("user", "Name <a> tree & {{ why }}.\n")


def ask_of(label: Label, row: Row, root) -> Ask:
    (ask,) = next(label.elicit(row, Scene(root)))
    return ask


def result(label: Label, row: Row, root, answer: Answer):
    conversation = label.elicit(row, Scene(root))
    next(conversation)
    with pytest.raises(StopIteration) as end:
        conversation.send([Answered(answer, "k" * 64)])
    return end.value.value


def test_the_last_turn_is_asked_unchanged(tmp_path):
    assert ask_of(Label(), Row("r", (USER,)), tmp_path) == Ask("r", (USER,), 256)


def test_a_system_instruction_is_the_teachers_only(tmp_path):
    label = Label(system="Be brief.")
    row = Row("r", (USER,))
    assert ask_of(label, row, tmp_path).messages == (Message("system", "Be brief."), USER)
    (made,) = result(label, row, tmp_path, Answer("An oak.", False, 3, 256))
    assert made.messages == (USER, Message("assistant", "An oak.", train=True, ended=False))
    assert made.keys == ("k" * 64,)


def test_it_joins_the_seeds_own_system_turn(tmp_path):
    row = Row("r", (Message("system", "You are a gardener."), USER))
    ask = ask_of(Label(system="Be brief."), row, tmp_path)
    assert ask.messages == (Message("system", "Be brief.\n\nYou are a gardener."), USER)
    assert ask_of(Label(), row, tmp_path).messages == row.messages


def test_an_answer_known_before_is_replaced(tmp_path):
    row = Row("r", (USER, Message("assistant", "A rose.", train=True)), gold="A rose.")
    assert ask_of(Label(), row, tmp_path).messages == (USER,)
    (made,) = result(Label(), row, tmp_path, Answer("An oak.", True, 3, 3))
    assert [m.content for m in made.messages] == [USER.content, "An oak."]
    assert made.gold == "A rose."


def test_a_template_writes_the_last_turn(tmp_path):
    (tmp_path / "t.j2").write_text(
        "{% for m in messages[:-1] %}{{ m.role }}: {{ m.content }}\n{% endfor %}Q({{ meta.topic }}): {{ prompt }}"
    )
    row = Row("r", (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "A tree?")), meta={"topic": "plants"})
    ask = ask_of(Label(template="t.j2"), row, tmp_path)
    assert ask.messages[-1].content == "user: Hi\nassistant: Hello\nQ(plants): A tree?"
    assert ask.messages[:2] == row.messages[:2]


def test_an_edited_template_is_read_again(tmp_path):
    path = tmp_path / "t.j2"
    path.write_text("one {{ prompt }}")
    label, row = Label(template="t.j2"), Row("r", (USER,))
    assert ask_of(label, row, tmp_path).messages[-1].content.startswith("one")
    path.write_text("two {{ prompt }}")
    os.utime(path, ns=(1, 1))
    assert ask_of(label, row, tmp_path).messages[-1].content.startswith("two")


def test_sampling_is_seeded_by_the_row(tmp_path):
    label = Label(temperature=0.7)
    one, two = (ask_of(label, Row(name, (USER,)), tmp_path) for name in ("a", "b"))
    assert one.seed != two.seed
    assert ask_of(Label(), Row("a", (USER,)), tmp_path).seed == 0


@pytest.mark.parametrize(
    "messages", [(), (Message("system", "x"),), (USER, Message("assistant", "An oak."))], ids=["none", "system", "assistant"]
)
def test_a_row_without_a_question_is_rejected(tmp_path, messages):
    with pytest.raises(StopIteration) as end:
        next(Label().elicit(Row("r", messages), tmp_path))
    assert isinstance(end.value.value, Rejected)
    assert "no question" in end.value.value.reason


def test_an_empty_answer_is_rejected(tmp_path):
    assert result(Label(), Row("r", (USER,)), tmp_path, Answer(" \n", True, 3, 1)).reason == "empty answer"


def test_a_template_outside_the_project_is_refused(tmp_path):
    (tmp_path / "secret.j2").write_text("{{ prompt }}")
    root = tmp_path / "project"
    root.mkdir()
    (root / "link.j2").symlink_to(tmp_path / "secret.j2")
    for path in ("../secret.j2", "link.j2"):
        with pytest.raises(SpecError, match="not inside the project"):
            ask_of(Label(template=path), Row("r", (USER,)), root)
    with pytest.raises(SpecError, match="not there"):
        ask_of(Label(template="absent.j2"), Row("r", (USER,)), root)


@pytest.mark.parametrize(
    "text",
    ["{{ [].append.__globals__ }}", "{% include '/etc/passwd' %}", "{{ messages[0].content.format.__self__.__class__.__mro__[1] }}"],
)
def test_a_template_cannot_leave_the_sandbox(tmp_path, text):
    (tmp_path / "t.j2").write_text(text)
    with pytest.raises(SpecError, match=r"t\.j2"):
        ask_of(Label(template="t.j2"), Row("r", (USER,)), tmp_path)
