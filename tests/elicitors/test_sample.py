"""Answers drawn as candidates."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene, _ensemble
from kdbuild.elicitors.sample import Sample
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer

ROW = Row("r", (Message("user", "Name a tree."),), gold="Oak.")


def test_samples_are_candidates(drive):
    driven = drive(Sample(num_samples=3), [ROW], lambda ask: Answer(f"Tree {ask.sample}.", ask.sample < 2, 3, 4, logprob=-0.5 * ask.sample))
    assert [(ask.to, ask.sample, ask.temperature) for ask in driven.asks] == [("student", i, 1.0) for i in range(3)]
    assert len({ask.seed for ask in driven.asks}) == 3
    (row,) = driven.rows
    assert (row.id, row.messages, row.gold) == ("r", ROW.messages, "Oak.")
    assert row.candidates[2] == {"text": "Tree 2.", "source": "student", "logprob": -1.0, "ended": False}
    assert len(row.keys) == 3


def test_candidates_of_several_actors_stand_together(drive):
    operator = Sample(num_samples=2, by=["student", "teacher"])
    driven = drive(operator, [ROW], lambda ask: f"{ask.to} {ask.sample}")
    assert [one["text"] for one in driven.rows[0].candidates] == ["student 0", "student 1", "teacher 0", "teacher 1"]
    assert [one["source"] for one in driven.rows[0].candidates] == ["student", "student", "teacher", "teacher"]
    talk = _ensemble.conversation(operator, ROW, Scene(None))
    assert [ask.to for ask in next(talk)] == ["student", "student", "teacher", "teacher"]


def test_new_ones_replace_or_extend(drive):
    had = Row("r", ROW.messages, candidates=({"text": "Elm.", "source": "x"},), ranking=(0,))
    (new,) = drive(Sample(num_samples=1), [had], lambda ask: "Ash.").rows
    assert ([one["text"] for one in new.candidates], new.ranking) == (["Ash."], ())
    (more,) = drive(Sample(num_samples=1, extend=True), [had], lambda ask: "Ash.").rows
    assert ([one["text"] for one in more.candidates], more.ranking) == (["Elm.", "Ash."], (0,))


def test_empty_samples_are_no_candidates(drive):
    (row,) = drive(Sample(num_samples=3), [ROW], lambda ask: "" if ask.sample else "Oak.").rows
    assert len(row.candidates) == 1
    assert [one.reason for one in drive(Sample(), [ROW], lambda ask: "\n").rejected] == ["empty answer"]


def test_without_a_prompt(drive):
    bare = Row("n")
    driven = drive(Sample(num_samples=1, prompt=""), [bare], lambda ask: "Once upon a time.")
    assert driven.asks[0].messages == (Message("user", ""),)
    assert driven.rows[0].messages == ()
    fixed = drive(Sample(num_samples=1, prompt="Write."), [bare], lambda ask: "Once.")
    assert fixed.asks[0].messages == (Message("user", "Write."),)
    assert fixed.rows[0].prompt == (Message("user", "Write."),)
    assert drive(Sample(num_samples=1), [bare], lambda ask: "x").rejected[0].reason.startswith("no question")
    assert drive(Sample(num_samples=1, prompt="Write."), [ROW], lambda ask: "x").asks[0].messages == ROW.messages
    assert Sample(prompt="").reads == ()


def test_several_samples_need_a_temperature():
    with pytest.raises(ValidationError, match="temperature above 0"):
        Sample(temperature=0.0)
    assert Sample(temperature=0.0, num_samples=1).actors == ("student",)
