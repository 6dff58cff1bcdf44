"""What one part of a spec needs of another. The texts are in tests/spec/errors; here: what is legal, and what points where."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbuild.compile import checks
from kdbuild.errors import SpecError
from kdbuild.kinds import load
from kdbuild.spec.model import Params, Spec

PARAMS = Params.model_validate({"teachers": {"tiny": {"kind": "fake"}}, "embedder": {"kind": "fake"}})
ASK = {"elicit": [{"kind": "label"}]}
SFT = {"objective": {"kind": "sft"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "specs" / "seeds").mkdir(parents=True)
    rows = "".join(f'{{"prompt": "What is {i} and one?"}}\n' for i in range(200))
    (tmp_path / "specs" / "seeds" / "a.jsonl").write_text(rows)
    return tmp_path


def spec(phases: dict, **changes: object) -> Spec:
    base = {
        "target": {"skill": "sums"},
        "teacher": "tiny",
        "student": {"kind": "causal-lm", "init": {"from": "teacher", "layers": 2}},
        "seeds": {"kind": "dataset", "path": "specs/seeds/a.jsonl"},
        "phases": phases,
    }
    return Spec.model_validate({key: value for key, value in {**base, **changes}.items() if value is not None})


def found(root: Path, of: Spec, params: Params = PARAMS, **peers: Spec) -> list[tuple[str, str]]:
    return [(".".join(map(str, p.at)), p.severity) for p in checks.find(root, "a", of, params, peers)]


LEGAL = {
    "one phase": spec({"sft": ASK | SFT}),
    "a data set without a student": spec({"ask": ASK}, student=None),
    "selecting from seeds as they are": spec({"keep": {"select": [{"kind": "exact-dedup"}]} | SFT}),
    "selecting from an earlier phase": spec({"ask": ASK, "keep": {"on": "ask", "select": [{"kind": "exact-dedup"}]} | SFT}),
    "a chain of phases": spec({"ask": ASK, "again": {"on": "ask"} | ASK, "sft": SFT}),
    "training on what an earlier phase selected": spec({"sft": ASK | SFT, "kl": {"objective": {"kind": "forward-kl"}}}),
    "listing its own data": spec({"sft": ASK | SFT | {"data": [{"from": "sft"}]}}),
    "naming its own spec": spec({"sft": ASK | SFT, "kl": SFT | {"data": [{"from": "a/sft"}]}}),
    "starting from init": spec({"sft": ASK | SFT, "kl": SFT | {"from": "init"}}),
    "starting from an earlier phase": spec({"sft": ASK | SFT, "kl": SFT, "more": SFT | {"from": "sft"}}),
    "several objectives": spec({"sft": ASK | {"objective": [{"kind": "sft"}, {"kind": "forward-kl", "weight": 0.5}]}}),
    "no teacher where none is asked": spec(
        {"sft": {"select": [{"kind": "exact-dedup"}]} | SFT}, teacher=None, student={"kind": "causal-lm", "model": "hf:org/name@main"}
    ),
    "an evaluation": spec({"sft": ASK | SFT}, evaluate=[{"kind": "held-out-loss"}, {"kind": "teacher-agreement"}]),
}


@pytest.mark.parametrize("case", LEGAL)
def test_legal(case: str, root: Path) -> None:
    assert found(root, LEGAL[case]) == []


def test_another_specs_data_is_legal_and_its_mistakes_are_its_own(root: Path) -> None:
    (root / "specs" / "broken.yaml").write_text("nonsense")
    uses = spec({"sft": SFT | {"data": [{"from": "other/ask"}, {"from": "broken/ask"}]}})
    assert found(root, uses, other=spec({"ask": ASK}, student=None)) == []
    assert found(root, uses, other=spec({"sft": ASK | SFT})) == [("phases.sft.data.0.from", "error")]


def test_two_specs_may_train_on_each_others_data(root: Path) -> None:
    one = spec({"ask": ASK, "sft": SFT | {"data": [{"from": "b/ask"}]}})
    assert found(root, one, b=spec({"ask": ASK, "sft": SFT | {"data": [{"from": "a/ask"}]}})) == []


def test_an_objectives_own_teacher_counts(root: Path) -> None:
    named = spec({"sft": ASK | {"objective": {"kind": "forward-kl", "teacher": "other"}}})
    assert found(root, named) == [("phases.sft.objective.teacher", "error")]
    both = Params.model_validate({"teachers": {"tiny": {"kind": "fake"}, "other": {"kind": "fake"}}})
    assert found(root, named, both) == []


def test_problems_point_into_lists(root: Path) -> None:
    wrong = spec({"sft": ASK | {"objective": [{"kind": "sft"}, {"kind": "forward-kl", "teacher": "other"}]}})
    assert found(root, wrong) == [("phases.sft.objective.1.teacher", "error")]


@pytest.mark.parametrize(
    ("phase", "idle"),
    [
        ({"train": {"num_epochs": 2}}, "train"),
        ({"data": [{"from": "sft"}]}, "data"),
        ({"adaptation": {"kind": "lora"}}, "adaptation"),
        ({"from": "sft"}, "from"),
    ],
)
def test_what_has_no_effect_is_a_warning(phase: dict, idle: str, root: Path) -> None:
    assert found(root, spec({"sft": ASK | SFT, "more": ASK | phase})) == [(f"phases.more.{idle}", "warning")]


def test_on_has_no_effect_without_elicit_or_select(root: Path) -> None:
    assert found(root, spec({"sft": ASK | SFT, "kl": SFT | {"on": "sft"}})) == [("phases.kl.on", "warning")]


TEXT = "target: {skill: x}\nteacher: %s\nphases: {ask: {elicit: [{kind: label}]}}\n"


def test_check_spec_raises_every_error_with_its_line(root: Path) -> None:
    (root / "specs" / "a.yaml").write_text(TEXT % "tinny")
    of = spec({"ask": ASK}, teacher="tinny", student=None)
    with pytest.raises(SpecError) as caught:
        checks.check_spec(root, "a", of, PARAMS, {})
    assert caught.value.message.startswith(
        "specs/a.yaml:2: teacher: no teacher named `tinny`. Did you mean `tiny`?\n    2 | teacher: tinny\n"
    )


def test_a_kinds_missing_package_is_a_warning_at_the_kind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load("selectors", "exact-dedup"), "needs_packages", (("no_such_module_here", "no-such"),))
    of = spec({"sft": ASK | SFT | {"select": [{"kind": "exact-dedup"}]}})
    assert found(root, of) == [("phases.sft.select.0", "warning")]


def test_a_scorer_that_reads_scores_stands_behind_what_writes_them(root: Path) -> None:
    (root / "specs" / "seeds" / "topics.txt").write_text("".join(f"topic {i}\n" for i in range(200)))
    seeds = {"kind": "topics", "path": "specs/seeds/topics.txt"}
    linear, rules = {"kind": "linear", "indicators": {"rules.words": 1.0}}, {"kind": "rules", "min_words": 3}

    def problems(*steps: dict) -> list[tuple[str, str]]:
        return found(root, spec({"ask": {"elicit": [{"kind": "curate"}], "select": list(steps)}}, seeds=seeds))

    wrong = ("phases.ask.select.0", "error")
    assert wrong in problems(linear, rules)
    assert wrong in problems(linear)
    assert not [at for at, severity in problems(rules, linear) if "select" in at and severity == "error"]
    assert wrong in problems({"kind": "agree", "of": "orders"})
