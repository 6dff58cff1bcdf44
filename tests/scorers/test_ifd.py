"""Instruction-following difficulty."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from kdbuild.records import Message, Row
from kdbuild.scorers import Scene
from kdbuild.scorers.ifd import Ifd
from kdbuild.teachers import Answer, Ask

PROMPT, ANSWER = "Name a tree.", "An oak is one."
ROW = Row("r", (Message("user", PROMPT), Message("assistant", ANSWER, train=True)))
GUESS = "Here is an answer:\n\nAn oak is one.\n\nWhich instruction was it given to? Reply with the instruction only."


def reply(ask: Ask) -> Answer:
    return Answer("", True, 3, 0, logprobs=(-6.0 if ask.messages else -10.0,), num_choice_tokens=(4,))


def test_the_ratios(score):
    # Losses 1.5 with and 2.5 without: 0.6, and e^1.5 / e^2.5 = e^-1.
    assert score(Ifd(measure="loss"), [ROW], reply).values("ifd") == [0.6]
    assert score(Ifd(), [ROW], reply).values("ifd") == [0.367879]


def test_both_questions_go_out_together(score):
    driven = score(Ifd(), [ROW], reply)
    assert [[(ask.messages, ask.choices) for ask in asks] for asks in driven.rounds] == [[((ROW.messages[0],), (ANSWER,)), ((), (ANSWER,))]]


def test_reversed_reads_the_instruction_after_the_answer(score):
    driven = score(Ifd(reversed=True, name="r-ifd"), [ROW], reply)
    assert [[message.content for message in ask.messages] for ask in driven.asks] == [[GUESS], []]
    assert {ask.choices for ask in driven.asks} == {(PROMPT,)}
    assert driven.values("r-ifd") == [0.367879]


def test_the_network_s_own_losses(score, weigh, loss):
    given, alone = loss([("user", PROMPT)], ANSWER), loss([], ANSWER)
    assert score(Ifd(), [ROW], weigh).values("ifd") == [pytest.approx(math.exp(given) / math.exp(alone), rel=1e-4)]
    assert score(Ifd(measure="loss"), [ROW], weigh).values("ifd") == [pytest.approx(given / alone, rel=1e-4)]
    given, alone = loss([("user", GUESS)], PROMPT), loss([], PROMPT)
    assert score(Ifd(reversed=True, measure="loss"), [ROW], weigh).values("ifd") == [pytest.approx(given / alone, rel=1e-4)]


def test_what_cannot_be_scored_is_said(score):
    rows = [Row("a", ROW.messages[:1]), Row("b", ROW.messages[1:]), ROW]

    def certain(ask: Ask) -> Answer:
        return Answer("", True, 3, 0, logprobs=(-6.0 if ask.messages else 0.0,), num_choice_tokens=(4,))

    assert score(Ifd(measure="loss"), rows, certain).reasons == {
        "a": "no answer to score",
        "b": "no prompt to score",
        "r": "the score is not a number",
    }


def test_a_template_of_the_project(score, tmp_path):
    (tmp_path / "guess.j2").write_text("{{ answer }} What was asked?")
    scorer = Ifd(reversed=True, template="guess.j2")
    assert (scorer.files(), scorer.templates()) == (("guess.j2",), ())
    assert [path.name for path in Ifd(reversed=True).templates()] == ["guess.j2"]
    assert Ifd().templates() == ()
    driven = score(scorer, [ROW], reply, Scene(tmp_path))
    assert driven.asks[0].messages[0].content == "An oak is one. What was asked?"
    with pytest.raises(ValidationError, match="which only `reversed: true` does"):
        Ifd(template="guess.j2")
