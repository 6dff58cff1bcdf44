"""The mean log-probability of a text."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kdbuild.records import Message, Row
from kdbuild.scorers.ppl import Ppl
from kdbuild.teachers import Answer, Signal

USER, OAK = Message("user", "Name a tree."), Message("assistant", "An oak is one.", train=True)
ROW = Row("r", (Message("system", "Be brief."), USER, OAK))
TALK = Row("t", (USER, OAK, Message("user", "And a bird?"), Message("assistant", "A wren — みそさざい.", train=True)))


def likely(*, logprob: float = -6.0, num_tokens: int = 4):
    return lambda ask: Answer("", True, 3, 0, logprobs=(logprob,), num_choice_tokens=(num_tokens,))


def test_the_mean_over_tokens_and_the_perplexity(score):
    # -6 nats over 4 tokens; e^1.5
    assert score(Ppl(), [ROW], likely()).values("ppl") == [-1.5]
    assert score(Ppl(measure="perplexity"), [ROW], likely()).values("ppl") == [4.481689]


def test_the_network_s_own_loss(score, weigh, loss):
    values = score(Ppl(), [ROW, TALK], weigh).values("ppl")
    turns = [("system", "Be brief."), ("user", "Name a tree.")]
    assert values[0] == pytest.approx(-loss(turns, "An oak is one."), abs=1e-4)
    turns = [("user", "Name a tree."), ("assistant", "An oak is one."), ("user", "And a bird?")]
    assert values[1] == pytest.approx(-loss(turns, "A wren — みそさざい."), abs=1e-4)
    (value,) = score(Ppl(of="prompt", measure="perplexity"), [ROW], weigh).values("ppl")
    assert value == pytest.approx(math.exp(loss([], "Name a tree.")), rel=1e-4)


def test_an_answer_without_a_prompt_is_read_on_its_own(score, weigh, loss):
    driven = score(Ppl(name="alone"), [Row("r", (OAK,)), Row("s", (Message("system", "Be brief."), OAK))], weigh)
    assert [ask.messages for ask in driven.asks] == [(), ()]
    assert driven.values("alone") == [pytest.approx(-loss([], "An oak is one."), abs=1e-4)] * 2


def test_candidates_are_scored_one_by_one(score):
    row = Row("r", (USER,), candidates=({"text": "An oak."}, {"text": "A rose."}, {"text": " "}))
    driven = score(Ppl(), [row], lambda ask: likely(logprob=-float(len(ask.choices[0])), num_tokens=2)(ask))
    assert [ask.messages for ask in driven.asks] == [(USER,), (USER,)]
    assert [one.get("score") for one in driven.rows["r"].candidates] == [-3.5, -3.5, None]


@pytest.mark.parametrize(
    ("scorer", "row", "reason"),
    [
        (Ppl(), Row("r", (USER,)), "no answer to score"),
        (Ppl(), Row("r", (USER, replace(OAK, content=" \n"))), "no answer to score"),
        (Ppl(of="prompt"), Row("r", (OAK,)), "no prompt to score"),
        (Ppl(of="prompt"), Row("r"), "no prompt to score"),
    ],
)
def test_what_is_not_there_is_said(score, scorer, row, reason):
    driven = score(scorer, [row], likely())
    assert (driven.rows, driven.reasons, driven.asks) == ({}, {"r": reason}, [])


def test_what_is_no_likelihood_is_said(score):
    def reply(ask):
        return Answer("", True, 3, 0, logprobs=(-6.0,))

    assert score(Ppl(), [ROW], reply).reasons == {"r": "no likelihood in the answer"}
    assert score(Ppl(measure="perplexity"), [ROW], likely(logprob=-1e6)).reasons == {"r": "the score is not a number"}


def test_it_needs_a_teacher_that_gives_likelihoods():
    assert Ppl().needs == {Signal.LIKELIHOOD}
