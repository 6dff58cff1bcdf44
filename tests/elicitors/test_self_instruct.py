"""A pool of instructions that grows by what it accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rouge_score.rouge_scorer import RougeScorer

from kdbuild import canonical
from kdbuild.elicitors import Scene
from kdbuild.elicitors._made import drawn
from kdbuild.elicitors._novelty import Pool
from kdbuild.elicitors.self_instruct import SelfInstruct
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Ask

WORDS = [f"{a}{b}" for a in ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki") for b in ("lo", "mi", "nu", "pa", "qe", "ri", "so", "tu")]


def seed(name: str, text: str | None = None) -> Row:
    return Row(name, (Message("user", text or f"Tell me about the {name} and {WORDS[canonical.seed_of(name) % 64]} please."),))


SEEDS = [seed(f"seed{i:02}") for i in range(30)]


def invented(ask: Ask) -> str:
    """Two tasks that depend on the question alone, of words drawn by its digest."""
    tasks = []
    for n in range(2):
        start = canonical.seed_of("task", ask.material(), n)
        tasks.append("Explain " + " ".join(WORDS[(start >> (6 * i)) % 64] for i in range(8)))
    return json.dumps({"tasks": tasks})


def said(*tasks: str):
    return lambda ask: json.dumps({"tasks": list(tasks)})


# --- growing -----------------------------------------------------------------------------------------------------------------


def test_new_instructions_are_rows_of_what_they_were_shown(drive):
    driven = drive(SelfInstruct(max_rounds=1, asks_per_round=1, num_demonstrations=3), SEEDS, said("Write a poem about the sea."))
    (row,), (ask,) = driven.rows, driven.asks
    assert row.messages == (Message("user", "Write a poem about the sea."),)
    assert len(row.parents) == 3
    assert row.roots == tuple(sorted(row.parents))
    assert set(row.parents) < {seed.id for seed in SEEDS}
    assert len(row.keys) == 1
    shown = re.findall(r"^\d\. (.*)$", ask.messages[-1].content, re.MULTILINE)
    assert shown == [next(seed.messages[0].content for seed in SEEDS if seed.id == parent) for parent in row.parents]
    assert ask.row == row.parents[0]


def test_rounds_show_what_was_made_before_in_the_papers_share(drive):
    operator = SelfInstruct(max_rounds=3, asks_per_round=10)
    driven = drive(operator, SEEDS, invented)
    assert [len(asks) for asks in driven.rounds] == [10, 10, 10]
    made = {row.messages[0].content for row in driven.rows}
    by_round = [
        [sum(text in made for text in re.findall(r"^\d\. (.*)$", ask.messages[-1].content, re.MULTILINE)) for ask in asks]
        for asks in driven.rounds
    ]
    assert by_round == [[0] * 10, [2] * 10, [2] * 10]
    assert len({ask.messages for ask in driven.asks}) == 30
    assert operator.fan_in == 8


def test_rounds_go_on_until_there_are_as_many_as_wanted(drive):
    driven = drive(SelfInstruct(max_rounds=20, target_rows=45, asks_per_round=10), SEEDS, invented)
    assert len(driven.rows) == 45
    asked = [len(asks) for asks in driven.rounds]
    assert asked[0] == 10
    assert sum(asked) <= 30
    surplus = [dropped for dropped in driven.dropped if dropped.reason == "more than `target_rows`"]
    assert len(driven.rows) + len(driven.dropped) == 2 * sum(asked)
    assert len(surplus) < 2


def test_a_target_out_of_reach_ends_with_the_rounds(drive):
    driven = drive(SelfInstruct(max_rounds=4, target_rows=50, asks_per_round=2), SEEDS, said("Write a poem about the sea."))
    assert [len(asks) for asks in driven.rounds] == [2, 2, 2, 2]
    assert len(driven.rows) == 1


def test_a_side_of_the_split_aims_at_its_share(drive):
    operator = SelfInstruct(max_rounds=20, target_rows=40, asks_per_round=10)
    driven = drive(operator, SEEDS[:6], invented, Scene(Path(), share=0.2))
    assert len(driven.rows) == 8
    assert all(len(asks) <= 2 for asks in driven.rounds)


def test_few_rows_are_all_shown_and_equal_questions_still_differ(drive):
    driven = drive(SelfInstruct(max_rounds=1, asks_per_round=5), SEEDS[:2], invented)
    assert {re.search("these in", ask.messages[0].content) is not None for ask in driven.asks} == {True}
    assert len({(ask.messages, ask.sample) for ask in driven.asks}) == 5


def test_rows_without_an_instruction_are_listed(drive):
    driven = drive(SelfInstruct(max_rounds=1, asks_per_round=1), [Row("empty"), *SEEDS[:3]], said("Write a poem about the sea."))
    assert [(dropped.id, dropped.reason) for dropped in driven.dropped] == [("empty", "no instruction to show")]
    assert drive(SelfInstruct(), [Row("empty")], said("x")).asks == []


# --- what is kept ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Sing a song.", "too short"),
        ("Say " + "la " * 200, "too long"),
        ("...and then write a poem", "starts with punctuation"),
        ("Describe what this Image shows us", "a word of the blocklist"),
        ("", "too short"),
    ],
)
def test_a_filter_objects(drive, text, reason):
    driven = drive(SelfInstruct(max_rounds=1, asks_per_round=1, max_instruction_chars=1000), SEEDS, said(text or " "))
    assert (driven.rows, [dropped.reason for dropped in driven.dropped]) == ([], [reason])


def test_what_is_not_new_names_the_row_it_lost_to(drive):
    rows = [seed("a", "Name three rivers of Europe and their sources."), seed("b", "Bake a cake.")]
    tasks = ["Name three rivers of Europe and their mouths.", "Write a poem about the old sea.", "2. Write a poem about the old sea!"]
    driven = drive(SelfInstruct(max_rounds=1, asks_per_round=1, new_per_ask=3), rows, said(*tasks))
    (kept,) = driven.rows
    assert kept.messages[0].content == "Write a poem about the old sea."
    assert [(d.reason, d.because_of, d.score, d.text) for d in driven.dropped] == [
        ("not new", "a", 0.875, tasks[0]),  # 7 of 8 words in order, both 8 long
        ("not new", kept.id, 1.0, "Write a poem about the old sea!"),
    ]
    assert len({dropped.id for dropped in driven.dropped} | {kept.id}) == 3


def test_answers_that_cannot_be_read_and_failures_cost_only_themselves(drive):
    replies = iter(["no JSON", Answer('{"tasks": ["Write', False, 3, 9), Answer("", True, 0, 0, failed="timeout"), "{}"])
    last = json.dumps({"tasks": ["Write a poem about the sea."]})
    driven = drive(SelfInstruct(max_rounds=1, asks_per_round=5), SEEDS, lambda ask: next(replies, last))
    assert len(driven.rows) == 1
    reasons = ["not JSON of the form asked for", "cut at the token limit", "failed: timeout", "not JSON of the form asked for"]
    assert [dropped.reason for dropped in driven.dropped] == reasons


def test_the_form_bounds_every_text():
    schema = json.loads(next(SelfInstruct(max_instruction_chars=50, new_per_ask=3).gather(SEEDS, Scene(Path())))[0].schema)
    tasks = schema["properties"]["tasks"]
    assert (tasks["maxItems"], tasks["items"]["maxLength"], schema["required"]) == (3, 50, ["tasks"])
    default = SelfInstruct()
    assert default.new_per_ask * default.max_instruction_chars / 2 <= default.max_new_tokens


def test_a_range_without_words_is_refused():
    with pytest.raises(ValidationError, match="min_words 9 is more than max_words 5"):
        SelfInstruct(min_words=9, max_words=5)


# --- edits -------------------------------------------------------------------------------------------------------------------


def first_round(drive, rows):
    driven = drive(SelfInstruct(max_rounds=1, asks_per_round=40), rows, invented)
    return [(ask.messages, ask.sample) for ask in driven.asks]


def test_a_changed_seed_changes_only_the_questions_that_show_it(drive):
    before = first_round(drive, SEEDS)
    after = first_round(drive, [*SEEDS[:-1], seed(SEEDS[-1].id, "Something else entirely, and longer.")])
    old = SEEDS[-1].messages[0].content
    changed = [one for one, other in zip(before, after, strict=True) if one != other]
    assert changed == [one for one in before if old in one[0][0].content]
    assert 0 < len(changed) < 40  # about 8 of 30


def test_a_seed_less_changes_only_the_questions_that_showed_it_and_one_more_those_it_is_in(drive):
    everything, without = first_round(drive, SEEDS), first_round(drive, SEEDS[:-1])
    old = SEEDS[-1].messages[0].content
    assert [one != other for one, other in zip(everything, without, strict=True)] == [old in one[0][0].content for one in everything]


def test_all_rounds_after_an_edit_ask_only_what_was_rendered_anew(drive):
    operator = SelfInstruct(max_rounds=3, asks_per_round=20)
    before = {canonical.digest(ask.material()): ask for ask in drive(operator, SEEDS, invented).asks}
    driven = drive(operator, [*SEEDS[:-1], seed("seed29", "Something else entirely, and longer.")], invented)
    new = [ask for ask in driven.asks if canonical.digest(ask.material()) not in before]
    assert {ask.messages for ask in new}.isdisjoint(ask.messages for ask in before.values())
    assert 0 < len(new) < 60


def test_drawing_is_even():
    items = [f"row{i}" for i in range(20)]
    counts = dict.fromkeys(items, 0)
    for slot in range(2000):
        for item in drawn(items, 4, "slot", str(slot)):
            counts[item] += 1
    assert all(320 < count < 480 for count in counts.values())  # 400 each; five standard deviations are 90


# --- novelty -----------------------------------------------------------------------------------------------------------------

SENTENCE = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "It's", "42", "dog-house"]), max_size=14).map(" ".join)


@settings(deadline=None, max_examples=200)
@given(st.lists(SENTENCE, max_size=12), SENTENCE, st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_the_nearest_is_the_one_that_rouge_score_finds(texts, text, limit):
    pool = Pool(limit)
    for i, one in enumerate(texts):
        pool.add(f"row{i:02}", one)
    scorer = RougeScorer(["rougeL"])
    scores = [(-scorer.score(one, text)["rougeL"].fmeasure, f"row{i:02}") for i, one in enumerate(texts)]
    reached = [(score, name) for score, name in scores if -score >= limit]
    found = pool.nearest(text)
    if not reached:
        assert found is None
    else:
        assert found is not None
        score, name = min(reached)
        assert found == (name, -score)


def test_texts_without_words_are_like_nothing():
    pool = Pool(0.7)
    pool.add("a", "!?")
    assert (pool.nearest("!?"), pool.nearest("word"), len(pool)) == (None, None, 1)
