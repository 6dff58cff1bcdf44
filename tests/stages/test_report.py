import importlib.util
from pathlib import Path

import pytest

from kdbuild import records
from kdbuild.errors import ArtifactError
from kdbuild.stages import report


def _conftest():
    spec = importlib.util.spec_from_file_location("report_conftest", Path(__file__).parents[1] / "report" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def whole(tmp_path):
    project = _conftest().Project(tmp_path)
    project.write_data()
    project.write_training()
    project.write_evaluation()
    return project


def outputs(root):
    return {path: (root / "artifacts/helper" / path).read_bytes() for path in OUTPUTS}


OUTPUTS = ["report.html", "evaluate/cards/manifest.json", "evaluate/cards/dataset/README.md", "evaluate/cards/model/README.md"]


def test_it_writes_the_page_and_both_cards(whole):
    job = whole.job()
    report.run(job)
    job.finish()
    found = outputs(whole.root)
    assert found["report.html"].startswith(b"<!doctype html>")
    manifest = records.read_manifest(whole.root / "artifacts/helper/evaluate/cards", hashes=True)
    assert set(manifest["files"]) == {"dataset/README.md", "model/README.md"}


def test_equal_inputs_give_equal_bytes_wherever_the_project_lies(whole, tmp_path_factory):
    import shutil

    job = whole.job()
    report.run(job)
    job.finish()
    first = outputs(whole.root)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.copytree(whole.root, elsewhere)
    job.root = elsewhere
    report.run(job)
    job.finish()
    assert outputs(elsewhere) == first
    assert all(str(whole.root).encode() not in text for text in first.values())


def test_a_torn_input_leaves_the_old_report(whole):
    job = whole.job()
    report.run(job)
    job.finish()
    first = outputs(whole.root)
    (whole.root / "artifacts/helper/sft/calls/part-0.parquet").write_bytes(b"")
    job = whole.job()
    with pytest.raises(ArtifactError, match=r"part-0\.parquet has 0 bytes"):
        report.run(job)
    job.discard()
    assert outputs(whole.root) == first
