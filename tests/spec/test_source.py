"""Reading specs and params.yaml: defaults lie under a spec's own values, all errors of a file are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbuild.errors import SpecError
from kdbuild.spec.model import Params
from kdbuild.spec.source import read_params, read_spec

SPEC = """\
target: {skill: summaries}
phases:
  sft:
    elicit: [{kind: label}]
  late:
    on: sft
    elicit: [{kind: label, max_new_tokens: 8}]
    train: {num_epochs: 5}
"""


def read(tmp_path: Path, text: str, params: str = "") -> object:
    (tmp_path / "specs").mkdir(exist_ok=True)
    (tmp_path / "specs" / "a.yaml").write_text(text)
    (tmp_path / "params.yaml").write_text(params)
    return read_spec(tmp_path / "specs" / "a.yaml", read_params(tmp_path / "params.yaml"))


def test_line_breaks_are_those_of_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"specs/a\.yaml:3: foo: unknown key `foo`"):
        read(tmp_path, "target: {skill: x}\r\nphases: {}\rfoo: 1\n")


def test_defaults_lie_under_a_specs_own_values(tmp_path: Path) -> None:
    spec = read(tmp_path, SPEC, "defaults: {held_out_frac: 0.5, train: {num_epochs: 3, batch_tokens: 64}}\n")
    assert spec.held_out_frac == 0.5
    assert [(p.train.num_epochs, p.train.batch_tokens) for p in spec.phases.values()] == [(3, 64), (5, 64)]


def test_a_default_does_not_win_over_a_value_that_equals_the_built_in_one(tmp_path: Path) -> None:
    spec = read(tmp_path, "held_out_frac: 0.2\n" + SPEC, "defaults: {held_out_frac: 0.5, accept_failed_frac: 0.1}\n")
    assert (spec.held_out_frac, spec.accept_failed_frac) == (0.2, 0.1)


def test_defaults_do_not_count_as_said_by_the_spec(tmp_path: Path) -> None:
    assert "train" not in read(tmp_path, SPEC).phases["sft"].model_fields_set


def test_wrong_defaults_are_an_error_of_params_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, SPEC, "defaults:\n  train: {num_epochs: 0}\n")
    assert caught.value.message.startswith("params.yaml:2: defaults.train.num_epochs: must be at least 1, but is `0`\n")


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n"])
def test_params_may_be_absent_or_empty(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    assert read_params(tmp_path / "params.yaml") == Params()


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(SpecError, match="cannot be read"):
        read_params(tmp_path / "params.yaml")


def test_all_errors_of_a_file_in_the_order_of_its_lines(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, "foo: 1\ntarget: {skill: 3}\nphases: {a: {elicit: [{kind: label, top_p: 2}, {kind: labl}]}}\nheld_out_frac: x\n")
    starts = [block.split(": ")[:2] for block in caught.value.message.split("\n\n")]
    assert starts == [
        ["specs/a.yaml:1", "foo"],
        ["specs/a.yaml:2", "target.skill"],
        ["specs/a.yaml:3", "phases.a.elicit[0].top_p"],
        ["specs/a.yaml:3", "phases.a.elicit[1]"],
        ["specs/a.yaml:4", "held_out_frac"],
    ]


def test_a_revision_of_a_kind_cannot_be_set_by_a_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"elicit\[0\]\.kind_revision: unknown key"):
        read(tmp_path, SPEC.replace("{kind: label}", "{kind: label, kind_revision: 2}"))
