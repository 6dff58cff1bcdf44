"""The survey's six ways to elicit knowledge, each a small spec, built end to end on the real SmolLM2-135M-Instruct."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdbuild import records
from kdbuild.records import Dropped, Row

HERE = Path(__file__).parent
METHODS = HERE / "specs" / "methods"
SPECS = sorted(path.stem for path in METHODS.glob("*.yaml"))


@pytest.fixture(scope="module")
def project(tmp_path_factory, new_project):
    root = tmp_path_factory.mktemp("methods") / "p"
    shutil.copytree(METHODS / "seeds", root / "specs" / "seeds")
    found = new_project(root, {"params.yaml": (HERE.parent / "params.yaml").read_text()})
    for name in SPECS:
        shutil.copy(METHODS / f"{name}.yaml", root / "specs")
    found.kdbuild("compile")
    return found


def test_every_method_has_a_spec_that_checks(project):
    assert set(SPECS) == {"labeling", "expansion", "textbook", "documents", "feature", "feedback", "self-knowledge"}
    assert project.kdbuild("check").text.count(": ok") == len(SPECS)


@pytest.mark.real
@pytest.mark.parametrize("name", SPECS)
def test_a_method_builds_a_student(project, name):
    project.kdbuild("build", name, "--yes")
    metrics = project.json(f"artifacts/{name}/metrics.json")
    assert metrics
    for facts in sorted((project.root / "artifacts" / name).glob("*/elicit.json")):
        phase = facts.parent
        found = json.loads(facts.read_text())
        kept = [row for row in records.read_dataset(phase / "selected", Row) if not row.held_out]
        rejected = records.read_dataset(phase / "elicited" / records.REJECTED, Dropped)
        asked = sum(operator["num_asked"] for operator in found["operators"])
        print(f"\n== {name}/{phase.name}: {asked} asked, {found['num_rows']} rows, {len(rejected)} rejected, {len(kept)} to train on")
        for operator in found["operators"]:
            print("  ", json.dumps(operator))
        print("  ", json.dumps(found["num_rejected"]))
        for row in kept[:3]:
            print(f"   - {row.prompt[-1].content[:160]!r} -> {(row.answer or '')[:200]!r}")
        assert kept
        assert all(row.keys for row in records.read_dataset(phase / "elicited", Row))
    print(json.dumps(metrics))
    assert project.kdbuild("plan", name).text.strip().endswith("nothing to do")
