"""What one part of a spec needs of another. The texts are in tests/spec/errors; here: what is legal, and what points where."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from kdbuild.compile import checks, surroundings
from kdbuild.compile.review import review
from kdbuild.errors import SpecError
from kdbuild.selectors import Selector
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


# --- files -----------------------------------------------------------------------------------------------------------


def seeds_at(path: str) -> Spec:
    return spec({"sft": ASK | SFT}, seeds={"kind": "dataset", "path": path})


def test_a_file_that_dvc_holds_is_a_warning(root: Path) -> None:
    (root / "specs" / "seeds" / "big.jsonl.dvc").write_text("outs: []\n")
    assert found(root, seeds_at("specs/seeds/big.jsonl")) == [("seeds.path", "warning")]


def test_a_link_that_leads_out_of_the_project_is_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.jsonl"
    outside.write_text('{"prompt": "x"}\n')
    (root / "specs" / "seeds" / "link.jsonl").symlink_to(outside)
    (problem,) = checks.find(root, "a", seeds_at("specs/seeds/link.jsonl"), PARAMS, {})
    assert problem.at == ("seeds", "path")
    assert "leaves the project" in problem.message


@pytest.mark.parametrize("path", ["../up.j2", "/etc/hostname", "~/x.j2", "specs/../../x.j2", "specs/${x}.j2"])
def test_templates_stay_inside(path: str, root: Path) -> None:
    of = spec({"sft": SFT | {"elicit": [{"kind": "label", "template": path}]}})
    assert found(root, of) == [("phases.sft.elicit.0.template", "error")]


def test_a_model_of_the_project_must_be_there(root: Path) -> None:
    of = spec({"sft": ASK | SFT}, student={"kind": "causal-lm", "model": "path:models/mine"})
    assert found(root, of) == [("student.model", "error")]
    (root / "models" / "mine").mkdir(parents=True)
    assert found(root, of) == []


class NeedsNothingThere(Selector):
    """A kind whose package is not installed."""

    kind: Literal["needs-nothing-there"] = "needs-nothing-there"
    needs_packages: ClassVar = (("no_such_module_here", "kdbuild[nothing]"),)

    def judge(self, rows, embed):  # pragma: no cover
        return []


def test_a_missing_package_is_one_warning_with_the_command() -> None:
    kinds = [(("a",), NeedsNothingThere(), "spec"), (("b",), NeedsNothingThere(), "spec")]
    (problem,) = surroundings.packages(kinds)
    assert (problem.at, problem.severity, problem.hint) == (("a",), "warning", "pip install 'kdbuild[nothing]'")
    assert "no_such_module_here" in problem.message


# --- seeds -----------------------------------------------------------------------------------------------------------


def seed_problems(root: Path, text: str | None, **changes: object) -> list[tuple[str, str]]:
    if text is not None:
        (root / "specs" / "seeds" / "a.jsonl").write_text(text)
    of = spec({"sft": ASK | SFT}, **{"evaluate": [{"kind": "held-out-loss"}], **changes})
    return [(p.message, p.severity) for p in surroundings.seed_rows(root, of)]


def test_enough_held_out_rows_say_nothing(root: Path) -> None:
    assert seed_problems(root, None) == []


def test_held_out_rows_are_counted_by_their_ids(root: Path) -> None:
    from kdbuild import records
    from kdbuild.records import Message

    prompts = [f"What is {i} and one?" for i in range(30)]
    ids = [records.row_id({"messages": [["user", p]], "gold": None}) for p in prompts]
    expected = sum(records.is_held_out(records.Row(i, (Message("user", p),)), 0.2) for i, p in zip(ids, prompts, strict=True))
    ((message, severity),) = seed_problems(root, "".join(f'{{"prompt": "{p}"}}\n' for p in prompts))
    assert severity == "warning"
    assert message.startswith(f"`held_out_frac: 0.2` holds out {expected} of 30 seeds")


def test_no_evaluation_needs_no_held_out_rows(root: Path) -> None:
    assert seed_problems(root, '{"prompt": "x"}\n', evaluate=None) == []


def test_a_bad_row_is_told_with_its_own_line(root: Path) -> None:
    ((message, severity),) = seed_problems(root, '{"prompt": "x"}\n\n{"prompt": \n')
    assert severity == "error"
    assert message.startswith("specs/seeds/a.jsonl:3")


def test_a_large_seed_file_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "MAX_COUNTED_BYTES", 10)
    assert seed_problems(root, "not JSON at all\n") == []


# --- all together ----------------------------------------------------------------------------------------------------

TEXT = "target: {skill: x}\nteacher: %s\nseeds: {kind: dataset, path: specs/seeds/a.jsonl}\nphases: {ask: {elicit: [{kind: label}]}}\n"


def test_review_tells_the_errors_of_every_file(root: Path) -> None:
    (root / "params.yaml").write_text("teachers: {tiny: {kind: fake}}\n")
    for name, teacher in (("a", "tiny"), ("b", "tinny"), ("c", "[")):
        (root / "specs" / f"{name}.yaml").write_text(TEXT % teacher)
    seen = review(root)
    assert seen.good == ["a"]
    assert [error.split(": ")[0] for error in seen.errors] == ["specs/b.yaml:2", "specs/c.yaml:2"]


def test_review_of_one_spec_says_nothing_of_others(root: Path) -> None:
    (root / "params.yaml").write_text("teachers: {tiny: {kind: fake}}\n")
    for name, teacher in (("a", "tiny"), ("b", "tinny"), ("c", "[")):
        (root / "specs" / f"{name}.yaml").write_text(TEXT % teacher)
    assert (review(root, ["a"]).good, review(root, ["a"]).errors) == (["a"], [])
    assert len(review(root, ["specs/b.yaml"]).errors) == 1
    with pytest.raises(SpecError, match=r"no spec named `aa`\. Did you mean `a`\?"):
        review(root, ["aa"])


def test_check_spec_raises_every_error_with_its_line(root: Path) -> None:
    (root / "specs" / "a.yaml").write_text(TEXT % "tinny")
    of = spec({"ask": ASK}, teacher="tinny", student=None)
    with pytest.raises(SpecError) as caught:
        checks.check_spec(root, "a", of, PARAMS, {})
    assert caught.value.message.startswith(
        "specs/a.yaml:2: teacher: no teacher named `tinny`. Did you mean `tiny`?\n    2 | teacher: tinny\n"
    )
