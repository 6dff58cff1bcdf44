import math
import subprocess
import sys

import pytest

from kdbuild import kinds
from kdbuild.evaluators import Evaluator

HEAVY = "('torch', 'transformers', 'nltk', 'numpy')"
EVALUATORS = kinds.available("evaluators")


@pytest.mark.parametrize("name", EVALUATORS)
class TestContract:
    def test_it_is_an_evaluator_that_says_what_it_is(self, name):
        found = kinds.load("evaluators", name)
        assert issubclass(found, Evaluator)
        assert found.block is not None
        assert found.block.startswith("eval.")
        assert found.__doc__
        assert all(field.description for key, field in found.model_fields.items() if key != "kind")

    def test_every_metric_has_a_unit_and_a_direction(self, name):
        directions = kinds.load("evaluators", name).directions
        assert directions
        assert set(directions.values()) <= {"lower", "higher"}
        assert all(metric.endswith(("_nats_per_token", "_frac", "_f1")) for metric in directions)

    def test_it_reads_back_what_it_writes(self, name):
        evaluator = kinds.load("evaluators", name)()
        assert kinds.parse("evaluators", evaluator.identity()) == evaluator

    def test_it_gives_exactly_its_metrics_for_student_and_teacher(self, name, toy):
        evaluator = kinds.load("evaluators", name)()
        teacher, student = toy.llama("teacher", seed=1), toy.llama(seed=2)
        rows = [toy.row(f"r{n}", "a b", "b " * n, ended=True) for n in range(1, 4)]
        for subject in (student, teacher):
            found = evaluator.measure(subject, rows, teacher)
            assert set(found.metrics) == set(evaluator.directions)
            assert all(math.isfinite(value) for value in found.metrics.values())
            assert set(found.rows) == {row.id for row in rows}

    def test_the_order_of_the_rows_does_not_matter(self, name, toy):
        evaluator = kinds.load("evaluators", name)()
        teacher, student = toy.llama("teacher", seed=1), toy.llama(seed=2)
        rows = [toy.row(f"r{n}", "a " * n, "b a " * n) for n in range(1, 5)]
        ahead, back = evaluator.measure(student, rows, teacher), evaluator.measure(student, rows[::-1], teacher)
        assert back.metrics == pytest.approx(ahead.metrics, abs=1e-6)

    def test_no_evaluator_prefers_the_worse_of_two_models(self, name, toy):
        """A model that says what the teacher says is better, in each metric's own direction, than one that never does."""
        evaluator = kinds.load("evaluators", name)(**({"max_new_tokens": 4} if name == "rouge" else {}))
        teacher = toy.constant("teacher", a=0.9, b=0.1)
        good, bad = toy.constant(a=0.8, b=0.2), toy.constant(a=0.1, b=0.9)
        rows = [toy.row("r", "b", "a a a a")]
        ours, theirs = evaluator.measure(good, rows, teacher).metrics, evaluator.measure(bad, rows, teacher).metrics
        for metric, direction in evaluator.directions.items():
            assert (ours[metric] < theirs[metric]) == (direction == "lower")


def test_no_evaluator_imports_torch_before_it_measures():
    loads = "; ".join(f"kinds.load('evaluators', {name!r})" for name in EVALUATORS)
    code = f"import sys; from kdbuild import kinds; {loads}; print([m for m in HEAVY if m in sys.modules])".replace("HEAVY", HEAVY)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
