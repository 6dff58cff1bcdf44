"""What passages, calls and demonstrations gain."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdbuild import canonical
from kdbuild.elicitors._insertion import Place, inserted
from kdbuild.elicitors._steps import Step
from kdbuild.records import Message, Row
from kdbuild.scorers import Scene
from kdbuild.scorers._without import calls_in, with_context
from kdbuild.scorers.gain import Gain
from kdbuild.teachers import Answer, Ask

SYSTEM, USER = Message("system", "Be brief."), Message("user", "How tall is the mast?")
ANSWER = Message("assistant", "It is 40 m tall.", train=True)
PASSAGE = {"doc_id": "d", "text": "The mast stands 40 m high.", "score": None}
ROW = Row("r", (SYSTEM, USER, ANSWER), context=(PASSAGE, {"doc_id": "e", "text": "Built in 1910.", "score": None}))
BOTH = "The mast stands 40 m high.\n\nBuilt in 1910."


def likely(logprob: float, num_tokens: int = 4) -> Answer:
    return Answer("", True, 3, 0, logprobs=(logprob,), num_choice_tokens=(num_tokens,))


def plain(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns]


# --- passages ------------------------------------------------------------------------------------------------------------------


def test_passages_stand_before_what_the_user_says(score):
    driven = score(Gain(), [ROW], lambda ask: likely(-4.0 if "40 m" in ask.messages[-1].content else -10.0))
    (asks,) = driven.rounds
    assert [plain(ask.messages) for ask in asks] == [
        [("system", "Be brief."), ("user", f"{BOTH}\n\nHow tall is the mast?")],
        [("system", "Be brief."), ("user", "How tall is the mast?")],
    ]
    # Losses of 1.0 with and 2.5 without.
    assert driven.values("gain") == [1.5]


def test_the_network_s_own_losses(score, weigh, loss):
    turns = [("system", "Be brief."), ("user", "How tall is the mast?")]
    helped = [turns[0], ("user", f"{BOTH}\n\nHow tall is the mast?")]
    (value,) = score(Gain(), [ROW], weigh).values("gain")
    assert value == pytest.approx(loss(turns, ANSWER.content) - loss(helped, ANSWER.content), abs=1e-4)


def test_passages_that_a_prompt_holds_already_are_taken_out():
    held = replace(ROW, messages=(Message("user", f"{BOTH}\n\nHow tall is it?"), ANSWER))
    turns, without = with_context(held)
    assert turns == held.messages[:1]
    assert plain(without) == [("user", "How tall is it?")]
    alone = replace(ROW, messages=(ANSWER,))
    assert with_context(alone) == ((Message("user", BOTH),), ())


def test_candidates_have_a_gain_each(score):
    row = replace(ROW, messages=(USER,), candidates=({"text": "40 m."}, {"text": "Red."}))
    nats = {(True, "40 m."): -1.0, (False, "40 m."): -9.0, (True, "Red."): -6.0, (False, "Red."): -2.0}
    driven = score(Gain(), [row], lambda ask: likely(nats["1910" in ask.messages[0].content, ask.choices[0]]))
    assert [one["score"] for one in driven.rows["r"].candidates] == [2.0, -1.0]


# --- calls ---------------------------------------------------------------------------------------------------------------------


def step(name: str, result: str) -> Step:
    return Step("", name, canonical.dumps({"q": "mast"}), result)


TEXT = "The mast of the ship is 40 m tall, and it has three yards."
CALLS = [Place(TEXT.index("40 m"), step("height", "40 m"), "k"), Place(TEXT.index("three"), step("yards", "3"), "k")]
CALLED = Row("c", (USER, Message("assistant", inserted(TEXT, CALLS), train=True)), trajectory=tuple(place.step.shown for place in CALLS))


def test_calls_are_found_where_they_stand():
    text, found = calls_in(CALLED.answer or "", CALLED.trajectory)
    assert text == TEXT
    assert [(call.offset, call.step.action) for call in found] == [(place.offset, place.step.action) for place in CALLS]
    assert calls_in("No call.", CALLED.trajectory) == ("No call.", [])


def test_the_loss_of_the_words_after_a_call(score):
    driven = score(Gain(of="tool", num_words=2), [CALLED], lambda ask: likely(-1.0 * len(ask.choices[0]), len(ask.choices[0])))
    (asks,) = driven.rounds
    result, call = '[height(q="mast") -> 40 m] ', '[height(q="mast")] '
    head, whole = "The mast of the ship is", "The mast of the ship is 40 m"
    assert [ask.choices[0] for ask in asks[:6]] == [result + head, result + whole, head, whole, call + head, call + whole]
    assert [ask.choices[0] for ask in asks[8:10]] == ["The mast of the ship is 40 m tall, and it has", TEXT]
    assert {ask.messages for ask in asks} == {(USER,)}


@pytest.mark.parametrize(
    ("losses", "gain"),
    [
        # The result takes 1 nat off two tokens against no call, 2 against the bare call; the better of these counts.
        ({"result": -2.0, "bare": -4.0, "call": -6.0}, 1.0),
        ({"result": -2.0, "bare": -6.0, "call": -3.0}, 0.5),
        ({"result": -5.0, "bare": -4.0, "call": -6.0}, -0.5),
    ],
)
def test_without_is_the_better_of_no_call_and_a_call_without_its_result(score, losses, gain):
    row = replace(CALLED, messages=(USER, Message("assistant", inserted(TEXT, CALLS[:1]), train=True)), trajectory=CALLED.trajectory[:1])

    def reply(ask: Ask) -> Answer:
        text = ask.choices[0]
        which = "result" if "->" in text else "call" if "[" in text else "bare"
        return likely(-7.0 + losses[which], 12) if text.endswith("m") else likely(-7.0, 10)

    assert score(Gain(of="tool", num_words=2), [row], reply).values("gain") == [gain]


def test_of_several_calls_the_least_helpful_counts(score):
    def reply(ask: Ask) -> Answer:
        text = ask.choices[0]
        rest = -1.0 if "height" in text and "->" in text else -2.0
        return likely(-7.0 + rest, 12) if text.endswith(("40 m", "yards.")) else likely(-7.0, 11)

    assert score(Gain(of="tool", num_words=2), [CALLED], reply).values("gain") == [0.0]


def test_the_results_of_tools_in_a_conversation(score):
    turns = (USER, Message("assistant", "height(mast)"), Message("tool", "40 m"), ANSWER)
    nats = {3: -2.0, 1: -10.0}

    def reply(ask: Ask) -> Answer:
        is_empty = len(ask.messages) == 3 and not ask.messages[2].content
        return likely(-4.0 if is_empty else nats[len(ask.messages)])

    driven = score(Gain(of="tool"), [Row("t", turns)], reply)
    assert [plain(ask.messages)[1:] for ask in driven.asks] == [
        [("assistant", "height(mast)"), ("tool", "40 m")],
        [],
        [("assistant", "height(mast)"), ("tool", "")],
    ]
    assert driven.values("gain") == [0.5]


# --- demonstrations ------------------------------------------------------------------------------------------------------------


def pair(name: str, prompt: str, answer: str) -> Row:
    return Row(name, (Message("user", prompt), Message("assistant", answer, train=True)))


PAIRS = [pair(f"p{i}", f"question {i}", f"answer {i}") for i in range(6)]


def helpful(ask: Ask) -> Answer:
    """Row `p1` helps with answers 2, 3 and 4, all others with none."""
    if len(ask.messages) == 1:
        return likely(-8.0)
    helps = ask.messages[0].content == "question 1" and ask.choices[0][-1] in "234"
    return likely(-7.5 if helps else -8.0)


def test_the_share_of_probes_that_a_demonstration_makes_likelier(score):
    driven = score(Gain(of="demonstration"), PAIRS, helpful)
    assert {name: row.scores["gain"] for name, row in driven.rows.items()} == {f"p{i}": 0.6 if i == 1 else 0.0 for i in range(6)}
    (asks,) = driven.rounds
    assert len(asks) == 6 + 6 * 5
    assert plain(asks[6].messages) == [("user", "question 0"), ("assistant", "answer 0"), *plain(asks[6].messages)[2:]]
    assert all(ask.messages[0].content != ask.messages[-1].content for ask in asks[6:])


def test_probes_are_drawn_by_digest_and_their_order_does_not_matter(score):
    scorer = Gain(of="demonstration", num_probes=2)
    driven = score(scorer, PAIRS, helpful)
    first = sorted(PAIRS, key=lambda row: canonical.fraction("probe", row.id))
    expected = [row.answer for row in first if row.id != "p0"][:2]
    assert {ask.choices[0] for ask in driven.asks if ask.row == "p0" and len(ask.messages) > 1} == set(expected)
    shuffled = random.Random(3).sample(PAIRS, len(PAIRS))
    assert score(scorer, shuffled, helpful).rows == driven.rows


def test_probes_of_an_earlier_phase(score):
    scorer = Gain(of="demonstration", probes="before", num_probes=3)
    assert (scorer.pools, scorer.pooled, Gain(of="demonstration").pooled) == (("before",), False, True)
    scene = Scene(Path(), pools={"before": PAIRS[2:5]})
    driven = score(scorer, [PAIRS[1], PAIRS[2]], helpful, scene)
    assert [len(asks) for asks in driven.rounds] == [6, 4]
    assert driven.values("gain") == [1.0, 0.0]
    assert len(driven.asks) <= 2 * scorer.asks_each


def test_system_turns_stay_in_front(score):
    rows = [replace(one, messages=(SYSTEM, *one.messages)) for one in PAIRS[:2]]
    driven = score(Gain(of="demonstration"), rows, helpful)
    assert [[turn.role for turn in ask.messages] for ask in driven.asks[2:]] == [["system", "user", "assistant", "user"]] * 2


def test_a_probe_that_fails_costs_itself_and_a_row_s_own_failure_the_row(score):
    def reply(ask: Ask) -> Answer:
        failed = Answer("", False, 0, 0, failed="the teacher is down")
        if len(ask.messages) == 1 and ask.choices[0] == "answer 5":
            return failed
        return failed if ask.row == "p3" and len(ask.messages) > 1 and ask.choices[0] == "answer 0" else helpful(ask)

    driven = score(Gain(of="demonstration"), [*PAIRS, Row("q", (USER,)), Row("s", (ANSWER,))], reply)
    assert driven.rows["p1"].scores == {"gain": 0.75}
    assert driven.reasons == {"p3": "a probe after it got no answer", "q": "no answer to score", "s": "no prompt to score"}
    assert set(driven.rows) == {"p0", "p1", "p2", "p4", "p5"}


def test_edges(score):
    assert score(Gain(of="demonstration"), [], helpful).rounds == [[]]
    assert score(Gain(of="demonstration"), PAIRS[:1], helpful).reasons == {"p0": "no probe to try it on"}
    assert score(Gain(), [replace(ROW, context=())], helpful).reasons == {"r": "no context to try"}
    assert score(Gain(of="tool"), [ROW], helpful).reasons == {"r": "no call to try"}
    assert score(Gain(), [replace(ROW, messages=(USER,))], helpful).reasons == {"r": "no answer to score"}
    with pytest.raises(ValidationError, match="are for `of: demonstration`"):
        Gain(probes="before")
