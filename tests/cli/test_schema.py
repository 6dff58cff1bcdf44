"""`kdbuild schema`: what `check` reads well validates, what it refuses for its form does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from kdbuild import cli
from kdbuild.kinds import available, load
from kdbuild.spec import schema

ROOT = Path(__file__).parents[2]
SPECS = [path for folder in ("specs", "tests/specs", "kdbuild/cli/_init/specs") for path in sorted((ROOT / folder).glob("*.yaml"))]
FAMILIES = {
    "seeds": "seeds",
    "students": "student",
    "evaluators": "evaluate",
    "elicitors": "elicit",
    "selectors": "select",
    "objectives": "objective",
    "adaptations": "adaptation",
}


def errors(value: object, of: dict) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(of).iter_errors(value)]


def test_they_are_schemas_of_the_draft_they_name() -> None:
    for found in (schema.of_spec(), schema.of_params()):
        assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(found)


@pytest.mark.parametrize("path", [p for p in SPECS if not p.name.endswith(".params.yaml")], ids=lambda p: p.name)
def test_every_shipped_spec_is_valid(path: Path) -> None:
    assert errors(YAML(typ="safe").load(path.read_text()), schema.of_spec()) == []


@pytest.mark.parametrize("path", [ROOT / "params.yaml", ROOT / "kdbuild/cli/_init/params.yaml"], ids=["ours", "of init"])
def test_every_shipped_params_yaml_is_valid(path: Path) -> None:
    assert errors(YAML(typ="safe").load(path.read_text()), schema.of_params()) == []


GOOD = """
target: {skill: summaries}
teacher: tiny
student: {kind: causal-lm, init: {from: teacher, layers: 2}}
seeds: {kind: dataset, path: specs/seeds/a.jsonl}
phases:
  sft:
    elicit: [{kind: label}]
    select: [{kind: exact-dedup}]
    objective: {kind: sft}
    train: {num_epochs: 2}
evaluate: [{kind: held-out-loss}]
"""


def edited(old: str, new: str) -> object:
    assert GOOD.count(old) == 1
    return YAML(typ="safe").load(GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("teacher: tiny", "teacher: tiny\ndescription: for people"),
        ("objective: {kind: sft}", "objective: [{kind: sft}, {kind: forward-kl, weight: 0.5}]"),
        ("    objective: {kind: sft}\n", ""),
        ("select: [{kind: exact-dedup}]", "select: []"),
        ("sft:\n", "sft:\n    from: init\n    data: [{from: other/sft}]\n"),
    ],
)
def test_good_specs(old: str, new: str) -> None:
    assert errors(edited(old, new), schema.of_spec()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("target: {skill: summaries}\n", ""),
        ("teacher: tiny", "teacher: 7"),
        ("teacher: tiny", "techer: tiny"),
        ("{kind: label}", "{kind: lable}"),
        ("{kind: label}", "{max_new_tokens: 3}"),
        ("{kind: label}", "{kind: label, max_new_tokens: 0}"),
        ("{kind: label}", "{kind: label, temprature: 1}"),
        ("{kind: exact-dedup}", "{kind: semantic-dedup}"),
        ("{kind: sft}", "sft"),
        ("{kind: sft}", "[{kind: sft}, {kind: forward-kl, wieght: 1}]"),
        ("num_epochs: 2", "num_epochs: many"),
        ("num_epochs: 2", "schedule: square"),
        ("sft:\n", "Sft Phase:\n"),
        ("[{kind: held-out-loss}]", "{kind: held-out-loss}"),
    ],
)
def test_bad_specs(old: str, new: str) -> None:
    assert errors(edited(old, new), schema.of_spec())


def alternatives(node: object) -> set[str]:
    """The kinds that a schema knows."""
    if isinstance(node, dict):
        own = {node["const"]} if set(node) <= {"const", "type", "description"} and "const" in node else set()
        return own.union(*map(alternatives, node.values()))
    return set().union(*map(alternatives, node)) if isinstance(node, list) else set()


def test_every_kind_is_an_alternative() -> None:
    assert alternatives(schema.of_spec()) >= {kind for family in FAMILIES for kind in available(family)}
    assert alternatives(schema.of_params()) >= {kind for family in ("teachers", "embedders") for kind in available(family)}


def test_fields_are_described_by_the_text_under_them() -> None:
    found = schema.of_spec()
    assert found["properties"]["teacher"]["description"] == "A name under `teachers:` in params.yaml."
    label = load("elicitors", "label")
    text = json.dumps(found, ensure_ascii=False)
    assert json.dumps(label.model_fields["max_new_tokens"].description, ensure_ascii=False) in text
    assert json.dumps((label.__doc__ or "").split("\n\n")[0], ensure_ascii=False)[:-1] in text


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["kdbuild", "schema", *args])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


@pytest.mark.parametrize(("flags", "of"), [((), schema.of_spec), (("--params",), schema.of_params)])
def test_it_is_printed(flags: tuple[str, ...], of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    run(tmp_path, monkeypatch, *flags)
    assert json.loads(capsys.readouterr().out) == of()


def test_both_are_written_where_specs_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "specs").mkdir()
    run(tmp_path, monkeypatch, "--write")
    assert capsys.readouterr().out == "wrote specs/.schema.json\nwrote specs/.params.schema.json\n"
    assert json.loads((tmp_path / "specs" / ".schema.json").read_text()) == schema.of_spec()
    run(tmp_path, monkeypatch, "--write")
    assert capsys.readouterr().out == "specs/.schema.json is up to date\nspecs/.params.schema.json is up to date\n"


@pytest.mark.parametrize("path", sorted((ROOT / "specs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_specs_name_the_schema(path: Path) -> None:
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=.schema.json"


def test_outside_a_project_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdbuild", "schema", "--write"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert "holds no folder specs/" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
