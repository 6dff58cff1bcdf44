"""The account of a selection, on data sets written by hand."""

import re
import statistics
import xml.etree.ElementTree as ET

import pytest

from kdbuild import records
from kdbuild.records import Call, Dropped, Matched, Message, Row, Scored
from kdbuild.report import cards, charts, page
from kdbuild.report.selection import Calibration, quantiles, reasons_of
from kdbuild.report.story import gather
from kdbuild.rows.answers import encode
from kdbuild.teachers import Answer

EVIL = "<script>alert(1)</script> <!-- & |"


def text_of(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def rewrite(folder, gone, scored):
    """Write `dropped/` anew, with these scores in it."""
    for file in folder.rglob("*"):
        if file.is_file() and file.parent.name not in ("calls", "matched"):
            file.unlink()
    records.write_dataset(folder / "scores", Scored, scored)
    records.write_dataset(folder, Dropped, gone)


def step(kind, *counts, **more):
    names = ("num_training_in", "num_training_left", "num_held_out_in", "num_held_out_left")
    return {"kind": kind, **dict(zip(names, counts, strict=True)), **more}


STEPS = [
    step("select", 30, 29, 2, 1),
    step("rating", 29, 27, 1, 1, scores=["rating"]),
    step("exact-dedup", 27, 20, 1, 1),
    step("semantic-dedup", 20, 19, 1, 1, facts={"recall": 0.9875, "search": {"num_cells": 64, EVIL: EVIL}}),
    step("decontaminate", 19, 18, 1, 1),
    step("keep", 18, 12, 1, 1),
    step("keep", 12, 3, 1, 1),
]
FACTS = {
    "num_rows": 33,
    "num_kept": 3,
    "num_held_out": 1,
    "num_dropped": {"keep": {"rating: too low": 15}},
    "steps": STEPS,
    "calibration": {"rating": {"accuracy": 0.5, "num_pairs": 48}},
    "something-new": {"share": 0.25},
}


def dropped():
    return [
        Dropped("a1", "label", "empty answer", text="user: none"),
        *(Dropped(f"n{i}", "select", "no answer", text="user: nothing") for i in range(2)),
        Dropped("s1", "rating", "failed: the teacher is down", text="user: unrated"),
        Dropped("s2", "rating", "no rating in the answer", text="user: unrated too"),
        *(Dropped(f"e{i}", "exact-dedup", "same text as a kept row", "k1" if i else "l0", None, f"user: twin {i}") for i in range(7)),
        Dropped("m1", "semantic-dedup", "close in meaning to a kept row", "old", 0.9511, "user: near"),
        Dropped("c1", "decontaminate", "shares a passage with an evaluation set", "ifeval/17", 1.0, f"user: {EVIL}"),
        *(Dropped(f"l{i}", "keep", "rating: too low", None, 2.0, f"user: low {i}") for i in range(15)),
    ]


@pytest.fixture
def told(project):
    """A project whose one phase went through every sort of step."""
    project.write_data(dropped=(), selected=(), facts=FACTS)
    folder = project.root / "artifacts/helper/sft"
    kept = [Row(f"k{i}", (Message("user", f"kept {i}"), Message("assistant", "yes", train=True)), held_out=not i) for i in range(4)]
    records.write_dataset(folder / "selected", Row, kept)
    values = {"rating": lambda i: i % 5 + 1.0, "ppl": lambda i: 7.25}
    scored = [Scored(f"k{i}", name, value(4)) for i in range(1, 4) for name, value in values.items()]
    scored += [Scored(f"l{i}", name, value(i)) for i in range(15) for name, value in values.items()]
    judged = [Call("k1", "j1", 4, encode(Answer("5", True, 100, 3))), Call("k1", "k1", 64, encode(Answer("answer 1", True, 20, 10)))]
    matched = [Matched("ifeval/17", f"the item {EVIL}"), Matched("old", "a row of before")]
    for name, record, rows in (("scores", Scored, scored), ("calls", Call, judged), ("matched", Matched, matched)):
        (folder / "dropped" / name).mkdir()
        records.write_dataset(folder / "dropped" / name, record, rows)
    records.write_dataset(folder / "dropped", Dropped, dropped())
    return project


@pytest.fixture
def story(told):
    return gather(told.job(student=None, phases={"sft": ["elicit", "select"]}))


@pytest.fixture
def html(story):
    return page.render(story)


def test_the_funnel_follows_the_steps_and_adds_up(story):
    part = story.data[0]
    lines = [(line.step, line.num_dropped, line.num_left, line.num_held_out) for line in part.funnel]
    assert lines == [
        ("rows in", 0, 33, 0),
        ("elicit", 1, 32, 0),
        ("held out", 0, 30, 2),
        ("select", 2, 29, 1),
        ("rating", 2, 27, 1),
        ("exact-dedup", 7, 20, 1),
        ("semantic-dedup", 1, 19, 1),
        ("decontaminate", 1, 18, 1),
        ("keep", 6, 12, 1),
        ("keep", 9, 3, 1),
    ]
    assert lines[0][2] - sum(line[1] for line in lines) == lines[-1][2] + lines[-1][3]
    assert part.num_dropped == sum(line[1] for line in lines)


def test_what_could_not_be_scored_stands_apart_from_what_was_chosen_against(story, html):
    assert [(group[0], group[1]) for group in page.Shown.of(story.data[0]).groups] == [
        ("Dropped by selection", 26),
        ("Set apart: their scorer failed", 2),
        ("Rejected before selection: the answer could not be used", 1),
    ]
    assert "not scored: failed: the teacher is down" in text_of(html)
    assert "dropped: rating: too low (keep, 15 rows; the first 5 by id)" in text_of(html)


def test_a_dropped_row_stands_beside_what_it_lost_to(html):
    text = text_of(html)
    assert "kept instead: k1 user: kept 1 assistant: yes" in text
    assert "matched, outside this data set: old a row of before" in text
    assert "kept instead, and later dropped itself by keep: l0 user: low 0" in text
    assert "matched, outside this data set: ifeval/17 the item &lt;script&gt;" in text
    assert "c1, score 1 user: &lt;script&gt;" in text


def test_every_text_of_it_is_escaped(html):
    assert "<script" not in html
    assert "<!--" not in html
    assert html.count("&lt;script&gt;") == 4  # the contaminated row, its item, the name and the value of a fact


def test_every_element_is_closed_and_the_lines_of_a_table_are_as_long(html):
    opened = []
    for slash, tag in re.findall(r"<(/?)([a-z][a-z0-9]*)(?:\s[^<>]*)?(?<!/)>", html):
        if tag == "meta":
            continue
        if slash:
            assert opened.pop() == tag
        else:
            opened.append(tag)
    assert opened == []
    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        assert len({line.count("<td") + line.count("<th>") + line.count("<th ") for line in table.split("<tr>")[1:]}) == 1


def test_facts_that_the_page_does_not_know_are_shown(html):
    text = text_of(html)
    assert "4. semantic-dedup: Recall 0.9875" in text
    assert "4. semantic-dedup: Search: num cells 64" in text
    assert "select: Something-new: share 0.25" in text


def test_scores_are_split_by_what_became_of_the_rows(story, html):
    rating, ppl = story.data[0].scores
    assert (rating.name, ppl.name) == ("rating", "ppl")  # steps first
    assert rating.kept == (5.0, 5.0, 5.0)
    assert rating.dropped == tuple(sorted([1.0, 2.0, 3.0, 4.0, 5.0] * 3))
    assert "dropped 15 1 1 3 5 5" in text_of(html)


def test_candidates_count_under_the_name_of_their_score(told):
    scored = [Scored("k1", "rating[0]", 1.0), Scored("k1", "rating[11]", 2.0), Scored("l1", "rating[1]", 3.0)]
    rewrite(told.root / "artifacts/helper/sft/dropped", dropped(), scored)
    (score,) = gather(told.job(phases={"sft": ["elicit", "select"]})).data[0].scores
    assert (score.name, score.kept, score.dropped) == ("rating", (1.0, 2.0), (3.0,))


def test_what_scorers_asked_is_part_of_the_cost_and_counted_once(story, html):
    part = story.data[0]
    assert (part.judged.num_answers, part.judged.num_prompt_tokens, part.judged.num_answer_tokens) == (1, 100, 3)
    assert part.paid.num_answer_tokens == 150
    assert "153 tokens written by the models asked in 6 answers, 1 of them to scorers" in text_of(html)
    assert "6 answers, 353 tokens" in text_of(html)


@pytest.mark.parametrize(
    ("accuracy", "num_pairs", "said"),
    [
        (0.5, 48, "cannot be told from chance"),
        (0.64, 48, "cannot be told from chance"),  # 2 sd of 48 coin flips: 0.144
        (0.66, 48, "better than chance"),
        (0.95, 48, "tells plain faults"),
        (0.2, 48, "worse than chance"),
        (0.95, 1, "cannot be told from chance"),
        (0.0, 0, "not known"),
    ],
)
def test_a_calibration_is_told_in_a_sentence(accuracy, num_pairs, said):
    assert said in Calibration("rating", accuracy, num_pairs).meaning


def test_the_card_names_the_steps_and_the_judges_accuracy(story):
    card = cards.render(story)["dataset"]
    assert "3. exact-dedup, selected: took out 7, left 20 to train on." in card
    assert "2. rating, scored: rating: took out 2, left 27 to train on." in card
    assert "its accuracy is 0.5" in card
    assert "| sft | not scored by rating: no rating in the answer | 1 |" in card
    tables = [line for line in card.split("---", 2)[2].splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {4}


def test_ten_thousand_drops_stay_readable(told):
    many = [Dropped(f"d{i:05d}", "keep", f"score {i % 200}: too low", f"x{i}", 1.0, "word " * 500) for i in range(10_000)]
    rewrite(told.root / "artifacts/helper/sft/dropped", many, [Scored("k1", f"score-{i:02d}", 1.0) for i in range(40)])
    html = page.render(gather(told.job(phases={"sft": ["elicit", "select"]})))
    assert len(html) < 600_000
    assert "And 160 more reasons" in html
    assert "Not shown: score-24, score-25" in html
    assert text_of(html).count("score 1 word word") == 40 * 5


def test_examples_are_the_first_by_id_whatever_the_order_of_reasons():
    found = reasons_of([Dropped(f"d{i}", "keep", "x: too low" if i % 3 else "y: too low") for i in range(9)])
    assert [(reason.reason, reason.count, [one.id for one in reason.examples]) for reason in found] == [
        ("x: too low", 6, ["d1", "d2", "d4", "d5", "d7"]),
        ("y: too low", 3, ["d0", "d3", "d6"]),
    ]


# --- numbers and charts -------------------------------------------------------------------------------------------------


def test_quantiles_are_those_of_numpy():
    import numpy as np

    values = sorted((i * 37 % 101) / 7 for i in range(57))
    assert quantiles(values) == pytest.approx(np.quantile(values, [0, 0.1, 0.5, 0.9, 1]).tolist())
    assert quantiles([2.5]) == (2.5,) * 5
    assert quantiles([1.0, 2.0])[2] == statistics.median([1.0, 2.0])


def bars(svg):
    found = [(bar.get("class"), bar.find("title").text) for bar in ET.fromstring(svg).iter("rect")]
    kept = dropped = 0
    for kind, told in found:
        counts = [int(count.replace(",", "")) for count in re.search(r": ([\d,]+) kept, ([\d,]+) dropped", told).groups()]
        kept, dropped = (kept + counts[0], dropped) if kind == "bar" else (kept, dropped + counts[1])
    return kept, dropped


@pytest.mark.parametrize(
    ("kept", "dropped"),
    [
        ([1.0, 1.5, 2.0], [0.0, 0.1, 3.0]),
        ([7.25] * 3, [7.25]),
        ([], [0.0]),
        ([-1e9, 0.5, 1e9], []),
        ([*(i / 1000 for i in range(1000)), 1e6], [-1e6]),
        ([1e-9, 2e-9], [3e-9]),
    ],
)
def test_a_split_histogram_holds_every_value_inside_the_picture(kept, dropped):
    svg = charts.split(sorted(kept), sorted(dropped), x_name="<b>")
    assert bars(svg) == (len(kept), len(dropped))
    for bar in ET.fromstring(svg).iter("rect"):
        x, y, wide, high = (float(bar.get(name)) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= charts.WIDTH
        assert 0 <= y <= y + high <= charts.HEIGHT


def test_one_value_far_out_does_not_hide_the_others():
    svg = charts.split([i / 1000 for i in range(1000)] + [1e6], [], x_name="ppl")
    assert len(list(ET.fromstring(svg).iter("rect"))) >= 18
