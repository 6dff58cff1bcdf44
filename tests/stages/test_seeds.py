import platform

import pytest

from kdbuild import records
from kdbuild.errors import RowError, SourceError
from kdbuild.kinds import identity
from kdbuild.records import Row
from kdbuild.seeds.dataset import Dataset
from kdbuild.seeds.documents import Documents
from kdbuild.spec.model import Params
from kdbuild.spec.sections import SeedsSection
from kdbuild.stages import seeds
from kdbuild.stages.job import Job

DOCUMENTS = Documents(package="python", modules=["json"])


def job_of(root, kind, outside):
    section = {**identity(SeedsSection(seeds=kind, outside=outside)), "_key": "k"}
    return Job(root=root, spec="docs", step="seeds", phase=None, section=section, params=Params())


def test_the_rows_are_copied_into_a_data_set(tmp_path):
    job = job_of(tmp_path, DOCUMENTS, DOCUMENTS.outside())
    seeds.run(job)
    job.finish()
    rows = records.read_dataset(tmp_path / "artifacts/docs/seeds/rows", Row)
    assert rows == sorted(DOCUMENTS.rows(tmp_path), key=lambda row: row.id)
    assert {"json", "json.dumps"} <= {row.id for row in rows}


def test_the_same_rows_are_the_same_bytes(tmp_path):
    files = []
    for name in ("one", "other"):
        job = job_of(tmp_path / name, DOCUMENTS, DOCUMENTS.outside())
        seeds.run(job)
        job.finish()
        folder = tmp_path / name / "artifacts/docs/seeds/rows"
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]
    assert str(tmp_path).encode() not in b"".join(files[0].values())


def test_another_version_than_was_compiled_stops_the_stage(tmp_path):
    with pytest.raises(SourceError, match=rf"version 3\.0\.0 -> {platform.python_version()}") as caught:
        seeds.run(job_of(tmp_path, DOCUMENTS, {"package": "python", "version": "3.0.0"}))
    assert "kdbuild compile" in str(caught.value)


def test_a_bad_row_leaves_no_data_set(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"prompt": "x"}\nno row\n')
    job = job_of(tmp_path, Dataset(path="s.jsonl"), {})
    with pytest.raises(RowError, match=r"s\.jsonl:2"):
        seeds.run(job)
    job.discard()
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
