"""What compile writes: whole, only where it differs, and refused where somebody edited it."""

from __future__ import annotations

import json

import pytest

from kdbuild.compile import project, write
from kdbuild.compile.stages import leaves
from kdbuild.errors import EditedByHand, NotCompiled

PARAMS = "teachers:\n  asked: {kind: fake}\n"
SPEC = """\
target: {skill: testing}
teacher: asked
student: {kind: causal-lm, init: {from: teacher, layers: 2}}
seeds: {kind: dataset, path: specs/seeds/t.jsonl}
phases:
  first: {elicit: [{kind: label}], objective: {kind: sft}}
  second: {objective: {kind: forward-kl}}
evaluate: [{kind: held-out-loss}]
"""


@pytest.fixture
def root(tmp_path):
    """Return a project of one spec, not compiled."""
    (tmp_path / "specs" / "seeds").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "specs" / "t.yaml").write_text(SPEC)
    (tmp_path / "specs" / "seeds" / "t.jsonl").write_text('{"prompt": "Why?"}\n')
    return tmp_path


def test_the_stages_of_a_spec(root):
    found = {stage.name: stage for stage in project.load(root).stages}
    steps = ["t_compile", "t_init", "t_first_elicit", "t_first_select", "t_first_train", "t_second_train", "t_evaluate", "t_report"]
    assert list(found) == ["kdbuild_structure", *steps]
    assert found["t_second_train"].command == "exec kdbuild stage train t second"
    assert dict(found["t_second_train"].deps) == {"data": "artifacts/t/first/selected", "start": "artifacts/t/first/model"}
    assert found["t_evaluate"].section["models"] == {part: f"artifacts/t/{part}/model" for part in ("init", "first", "second")}


def test_a_second_time_nothing_is_written(root):
    assert "dvc.yaml" in write.write(project.load(root))
    assert write.write(project.load(root)) == []


def test_every_section_has_a_key_and_every_tracked_name_is_there(root):
    found = project.load(root)
    write.write(found)
    resolved = json.loads((root / "artifacts/t/resolved.json").read_text())
    for stage in found.stages:
        if stage.params_file:
            section = resolved
            for key in stage.keys:
                section = section[key]
            assert len(section["_key"]) == 64
            names = stage.as_dvc()["params"][0][stage.params_file]
            assert names == sorted(".".join((*stage.keys, *leaf)) for leaf in leaves(section))


def test_a_value_changes_no_stage_and_another_kind_does(root):
    write.write(project.load(root))
    before = (root / "dvc.yaml").read_text()
    (root / "specs/t.yaml").write_text(SPEC.replace("{kind: label}", "{kind: label, max_new_tokens: 7}"))
    assert project.load(root).dvc_yaml == before
    (root / "specs/t.yaml").write_text(SPEC.replace("objective: {kind: sft}}", "select: [{kind: exact-dedup}], objective: {kind: sft}}"))
    with pytest.raises(NotCompiled, match="run `kdbuild compile`"):
        write.refuse_other_shape(project.load(root))


def test_a_hand_edit_is_refused_and_both_ways_out_are_named(root):
    write.write(project.load(root))
    path = root / "dvc.yaml"
    path.write_text(path.read_text().replace("exec kdbuild stage report t", "echo"))
    with pytest.raises(EditedByHand) as caught:
        write.write(project.load(root))
    assert "kdbuild compile --force" in str(caught.value)
    assert "specs/ or params.yaml" in str(caught.value)


def test_a_dvc_yaml_of_somebody_else_is_left_alone(root):
    (root / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(EditedByHand, match="was not written by kdbuild"):
        write.write(project.load(root))
    assert (root / "dvc.yaml").read_text() == "stages: {}\n"


def test_a_broken_spec_leaves_the_stages_of_the_others_alone(root):
    (root / "specs/other.yaml").write_text(SPEC)
    write.write(project.load(root))
    (root / "specs/other.yaml").write_text("target: [\n")
    found = project.load(root, tolerant=True)
    assert set(found.broken) == {"other"}
    write.refuse_other_shape(found)


def test_keys_dvc_cannot_address_are_tracked_whole():
    section = {"a": {"b.c": 1}, "d": [{"e": None}], "f": [], "g": {}}
    assert sorted(leaves(section)) == [("a",), ("d", "0", "e"), ("f",), ("g",)]
