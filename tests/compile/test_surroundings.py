"""Files, packages and seeds that a spec finds around it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from kdbuild.compile import checks, surroundings
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

    def judge(self, rows, scene):  # pragma: no cover
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


@pytest.mark.parametrize(
    ("seeds", "path", "text"),
    [
        ({"kind": "topics"}, "specs/seeds/t.yaml", "label: good\n"),
        ({"kind": "topics"}, "specs/seeds/t.yml", "- [1\n"),
        ({"kind": "topics"}, "specs/seeds/t.txt", "\n\n"),
        ({"kind": "api"}, "specs/seeds/t.py", "def f(:\n"),
        ({"kind": "api"}, "specs/seeds/t.yaml", "- {description: no name}\n"),
    ],
)
def test_a_bad_file_of_any_text_format_is_found(root: Path, seeds: dict, path: str, text: str) -> None:
    (root / path).write_text(text)
    of = spec({"sft": {"elicit": [{"kind": "curate"}]}}, seeds={**seeds, "path": path})
    ((message, severity),) = [(p.message, p.severity) for p in surroundings.seed_rows(root, of)]
    assert severity == "error"
    assert path in message
