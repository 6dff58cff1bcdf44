import json

import pytest

from kdbuild import kinds, records

EXAMPLES = {
    "dataset": {"path": "seeds.jsonl"},
    "documents": {"package": "python", "modules": ["json", "textwrap"]},
}
"""One configuration of every kind; a new kind adds its own."""


@pytest.fixture
def root(tmp_path):
    rows = [{"prompt": f"What is {number} + 1?"} for number in range(30)] + [{"id": "named", "prompt": "Say hello."}]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture(params=kinds.available("seeds"))
def seeds(request):
    return kinds.parse("seeds", {"kind": request.param, **EXAMPLES[request.param]})


def test_rows_are_the_same_each_time_and_ids_are_unique(seeds, root):
    rows = list(seeds.rows(root))
    assert rows == list(seeds.rows(root))
    assert len({row.id for row in rows}) == len(rows) > 10


def test_every_row_is_a_root_and_ends_with_a_user_turn_that_has_text(seeds, root):
    for row in seeds.rows(root):
        assert row.messages[-1].role == "user"
        assert row.messages[-1].content.strip()
        assert not any(message.train for message in row.messages)
        assert (row.parents, row.roots, row.keys, row.held_out) == ((), (), (), False)


def test_rows_survive_being_written(seeds, root, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    records.write_dataset(folder, records.Row, seeds.rows(root))
    assert records.read_dataset(folder, records.Row) == sorted(seeds.rows(root), key=lambda row: row.id)


def test_it_reads_files_of_the_project_or_says_what_identifies_its_source(seeds):
    assert bool(seeds.files()) != bool(seeds.outside())
    assert all(isinstance(value, str) for value in (seeds.outside() or {}).values())


def test_it_survives_resolved_json(seeds):
    assert kinds.parse("seeds", json.loads(json.dumps(seeds.identity()))) == seeds
