"""A judge puts candidates in order."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from kdbuild.elicitors import Scene, _ensemble, _tournament
from kdbuild.elicitors.rank import Rank
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Ask, Signal
from kdbuild.teachers.fake import Fake

TEXTS = ("a poor answer", "the best answer", "a fair answer")
WORTH = {"a poor answer": 1.0, "a fair answer": 2.0, "the best answer": 4.0}


def row_of(*texts: str) -> Row:
    candidates = tuple({"text": text, "source": "student", "logprob": None, "score": None, "ended": True} for text in texts)
    return Row("r", (Message("user", "Name a tree."),), candidates=candidates, scores={"kept": 1.0}, keys=("before",))


def shown(ask: Ask) -> tuple[str, str]:
    found = re.search(r"A:\n(.*)\n\n\w+ B:\n(.*)\n\nWhich", ask.messages[-1].content, re.DOTALL)
    assert found
    return found.group(1), found.group(2)


def by_worth(ask: Ask) -> Answer:
    """Prefers by worth, as Bradley and Terry have it, and leans to the first place."""
    first, second = (WORTH[text] for text in shown(ask))
    return Answer("", True, 1, 0, logprobs=(math.log(2 * first), math.log(second)))


def test_pairs_both_orders_averaged(drive):
    driven = drive(Rank(), [row_of(*TEXTS)], by_worth)
    (asks,) = driven.rounds
    assert [ask.choices for ask in asks] == [("A", "B")] * 6
    assert {shown(ask) for ask in asks} == set(itertools.permutations(TEXTS, 2))
    (row,) = driven.rows
    # By hand: P(x before y) = 2x / (2x + y); mean of it and 1 - 2y / (2y + x).
    poor_best = (2 / (2 + 4) + (1 - 8 / (8 + 1))) / 2
    poor_fair = (2 / (2 + 2) + (1 - 4 / (4 + 1))) / 2
    best_fair = (8 / (8 + 2) + (1 - 4 / (4 + 4))) / 2
    expected = [(poor_best + poor_fair) / 2, ((1 - poor_best) + best_fair) / 2, ((1 - poor_fair) + (1 - best_fair)) / 2]
    assert [one["score"] for one in row.candidates] == pytest.approx(expected, abs=1e-5)
    assert row.ranking == (1, 2, 0)
    assert row.scores == {
        "kept": 1.0,
        # Worths twice apart: shown first, the worse one is as good as the better one, a verdict for neither.
        "order_consistency": pytest.approx(1 / 3, abs=1e-6),
        "pref_prob": pytest.approx(1 - poor_best, abs=1e-6),
    }
    assert len(set(row.keys)) == 7
    assert [one["text"] for one in row.candidates] == list(TEXTS)


def test_written_verdicts(drive):
    def reply(ask: Ask) -> str:
        first, second = shown(ask)
        return json.dumps({"verdict": "A" if WORTH[first] > WORTH[second] else "B"})

    scene = Scene(Path(), gives={"teacher": frozenset({Signal.TEXT})})
    (row,) = drive(Rank(), [row_of(*TEXTS)], reply, scene).rows
    assert [one["score"] for one in row.candidates] == [0.0, 1.0, 0.5]
    assert row.ranking == (1, 2, 0)
    assert (row.scores["order_consistency"], row.scores["pref_prob"]) == (1.0, 1.0)


def test_a_judge_that_always_says_a_prefers_nothing(drive):
    (row,) = drive(Rank(verdict="text"), [row_of(*TEXTS)], lambda ask: '{"verdict": "A"}').rows
    assert row.ranking == (0, 1, 2)
    assert (row.scores["order_consistency"], row.scores["pref_prob"]) == (0.0, 0.5)


def test_a_verdict_that_cannot_be_read_rejects_the_row(drive):
    driven = drive(Rank(verdict="text"), [row_of(*TEXTS)], lambda ask: "A is better")
    assert [rejected.reason for rejected in driven.rejected] == ["not JSON of the form asked for"]


@pytest.mark.parametrize("texts", [(), ("one",)])
def test_there_must_be_two(drive, texts):
    driven = drive(Rank(), [row_of(*texts)], by_worth)
    assert (driven.asks, [rejected.reason for rejected in driven.rejected]) == ([], ["fewer than two candidates to compare"])


def test_passages(drive):
    row = Row(
        "r", (Message("user", "Which tree?"),), context=tuple({"doc_id": f"d{i}", "text": t, "score": 9.0} for i, t in enumerate(TEXTS))
    )
    (ranked,) = drive(Rank(of="context"), [row], by_worth).rows
    assert (ranked.ranking, [one["doc_id"] for one in ranked.context]) == ((1, 2, 0), ["d0", "d1", "d2"])
    assert ranked.candidates == ()
    assert Rank(of="context").reads == ("prompt", "context")


def test_criteria_and_the_whole_conversation_are_shown(drive):
    row = Row("r", (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "A tree?")), candidates=row_of(*TEXTS).candidates)
    ask = drive(Rank(criteria="is shorter"), [row], by_worth).asks[0]
    assert ask.messages[-1].content.startswith("User: Hi\nAssistant: Hello\nUser: A tree?\n\nAnswer A:\na poor answer\n")
    assert ask.messages[-1].content.endswith("Which answer is shorter? Reply with A or B.")


def test_a_panel_of_judges(drive):
    def reply(ask: Ask) -> Answer:
        first, second = shown(ask)
        sure = 0.8 if ask.to == "a" else 0.4
        wins = sure if WORTH[first] > WORTH[second] else 1 - sure
        return Answer("", True, 1, 0, logprobs=(math.log(wins), math.log(1 - wins)))

    scene = Scene(Path(), actor="a", gives={name: frozenset(Signal) for name in "ab"})
    driven = drive(Rank(by=["a", "b"], combine="consensus"), [row_of(*TEXTS[:2])], reply, scene)
    assert [ask.to for ask in driven.asks] == ["a", "b"] * 2
    assert driven.rows[0].scores == {"kept": 1.0, "order_consistency": 1.0, "pref_prob": 0.6}


def test_a_union_of_judges_is_a_row_of_each(drive):
    rank = Rank(by=["a", "b"])
    conversation = _ensemble.conversation(rank, row_of(*TEXTS), Scene(Path(), gives={name: frozenset(Signal) for name in "ab"}))
    assert [ask.to for ask in next(conversation)] == ["a"] * 6 + ["b"] * 6


# --- which pairs, and what comes of them -----------------------------------------------------------------------------------


def test_few_items_meet_all_others_and_many_meet_some():
    assert _tournament.pairs(4, 3) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    pairs = _tournament.pairs(9, 4)
    assert len(set(pairs)) == len(pairs) == 9 * 4 // 2
    for item in range(9):
        assert sum(item in pair for pair in pairs) == 4


@pytest.mark.parametrize(("num_items", "max_rivals"), [(4, 2), (5, 3), (6, 4), (8, 6), (20, 7)])
def test_every_item_is_in_as_many_pairs(num_items, max_rivals):
    pairs = _tournament.pairs(num_items, max_rivals)
    counts = {sum(item in pair for pair in pairs) for item in range(num_items)}
    assert len(counts) == 1
    assert counts.pop() <= max_rivals


def test_bradley_terry_of_two_by_hand():
    # 0.7 of one game and half of a tenth: 0.75 of 1.1, so p1 / (p1 + p2) = 0.75 / 1.1.
    assert _tournament.bradley_terry(2, {(0, 1): 0.7}) == pytest.approx([0.75 / 1.1, 0.35 / 1.1], abs=1e-6)


def test_bradley_terry_of_three_by_its_equations():
    wins = {(0, 1): 0.8, (0, 2): 0.6, (1, 2): 0.3}
    expected = _by_gradient(3, wins)
    assert _tournament.bradley_terry(3, wins) == pytest.approx(expected, abs=1e-5)


def _by_gradient(num_items: int, wins: dict[tuple[int, int], float]) -> list[float]:
    """Maximise the same likelihood in another way: gradient ascent on log strengths."""
    logs = [0.0] * num_items
    for _ in range(20_000):
        slope = [0.0] * num_items
        for (i, j), probability in wins.items():
            surplus = probability + 0.05 - 1.1 / (1 + math.exp(logs[j] - logs[i]))
            slope[i] += surplus
            slope[j] -= surplus
        logs = [log + 0.3 * step for log, step in zip(logs, slope, strict=True)]
    return [sum(1 / (1 + math.exp(b - a)) for j, b in enumerate(logs) if j != i) / (num_items - 1) for i, a in enumerate(logs)]


def test_bradley_terry_knows_how_strong_the_rivals_were(drive):
    # In the ring 0-1-2-3-0 items 1 and 3 win as often, but 1 beats the strong one.
    wins = {(0, 1): 0.2, (1, 2): 0.4, (2, 3): 0.9, (0, 3): 0.9}
    rates, strengths = _tournament.win_rates(4, wins), _tournament.bradley_terry(4, wins)
    assert rates == [0.55, 0.6, 0.75, 0.1]
    assert strengths == pytest.approx(_by_gradient(4, wins), abs=1e-5)


def test_who_wins_everything_has_a_finite_score():
    scores = _tournament.bradley_terry(3, {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 1.0})
    assert 1 > scores[0] > scores[1] > scores[2] > 0


def test_items_of_equal_score_keep_their_order():
    assert _tournament.ordered([0.5, 0.7, 0.5, 0.7]) == (1, 3, 0, 2)


def test_where_first_and_last_did_not_meet_there_is_no_preference(drive):
    # Four in a ring of two rivals each: 0-1, 1-2, 2-3, 0-3. The best is 0, the last 2.
    worth = dict(zip("abcd", (8.0, 4.0, 1.0, 3.0), strict=True))

    def reply(ask: Ask) -> Answer:
        first, second = (worth[text] for text in shown(ask))
        return Answer("", True, 1, 0, logprobs=(math.log(first), math.log(second)))

    (row,) = drive(Rank(max_rivals=2, fit="bradley-terry"), [row_of(*"abcd")], reply).rows
    assert row.ranking == (0, 1, 3, 2)
    assert "pref_prob" not in row.scores


# --- lists -----------------------------------------------------------------------------------------------------------------


def listed(ask: Ask) -> list[str]:
    return re.findall(r"^(?:Answer|Passage) \d+:\n(.*)$", ask.messages[-1].content, re.MULTILINE)


def in_order(ask: Ask) -> str:
    items = listed(ask)
    return json.dumps({"order": [items.index(item) + 1 for item in sorted(items)]})


def test_one_list(drive):
    driven = drive(Rank(mode="listwise"), [row_of("c", "a", "b")], in_order)
    (ask,) = driven.asks
    assert '"enum":[1,2,3]' in (ask.schema or "")
    (row,) = driven.rows
    assert row.ranking == (1, 2, 0)
    assert [one["score"] for one in row.candidates] == [0.0, 1.0, 0.5]
    assert row.scores == {"kept": 1.0, "named_frac": 1.0}


def test_windows_slide_from_the_last_to_the_first(drive):
    assert _tournament.windows(10, 4, 2) == [(6, 10), (4, 8), (2, 6), (0, 4)]
    assert _tournament.windows(9, 4, 2) == [(5, 9), (3, 7), (1, 5), (0, 3)]
    assert _tournament.windows(3, 4, 2) == [(0, 3)]
    texts = list("hgfedcba")
    driven = drive(Rank(mode="listwise", window=4, step=2), [row_of(*texts)], in_order)
    assert [listed(ask) for (ask,) in driven.rounds] == [list("dcba"), list("feab"), list("hgab")]
    # One pass brings the best two to the top (they ride along every window), as in RankGPT.
    assert [texts[i] for i in driven.rows[0].ranking] == list("abghefcd")


def test_what_is_named_twice_or_not_at_all(drive):
    assert _tournament.permuted([7, 5, 9], [3, 3, 1]) == ([9, 7, 5], 2)
    (row,) = drive(Rank(mode="listwise"), [row_of("c", "a", "b")], lambda ask: '{"order": [3, 3, 3]}').rows
    assert (row.ranking, row.scores["named_frac"]) == ((2, 0, 1), pytest.approx(1 / 3, abs=1e-6))


@pytest.mark.parametrize("text", ['{"order": [1, 2]}', '{"order": [1, 2, 4]}', "2 > 1 > 3", '{"order": [1, 2, 3, 1]}'])
def test_a_list_of_another_form_is_rejected(drive, text):
    driven = drive(Rank(mode="listwise"), [row_of("c", "a", "b")], lambda ask: text)
    assert [rejected.reason for rejected in driven.rejected] == ["not JSON of the form asked for"]


def test_a_panel_of_lists_is_averaged(drive):
    scene = Scene(Path(), actor="a", gives={})
    reply = {"a": '{"order": [1, 2, 3]}', "b": '{"order": [2, 3, 1]}'}
    driven = drive(Rank(mode="listwise", by=["a", "b"], combine="consensus"), [row_of("c", "a", "b")], lambda ask: reply[ask.to], scene)
    # Places: 1, 1/2, 0 of one judge and 0, 1, 1/2 of the other.
    assert [one["score"] for one in driven.rows[0].candidates] == [0.5, 0.75, 0.25]
    assert driven.rows[0].ranking == (1, 0, 2)


@pytest.mark.parametrize("fields", [{"window": 4, "step": 5}, {"mode": "listwise", "verdict": "choices"}])
def test_fields_that_do_not_fit(fields):
    with pytest.raises(ValidationError):
        Rank(**fields)


def test_with_the_fake_teacher(drive):
    rank = Rank(max_new_tokens=64)
    with Fake().open(Path(), None) as session:
        first, again = (drive(rank, [row_of(*TEXTS)], lambda ask: next(session.generate([ask]))[1]) for _ in range(2))
    assert first == again
    assert [sorted(row.ranking) for row in first.rows] == [[0, 1, 2]]
