"""A data set of stored signals: written, opened, refused where it is torn."""

import json

import numpy as np
import pytest
import torch

from kdbuild import records
from kdbuild.errors import ArtifactError
from kdbuild.records import Feature, Message
from kdbuild.teachers import Answer, Ask, Reading, _feature_files, _features
from kdbuild.teachers._feature_files import FeatureFiles, Offer, Source, feature, write_features
from kdbuild.teachers._vocabulary import Vocabulary

WORDS = Vocabulary((b"a", b"\xff", b" b", b"<|end|>"), frozenset({3}))
TURNS = (Message("user", "Why?"), Message("assistant", "So.", train=True))


def signals_of(reading, seed, length=5):
    chance = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 30, (length,), generator=chance)
    if reading.form == "hidden":
        return _features.encode_hidden({-1: torch.randn(length, 4, generator=chance)}, None, tokens)
    return _features.encode_distributions(torch.randn(length, 30, generator=chance), tokens, reading, seed)


def some(reading, rows=("r/1", "r2"), actors=("teacher",)):
    made = []
    for row in rows:
        for actor in actors:
            answer = Answer("", True, 9, 0, payload=signals_of(reading, len(made)))
            made.append(feature(Ask(row, TURNS, to=actor, reading=reading), f"{len(made):064x}", answer, "{}"))
    return made


def written(folder, made, reading, actors=("teacher",), **changes):
    folder.mkdir(exist_ok=True)
    sources = {actor: Source(f"name-{actor}", {"model": "m", "revision": "1"}, WORDS) for actor in actors}
    write_features(folder, made, [Offer(reading, tuple(actors), None)], {**sources, **changes})
    return FeatureFiles(folder)


@pytest.mark.parametrize("reading", [Reading("top-k", 4), Reading("sampled", 3), Reading("full"), Reading("hidden", layers=(-1,))], ids=str)
def test_what_is_written_is_read_back(tmp_path, reading):
    made = some(reading)
    files = written(tmp_path / "features", made, reading)
    assert list(files) == made
    assert files.offers == (Offer(reading, ("teacher",), None),)
    assert files.teachers["teacher"]["name"] == "name-teacher"
    assert files.vocabulary("teacher") == WORDS
    for one in made:
        (found,) = files.of_row(one.id, files.offers[0])
        expected = _features.decode(one.payload)
        assert files.token_ids(found).tolist() == expected.token_ids_T.tolist()
        got = files.signals(found)
        if reading.form == "hidden":
            assert np.array_equal(got.states[-1], expected.states[-1])
        else:
            assert np.array_equal(got.logprobs_TK, expected.logprobs_TK)
            assert files.answer_nats(found) == expected.answer_nats
        if reading.form == "full":
            assert np.array_equal(files.full_rows(found, 1, 3), expected.logprobs_TK[1:3])


def test_arrays_lie_in_safetensors_and_packed_rows_in_the_column(tmp_path):
    written(tmp_path / "full", some(Reading("full")), Reading("full"))
    written(tmp_path / "top", some(Reading("top-k", 4)), Reading("top-k", 4))
    assert {path.name for path in (tmp_path / "full").iterdir()} >= {"part-0.safetensors", "part-0.parquet"}
    assert not list((tmp_path / "top").glob("*.safetensors"))
    assert all(one.payload == b"" for one in records.read_dataset(tmp_path / "full", Feature))
    assert all(one.payload for one in records.read_dataset(tmp_path / "top", Feature))


def test_the_manifest_says_who_read_what(tmp_path):
    reading = Reading("top-k", 4)
    written(tmp_path / "f", some(reading), reading)
    manifest = json.loads((tmp_path / "f" / "manifest.json").read_text())
    assert manifest["record"] == "Feature"
    assert manifest["num_rows"] == 2
    assert manifest["readings"][0]["reading"]["k"] == 4
    assert manifest["readings"][0]["reading"]["form"] == "top-k"
    assert manifest["teachers"]["teacher"]["identity"] == {"model": "m", "revision": "1"}


def test_bytes_do_not_depend_on_the_order_of_the_rows(tmp_path):
    for reading in (Reading("top-k", 4), Reading("hidden", layers=(-1,))):
        made = some(reading)
        for name, rows in (("a", made), ("b", made[::-1])):
            written(tmp_path / name, rows, reading)
        files = sorted(path.name for path in (tmp_path / "a").iterdir())
        assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
        assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_row_has_all_its_actors_or_none(tmp_path):
    reading = Reading("top-k", 4)
    made = some(reading, rows=("r1", "r2"), actors=("a", "b"))
    files = written(tmp_path / "f", made[:-1], reading, actors=("a", "b"))
    assert [one.actor for one in files.of_row("r1", files.offers[0])] == ["a", "b"]
    assert files.of_row("r2", files.offers[0]) == []
    assert files.of_row("absent", files.offers[0]) == []


def test_a_teacher_without_a_known_vocabulary(tmp_path):
    reading = Reading("top-k", 4)
    files = written(tmp_path / "f", some(reading), reading, teacher=Source("t", {}, None))
    assert files.vocabulary("teacher") is None


def test_torn_data_sets_are_refused(tmp_path):
    reading = Reading("full")
    folder = tmp_path / "f"
    files = written(folder, some(reading), reading)
    other = Vocabulary((b"b",), frozenset())
    text = (folder / "vocabulary-teacher.json").read_text()
    other.write(folder / "vocabulary-teacher.json")
    with pytest.raises(ArtifactError, match="vocabulary"):
        files.vocabulary("teacher")
    with pytest.raises(ArtifactError, match="bytes"):
        FeatureFiles(folder)
    (folder / "vocabulary-teacher.json").write_text(text)
    FeatureFiles(folder)
    records.write_manifest(folder, {"record": "Feature", "num_rows": 2})
    with pytest.raises(ArtifactError, match="who read"):
        FeatureFiles(folder)
    (folder / "part-0.safetensors").unlink()
    with pytest.raises(ArtifactError, match="part-0"):
        FeatureFiles(folder)


def test_a_manifest_cannot_name_a_file_outside(tmp_path):
    reading = Reading("top-k", 4)
    folder = tmp_path / "f"
    written(folder, some(reading), reading)
    WORDS.write(tmp_path / "secret.json")
    (folder / "vocabulary-").mkdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    actor = "/../../secret"
    manifest["teachers"] = {actor: manifest["teachers"]["teacher"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="no vocabulary"):
        FeatureFiles(folder).vocabulary(actor)


def test_an_operator_offers_what_it_reads():
    from kdbuild import kinds

    operator = kinds.parse("elicitors", {"kind": "logits", "k": 5, "by": ["a", "b"]})
    assert _feature_files.offer_of(operator) == Offer(Reading("top-k", 5), ("a", "b"), "average")
