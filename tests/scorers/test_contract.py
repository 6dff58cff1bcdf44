"""What every scorer promises: run by the real conversations, against the real store and a teacher that counts its calls."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbuild import kinds, records
from kdbuild.elicitors import _ensemble, _reads
from kdbuild.elicitors._extent import Extent
from kdbuild.records import Message, Row
from kdbuild.rows.conversations import Setting, Talks
from kdbuild.rows.store import Store
from kdbuild.scorers import Scene, Scorer, as_answer
from kdbuild.teachers import Answer, Ask
from kdbuild.teachers.fake import Fake

TEACHER = Fake(num_layers=1, hidden_size=16)


class Vectors:
    """Vectors of texts by their letters."""

    def embed(self, texts):
        import numpy as np

        counts = np.array([[text.count(letter) + 0.01 for letter in "etaoinshrdlu"] for text in texts], dtype=np.float32)
        return counts.reshape(-1, 12) / np.linalg.norm(counts.reshape(-1, 12), axis=1, keepdims=True)


SCENE = Scene(Path(), gives={"teacher": TEACHER.gives}, embedder=Vectors())
SETTING = Setting(SCENE, {"teacher": TEACHER.answer_identity(Path())}, held_out_frac=0.2)
WORDS = ("oak", "ash", "elm", "fir", "yew", "bay", "fig", "lime")
EDGES = {
    "nothing": "",
    "white space": " \n\t ",
    "one letter": "x",
    "no words": "?! ... 、。",
    "a number": "1,234.5",
    "another script": "東京は日本の首都です。モスクワ Москва столица России",
    "right to left": "مرحبا بالعالم",
    "signs that do not print": "\x00\x01\u200b\ufeff\ud7ff\U0010ffff",
    "templates and marks": "{{ 7 * 7 }} {% for %} <|im_end|> $\\frac{1}{",
    "brackets without end": "[" * 5000,
    "an open fence": "```python\nwhile",
    "long": "word " * 20_000,
    "long without spaces": "a1.@-" * 20_000,
    "one long word": "z" * 100_000,
}


def row(name: str, word: str) -> Row:
    """A row that has something in every field."""
    return Row(
        name,
        (
            Message("user", f"How tall does the {word} grow?\n\nA) 5 metres\nB) 9 metres"),
            Message("assistant", f"The {word} is tall.\n\n```python\nanswer = len({word!r})\n```\nAnswer: 5", train=True),
        ),
        context=({"doc_id": f"d-{word}", "text": f"The {word} is a tree of the north. It is tall.", "score": None},),
        program=f"answer = len({word!r})",
        gold="5",
        label=word,
        candidates=tuple({"text": f"{word} {'is tall ' * i}", "source": "teacher"} for i in (1, 2, 3)),
        scores={"rating": 3.0, "order_consistency": 0.5},
        trajectory=({"thought": "", "action": "floor", "args": '{"x":1.5}', "observation": "1"},),
        tool={
            "name": "floor",
            "parameters": '{"type":"object","properties":{"x":{"type":"number"}},"required":["x"]}',
            "callable": "math:floor",
        },
        meta={"kind": "topic", "value": word, "tests": '["assert answer > 2", "assert answer == 3"]'},
    )


ROWS = [row(f"r{i:02d}", word) for i, word in enumerate(WORDS)]
UNANSWERED = [replace(one, id=f"u{one.id}", messages=one.messages[:1]) for one in ROWS]


@pytest.fixture(params=kinds.available("scorers"))
def scorer(request: pytest.FixtureRequest) -> Scorer:
    cls = kinds.load("scorers", request.param)
    shown = {name: field.examples[0] for name, field in cls.model_fields.items() if field.examples}
    return cls.model_validate({"kind": request.param, **shown})


def run(scorer: Scorer, rows: list[Row], folder: Path) -> tuple[Talks, list[Ask]]:
    """Run a scorer to its end; return its conversations and the calls made."""
    actors = (*scorer.actors, *scorer.others)
    gives = dict.fromkeys(actors, TEACHER.gives)
    setting = replace(SETTING, scene=replace(SCENE, gives=gives), identities=dict.fromkeys(actors, TEACHER.answer_identity(Path())))
    calls: list[Ask] = []
    folder.mkdir(exist_ok=True)
    with Store.open(folder) as store, TEACHER.open(Path(), None) as session:
        talks = Talks(scorer, sorted(rows, key=lambda row: row.id), setting, store, failures=False)
        questions = talks.advance()
        asks = [question.ask for question in questions]
        for index, answer in session.generate(asks):
            calls.append(questions[index].ask)
            store.put(*questions[index].asked, answer)
            new = talks.deliver(questions[index], answer)
            questions += new
            asks += [question.ask for question in new]
        assert talks.advance() == []
    return talks, calls


def outcome(talks: Talks) -> tuple[dict[str, dict], dict[str, str]]:
    """Return the scored rows and why the others are not, by id."""
    return {row.id: records.as_json(row) for row in talks.rows}, {gone.id: gone.reason for gone in talks.dropped}


def test_the_order_of_rows_does_not_matter_and_a_second_run_asks_nothing(scorer, tmp_path):
    given = [*ROWS, *UNANSWERED]
    first, calls = run(scorer, given, tmp_path / "one")
    shuffled = random.Random(0).sample(given, len(given))
    again, none = run(scorer, shuffled, tmp_path / "one")
    anew, _ = run(scorer, shuffled, tmp_path / "two")
    assert outcome(first) == outcome(again) == outcome(anew)
    assert none == []
    assert bool(calls) == bool(scorer.needs)


def test_every_row_is_scored_under_the_declared_names_or_set_apart(scorer, tmp_path):
    talks, _ = run(scorer, [*ROWS, *UNANSWERED], tmp_path)
    assert talks.rows, outcome(talks)[1]
    assert sorted([*(row.id for row in talks.rows), *(gone.id for gone in talks.dropped)]) == sorted(r.id for r in [*ROWS, *UNANSWERED])
    assert not any(char.isdigit() for gone in talks.dropped for char in gone.reason)
    before = {row.id: row for row in [*ROWS, *UNANSWERED]}
    for scored in talks.rows:
        given = before[scored.id]
        assert (scored.messages, scored.context, scored.gold, scored.meta) == (given.messages, given.context, given.gold, given.meta)
        assert [one["text"] for one in scored.candidates] == [one["text"] for one in given.candidates]
        of_row = {name: value for name, value in scored.scores.items() if name not in given.scores or name in scorer.names}
        of_candidates = [one["scores"] for one in scored.candidates if "scores" in one]
        assert of_row or of_candidates
        for values in ([of_row] if of_row else []) + of_candidates:
            assert set(values) == set(scorer.names)
            assert all(math.isfinite(value) for value in values.values())


def test_a_candidate_is_scored_as_the_answer_of_its_row(scorer, tmp_path):
    if not scorer.by_candidate:
        pytest.skip("takes all candidates together")
    if scorer.kind == "sim":
        pytest.skip("compares rows with each other: a candidate has its siblings beside it")
    given = UNANSWERED[0]
    talks, _ = run(scorer, [given], tmp_path)
    (scored,) = talks.rows
    for candidate, one in zip(given.candidates, scored.candidates, strict=True):
        alone, _ = run(scorer, [as_answer(given, candidate)], tmp_path)
        expected = {name: row.scores[name] for row in alone.rows for name in scorer.names if name in row.scores}
        assert one.get("scores", {}) == expected
        assert one.get("score") == expected.get(scorer.label)


def test_what_it_asks_is_within_what_it_says(scorer, tmp_path):
    for rows in (ROWS[:3], UNANSWERED[:3]):
        _, calls = run(scorer, rows, tmp_path / rows[0].id)
        most = _ensemble.most(scorer, Extent.of(rows))
        assert most.asks is None or len(calls) <= most.asks
        assert most.rows == len(rows)


def test_no_rows_and_rows_of_one_turn(scorer, score):
    assert score(scorer, [], scene=SCENE).rows == {}
    bare = Row("bare", (Message("user", "How tall?"),))
    driven = score(scorer, [bare], lambda ask: "", SCENE)
    assert {*driven.rows, *driven.reasons} == {"bare"}


def silent(ask: Ask) -> Answer:
    """A teacher that says no more than it must."""
    count = len(ask.choices)
    return Answer("", True, 1, 0, logprobs=(-1.0,) * count, num_choice_tokens=(1,) * count)


@pytest.mark.parametrize("text", EDGES.values(), ids=EDGES.keys())
def test_no_text_is_too_odd(scorer, score, text):
    of_answer = replace(ROWS[0], messages=(ROWS[0].messages[0], Message("assistant", text, train=True)))
    everywhere = replace(
        of_answer,
        id="s",
        messages=(Message("user", text), Message("assistant", text, train=True)),
        candidates=({"text": text}, {"text": "x"}),
        context=({"doc_id": "d", "text": text, "score": None},),
        gold=text,
        label=text,
        program=text,
        meta={"tests": text, "entry_point": text},
    )
    unanswered = replace(everywhere, id="u", messages=everywhere.messages[:1])
    rows = [of_answer, everywhere, unanswered]
    driven = score(scorer, rows, silent, SCENE)
    assert {*driven.rows, *driven.reasons} == {row.id for row in rows}
    assert all(math.isfinite(value) for row in driven.rows.values() for value in row.scores.values())
    again = score(scorer, rows, silent, SCENE)
    assert (again.rows, again.reasons) == (driven.rows, driven.reasons)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200), gold=st.text(max_size=40))
def test_whatever_a_text_says_it_is_scored_or_set_apart(scorer, score, text, gold):
    if scorer.kind == "exec":
        pytest.skip("a process a text: see its own tests")
    given_row = replace(ROWS[0], messages=(ROWS[0].messages[0], Message("assistant", text, train=True)), gold=gold)
    driven = score(scorer, [given_row], silent, SCENE)
    assert len(driven.rows) + len(driven.reasons) == 1


def test_what_it_reads_are_fields_of_a_row(scorer):
    known = {"prompt", "answer", *Row.__dataclass_fields__}
    assert {one.partition(".")[0] for name in scorer.reads for one in name.split("|")} <= known
    assert all(_reads.has(ROWS[0], name) for name in scorer.reads)


def test_identity_reads_back(scorer):
    assert kinds.parse("scorers", scorer.identity()) == scorer
