"""Data sets as directories: what is written is read back, the bytes depend on the rows alone, and damage is told."""

from __future__ import annotations

import random

import pytest

from kdbuild import records
from kdbuild.errors import ArtifactError
from kdbuild.records import Call, Dropped, Message, Row

ROW = Row(
    id="r1",
    messages=(Message("user", "Why?"), Message("assistant", "Because.", train=True, ended=False)),
    parents=("s1",),
    roots=("s1",),
    keys=("k",),
    held_out=True,
    context=({"doc_id": "d", "text": "t", "score": 0.5},),
    candidates=({"text": "a", "source": "b", "logprob": -1.0, "score": None, "ended": True},),
    ranking=(1, 0),
    scores={"b": 2.0, "a": 1.0},
    trajectory=({"thought": "t", "action": "a", "args": "{}", "observation": "o"},),
    media={"type": "image", "path": "p", "text_view": "v"},
    meta={"topic": "x"},
    gold="G",
    weight=0.25,
)


@pytest.mark.parametrize(
    "rows", [[ROW], [], [Row(id="plain")], [Dropped("d", "exact-dedup", "duplicate", "r1", 1.0, "text")], [Call("r", "k", 8, "{}")]]
)
def test_what_is_written_is_read_back(tmp_path, rows):
    record = type(rows[0]) if rows else Row
    records.write_dataset(tmp_path, record, rows)
    assert records.read_dataset(tmp_path, record) == rows


def test_the_order_of_rows_does_not_count(tmp_path):
    rows = [Row(id=f"r{i}", messages=(Message("user", str(i)),)) for i in range(50)]
    texts = []
    for name in ("one", "two"):
        random.Random(name).shuffle(rows)
        (tmp_path / name).mkdir()
        records.write_dataset(tmp_path / name, Row, rows)
        texts.append([(f.name, f.read_bytes()) for f in sorted((tmp_path / name).iterdir())])
    assert texts[0] == texts[1]


def test_one_edited_row_changes_one_shard_of_a_large_set(tmp_path):
    rows = [Dropped(f"r{i}", "by", "reason") for i in range(10_000)]
    found = []
    for name, reason in (("before", "reason"), ("after", "another")):
        (tmp_path / name).mkdir()
        records.write_dataset(tmp_path / name, Dropped, [*rows[:-1], Dropped("r9999", "by", reason)])
        found.append({f.name: f.read_bytes() for f in (tmp_path / name).glob("*.parquet")})
    assert len(found[0]) == 16
    assert sum(found[0][name] != found[1][name] for name in found[0]) == 1


def test_damage_is_told(tmp_path):
    records.write_dataset(tmp_path, Row, [ROW])
    part = tmp_path / "part-0.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"has {len(content) - 1} bytes; its manifest says {len(content)}"):
        records.read_dataset(tmp_path, Row)
    part.write_bytes(content[:-1] + b"x")
    records.read_manifest(tmp_path)
    with pytest.raises(ArtifactError, match="does not have the sha256"):
        records.read_manifest(tmp_path, hashes=True)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is torn"):
        records.read_dataset(tmp_path, Row)


def test_another_kind_of_rows_is_refused(tmp_path):
    records.write_dataset(tmp_path, Row, [ROW])
    with pytest.raises(ArtifactError, match="holds Row rows, not Dropped"):
        records.read_dataset(tmp_path, Dropped)


def test_descendants_are_held_out_with_any_of_their_seeds():
    seeds = [Row(id=f"s{i}") for i in range(400)]
    held = {seed.id for seed in seeds if records.is_held_out(seed, 0.2)}
    assert 50 < len(held) < 110
    inside, outside = sorted(held)[0], next(seed.id for seed in seeds if seed.id not in held)
    assert records.is_held_out(Row(id="x", roots=(outside, inside)), 0.2)
    assert not records.is_held_out(Row(id="x", roots=(outside,)), 0.2)


def test_content_of_files_and_folders(tmp_path):
    (tmp_path / "a").write_text("1")
    one = records.content_digest(tmp_path)
    (tmp_path / "a").write_text("2")
    assert records.content_digest(tmp_path) != one
    assert records.content_digest(tmp_path / "a") == records.sha256_of(tmp_path / "a")
    assert records.content_digest(tmp_path / "nothing") == records.content_digest(tmp_path / "nothing at all")


def test_a_data_set_can_be_read_in_part(tmp_path):
    calls = [Call(f"r{i}", f"{i % 3:064x}", 8, "{}") for i in range(12)]
    records.write_dataset(tmp_path, Call, calls)
    found = records.read_dataset(tmp_path, Call, any_of={"id": {"r1", "r2", "nobody"}, "key": [f"{0:064x}"]})
    assert {call.id for call in found} == {"r1", "r2", "r0", "r3", "r6", "r9"}
    assert records.read_dataset(tmp_path, Call, any_of={"id": (), "key": ()}) == []
