"""What a stage would ask, before it asks (that it asks exactly this is shown in tests/stages/test_elicit.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdbuild.records import Message, Row
from kdbuild.rows.forecast import missing_asks
from kdbuild.rows.store import Store
from kdbuild.spec.sections import ElicitSection
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


def test_without_a_teacher_nothing_is_asked(tmp_path, store):
    ahead = missing_asks(section(teacher=False), ROWS, store, tmp_path)
    assert (ahead.num_calls, ahead.complete, ahead.keys) == (0, True, {"ant": [], "bee": []})


def test_it_imports_nothing_heavy():
    heavy = ("torch", "transformers", "numpy", "pyarrow", "datasets", "pandas")
    imports = "import sys, kdbuild.rows.forecast, kdbuild.elicitors.label, kdbuild.teachers.fake"
    script = f"{imports}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
