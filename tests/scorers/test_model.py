"""What a trained model says of a row, and what it is shown of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from kdbuild.compile import rules
from kdbuild.errors import StageError
from kdbuild.records import Message, Row
from kdbuild.scorers.model import Model
from kdbuild.teachers import Answer, Ask, Signal

ROW = Row(
    "r",
    (Message("system", "Be brief."), Message("user", "Name a tree."), Message("assistant", "An oak.", train=True)),
    context=({"doc_id": "d", "text": "Oaks are trees."},),
    rationale="It has leaves.",
)


def says(**shares: float):
    labels, values = tuple(shares), tuple(map(math.log, shares.values()))
    return lambda ask: Answer("", True, 3, 0, labels=labels, label_scores=values)


def raw(value: float) -> Answer:
    return Answer("", True, 3, 0, labels=("LABEL_0",), label_scores=(value,))


def shown(ask: Ask) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in ask.messages]


def test_a_reward_model_reads_the_conversation_and_its_output_is_the_score(score):
    driven = score(Model(), [ROW], lambda ask: raw(-2.5))
    assert driven.values("model") == [-2.5]
    (ask,) = driven.asks
    assert (ask.classify, ask.needs) == ("chat", Signal.SCORES)
    assert shown(ask) == [("system", "Be brief."), ("user", "Name a tree."), ("assistant", "An oak.")]
    assert Model().needs == {Signal.SCORES}


@pytest.mark.parametrize(
    ("scorer", "texts"),
    [
        (Model(shown="pair"), ["Name a tree.", "An oak."]),
        (Model(shown="pair", of=["prompt", "context"]), ["Name a tree.", "Oaks are trees."]),
        (Model(shown="text"), ["An oak."]),
        (Model(shown="text", of=["prompt", "rationale"]), ["Name a tree.\n\nIt has leaves."]),
    ],
)
def test_parts_of_a_row(score, scorer, texts):
    driven = score(scorer, [ROW], lambda ask: raw(0.5))
    assert [turn.content for turn in driven.asks[0].messages] == texts
    assert driven.asks[0].classify == scorer.shown
    assert driven.values("model") == [0.5]


def test_a_label_s_probability_or_what_labels_are_worth(score):
    reply = says(bad=0.2, Fair=0.3, good=0.5)
    assert score(Model(worth="good"), [ROW], reply).values("model") == [0.5]
    # 0.3 * 1 + 0.5 * 2
    assert score(Model(worth={"fair": 1, "good": 2}), [ROW], reply).values("model") == [1.3]


def test_labels_that_are_not_named_or_not_there_end_the_stage(score):
    with pytest.raises(StageError, match="does not say which label") as caught:
        score(Model(), [ROW], says(bad=0.2, good=0.8))
    assert "bad, good" in str(caught.value)
    with pytest.raises(StageError, match="about label `best`, which its model has not"):
        score(Model(worth="best"), [ROW], says(bad=0.2, good=0.8))


def test_candidates_are_scored_one_by_one(score):
    row = replace(ROW, messages=ROW.messages[:2], candidates=({"text": "An oak."}, {"text": ""}, {"text": "A fir tree."}))
    driven = score(Model(name="rm"), [row], lambda ask: raw(float(len(ask.messages[-1].content))))
    assert [one.get("scores") for one in driven.rows["r"].candidates] == [{"rm": 7.0}, None, {"rm": 11.0}]
    of_passages = Model(shown="pair", of=["prompt", "context"])
    assert (of_passages.by_candidate, of_passages.reads) == (False, ("prompt", "context"))


def test_a_row_that_lacks_what_is_shown(score):
    bare = Row("b", (Message("user", "Why?"),))
    assert score(Model(), [bare]).reasons == {"b": "no answer to score"}
    assert score(Model(shown="pair"), [bare]).reasons == {"b": "no answer to score"}
    assert score(Model(shown="text", of=["context"]), [bare]).reasons == {"b": "no context to score"}
    assert score(Model(), [Row("c", ROW.messages[2:])]).reasons == {"c": "no prompt to score"}
    assert score(Model(), [ROW], lambda ask: "words").reasons == {"r": "no scores in the answer"}


def test_a_longer_dialogue_is_scored_by_its_last_answer(score):
    row = replace(ROW, messages=(*ROW.messages, Message("user", "Another?"), Message("assistant", "A fir.", train=True)))
    driven = score(Model(), [row], lambda ask: raw(1.0))
    assert [role for role, _ in shown(driven.asks[0])] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("wrong", [{"of": ["answer"]}, {"shown": "pair", "of": ["answer"]}, {"shown": "text", "of": []}])
def test_parts_that_do_not_fit(wrong):
    with pytest.raises(ValidationError):
        Model(**wrong)


def test_every_signal_has_words_for_a_person():
    assert set(rules.SIGNAL_WORDS) == set(Signal)
