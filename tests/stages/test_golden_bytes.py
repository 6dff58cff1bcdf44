"""The bytes of each step whose output is the same on every machine: they may change only together with a revision.

Whoever changes a step or a kind on purpose raises `STEP_REVISIONS[step]` or the kind's `kind_revision`, and writes the digest that this
test prints into golden_bytes.json. Train and evaluate are not here: their low bits depend on the machine.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from kdbuild.compile.stages import STEP_REVISIONS
from kdbuild.kinds import load

GOLDEN = json.loads((Path(__file__).parent / "golden_bytes.json").read_text())
KINDS = [
    ("seeds", "dataset"),
    ("seeds", "documents"),
    ("elicitors", "label"),
    ("selectors", "exact-dedup"),
    ("selectors", "semantic-dedup"),
]
SPEC = """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/t.jsonl}
held_out_frac: 0.3
phases:
  data:
    elicit: [{kind: label, max_new_tokens: 16}]
    select: [{kind: exact-dedup}, {kind: semantic-dedup, of: prompt, max_cosine: 0.6}]
"""


def _digest(path: Path) -> str:
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(f.name.encode() + hashlib.sha256(f.read_bytes()).digest() for f in files)).hexdigest()[:16]


@pytest.fixture(scope="module")
def built(request, tmp_path_factory, new_project):
    specs = request.config.rootpath / "tests" / "specs"
    seeds = (specs / "seeds" / "table.jsonl").read_text()
    files = {
        "params.yaml": (specs / "table-fake.params.yaml").read_text(),
        "specs/t.yaml": SPEC,
        "specs/seeds/t.jsonl": seeds + '{"id": "twin", "prompt": "Describe the sea in one short sentence."}\n',
    }
    project = new_project(tmp_path_factory.mktemp("golden"), files)
    for step in (("elicit", "t", "data"), ("select", "t", "data"), ("report", "t")):
        project.kdbuild("stage", *step)
    return project


@pytest.mark.parametrize(
    "path", ["data/elicited", "data/calls", "data/elicit.json", "data/selected", "data/dropped", "data/select.json", "report.html"]
)
def test_bytes_change_only_with_a_revision(built, path):
    revisions = {step: STEP_REVISIONS[step] for step in ("elicit", "select", "report")}
    revisions |= {kind: load(family, kind).kind_revision for family, kind in KINDS}
    found = {"revisions": dict(sorted(revisions.items())), "digest": _digest(built.root / "artifacts" / "t" / path)}
    assert found == GOLDEN.get(path), f"write this into golden_bytes.json if a revision was raised:\n{json.dumps({path: found})}"


def test_the_golden_set_drops_a_row(built):
    assert built.json("artifacts/t/data/select.json")["num_dropped"]
