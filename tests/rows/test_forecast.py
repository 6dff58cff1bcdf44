"""What a stage would ask, before it asks (that it asks exactly this is shown in tests/stages/test_elicit.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdbuild.records import Message, Row
from kdbuild.rows.forecast import missing_asks
from kdbuild.rows.store import Store
from kdbuild.spec.sections import ElicitSection, SelectSection
from kdbuild.teachers import Answer

ROWS = [Row(name, (Message("user", f"About {name}?"),)) for name in ("ant", "bee")]


def section(*limits: int, teacher: bool = True) -> ElicitSection:
    return ElicitSection.of(
        {
            "rows": "x",
            "seeds": None,
            "from_seeds": True,
            "actors": {"teacher": {"name": "t", "teacher": {"kind": "fake"}, "weights": None}} if teacher else {},
            "operators": [{"kind": "label", "max_new_tokens": limit} for limit in limits],
            "embedder": None,
            "held_out_frac": None,
            "accept_failed_frac": 0.0,
        }
    )


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as store:
        yield store


def test_one_operator_is_known_in_full(tmp_path, store):
    ahead = missing_asks(section(16), ROWS, store, tmp_path)
    assert (ahead.num_calls, ahead.complete) == (2, True)
    assert set(ahead.keys) == {"ant", "bee"}
    store.put(*ahead.missing[0].asked, Answer("yes", True, 2, 2))
    assert [q.ask.row for q in missing_asks(section(16), ROWS, store, tmp_path).missing] == ["bee"]


def test_what_a_later_operator_asks_is_known_once_the_first_was_answered(tmp_path, store):
    ahead = missing_asks(section(16, 8), ROWS, store, tmp_path)
    assert (ahead.num_calls, ahead.complete) == (2, False)
    for question in ahead.missing:
        store.put(*question.asked, Answer("yes", True, 2, 12))
    # The second operator asks the same questions under a limit that these answers are too long for.
    ahead = missing_asks(section(16, 8), ROWS, store, tmp_path)
    assert ([q.ask.max_new_tokens for q in ahead.missing], ahead.complete) == ([8, 8], True)


def of(*operators: dict, teachers: tuple[str, ...] = ("teacher",)) -> ElicitSection:
    uses = {name: {"name": name, "teacher": {"kind": "fake", "model": name}, "weights": None} for name in teachers}
    return ElicitSection.model_validate({**section(16).model_dump(), "operators": list(operators), "actors": uses})


@pytest.mark.parametrize(
    ("operators", "least", "most"),
    [
        ([{"kind": "sample", "by": "teacher", "num_samples": 3}], 6, 6),
        # Three candidates are three pairs, each in both orders, for each of two rows.
        ([{"kind": "sample", "by": "teacher", "num_samples": 3}, {"kind": "rank"}], 6, 6 + 2 * 3 * 2),
        # A critique and a revision, twice.
        ([{"kind": "label"}, {"kind": "revise", "max_rounds": 2}], 2, 2 + 2 * 4),
        # Three samples make three rows at most, each asked about once.
        ([{"kind": "cot", "num_samples": 3, "temperature": 1.0}, {"kind": "label"}], 6, 6 + 6),
        # How many passages a row has is its own affair.
        ([{"kind": "label"}, {"kind": "doc2x", "of": "context"}], 2, None),
        ([{"kind": "label", "by": ["teacher", "other"]}, {"kind": "label"}], 4, 4 + 4),
        ([{"kind": "label", "by": ["teacher", "other"], "combine": "consensus"}, {"kind": "label"}], 4, 4 + 2),
    ],
)
def test_what_comes_later_is_bounded_by_what_operators_promise(tmp_path, store, operators, least, most):
    ahead = missing_asks(of(*operators, teachers=("teacher", "other")), ROWS, store, tmp_path)
    assert (ahead.num_calls, ahead.most.asks) == (least, most)


def test_rows_that_are_done_are_asked_on(tmp_path, store):
    ahead = missing_asks(section(16, 8), ROWS, store, tmp_path)
    store.put(*ahead.missing[0].asked, Answer("yes", True, 2, 12))
    ahead = missing_asks(section(16, 8), ROWS, store, tmp_path)
    # The second operator about the ant; the first about the bee, and perhaps the second.
    assert sorted((q.ask.row, q.ask.max_new_tokens) for q in ahead.missing) == [("ant", 8), ("bee", 16)]
    assert ahead.most.asks == 3
    assert ahead.waiting == {"ant", "bee"}


def test_what_is_made_of_a_row_counts_with_it(tmp_path, store):
    whole = of({"kind": "rewrite", "num_variants": 2, "temperature": 1.0}, {"kind": "label"})
    answers = iter(["one", "two", "three", "four", "five", "six", "seven", "eight"])
    for _ in range(2):
        for question in missing_asks(whole, ROWS, store, tmp_path).missing:
            store.put(*question.asked, Answer(f"Say {next(answers)}.", True, 2, 2))
    done = missing_asks(whole, ROWS, store, tmp_path)
    assert (done.num_calls, done.complete, done.waiting) == (0, True, set())
    assert {row: len(keys) for row, keys in done.keys.items()} == {"ant": 4, "bee": 4}


def test_answers_of_a_model_that_is_not_there_are_not_stored(tmp_path, store):
    for question in missing_asks(section(16), ROWS, store, tmp_path).missing:
        store.put(*question.asked, Answer("yes", True, 2, 2))
    assert missing_asks(section(16), ROWS, store, tmp_path).num_calls == 0
    assert missing_asks(section(16), ROWS, store, tmp_path, {"teacher"}).num_calls == 2


def test_without_a_teacher_nothing_is_asked(tmp_path, store):
    ahead = missing_asks(section(teacher=False), ROWS, store, tmp_path)
    assert (ahead.num_calls, ahead.complete, ahead.keys) == (0, True, {"ant": [], "bee": []})


def scoring(*steps: dict) -> SelectSection:
    given = {"rows": "x", "steps": list(steps), "embedder": None, "pools": {}, "held_out_frac": 0.0, "accept_failed_frac": 0.0}
    return SelectSection.of({**given, "actors": section(16).model_dump()["actors"]})


def test_what_a_scorer_asks_behind_a_selector_is_not_sure_but_what_is_stored_is_not_asked(tmp_path, store):
    answered = [row.with_answer("yes", ended=True, keys=()) for row in ROWS]
    before = missing_asks(scoring({"kind": "ppl"}), answered, store, tmp_path)
    assert (before.num_calls, before.most.asks) == (2, 2)
    behind = scoring({"kind": "exact-dedup"}, {"kind": "ppl"})
    assert (missing_asks(behind, answered, store, tmp_path).num_calls, missing_asks(behind, answered, store, tmp_path).most.asks) == (0, 2)
    store.put(*before.missing[0].asked, Answer("", True, 2, 0, logprobs=(-1.0,), num_choice_tokens=(1,)))
    ahead = missing_asks(behind, answered, store, tmp_path)
    assert (ahead.num_calls, ahead.most.asks, ahead.complete) == (0, 1, False)


def test_rows_that_stored_answers_make_are_known(tmp_path, store):
    assert missing_asks(section(16), ROWS, store, tmp_path).made is None
    for question in missing_asks(section(16), ROWS, store, tmp_path).missing:
        store.put(*question.asked, Answer("yes", True, 2, 2))
    made = missing_asks(section(16), ROWS, store, tmp_path).made
    assert made is not None
    assert [(row.id, row.answer) for row in made] == [("ant", "yes"), ("bee", "yes")]


def test_it_imports_nothing_heavy():
    heavy = ("torch", "transformers", "numpy", "pyarrow", "datasets", "pandas")
    imports = "import sys, kdbuild.rows.forecast, kdbuild.elicitors.label, kdbuild.teachers.fake"
    script = f"{imports}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
