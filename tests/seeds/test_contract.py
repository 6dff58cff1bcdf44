import json

import pytest

from kdbuild import kinds, records
from kdbuild.records import Row

EXAMPLES = {
    "api": {"path": "tools.py"},
    "dataset": {"path": "seeds.jsonl"},
    "documents": {"package": "python", "modules": ["json", "textwrap"]},
    "media": {"path": "media.jsonl", "folder": "pictures"},
    "none": {"num_rows": 12},
    "topics": {"path": "topics.yaml"},
}
"""One configuration of every kind; a new kind adds its own."""
OTHERS = [
    ("api", {"package": "python.statistics"}),
    ("dataset", {"path": "mixed.jsonl"}),
    ("documents", {"path": "docs", "chunk_chars": 200, "min_chars": 1}),
    ("none", {"num_rows": 11, "prompt": "Write anything."}),
    ("topics", {"topics": [f"topic {i}" for i in range(11)]}),
]
"""Another configuration of some."""


@pytest.fixture
def root(tmp_path):
    rows = [{"prompt": f"What is {number} + 1?"} for number in range(30)] + [{"id": "named", "prompt": "Say hello."}]
    mixed = [{"context": f"Passage {i}.", "meta": {"page": i}} for i in range(8)] + [{"prompt": f"Why {i}?", "label": i} for i in range(8)]
    (tmp_path / "pictures").mkdir()
    (tmp_path / "docs").mkdir()
    for i in range(11):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(bytes([i]))
        (tmp_path / "docs" / f"{i}.md").write_text(f"# Part {i}\n\n" + " ".join(f"Sentence {i * n} ends here." for n in range(20)))
    media = [{"type": "image", "path": f"{i}.png", "text_view": f"Picture {i}."} for i in range(11)]
    for name, records_of in (("seeds", rows), ("mixed", mixed), ("media", media)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records_of))
    (tmp_path / "topics.yaml").write_text("".join(f"- topic {i}\n- {{value: more {i}, level: {i}}}\n" for i in range(6)))
    (tmp_path / "tools.py").write_text("".join(f'def tool{i}(x: int) -> int:\n    """Add {i}."""\n' for i in range(11)))
    return tmp_path


@pytest.fixture(params=[*EXAMPLES.items(), *OTHERS], ids=lambda case: "-".join([case[0], *map(str, case[1])]))
def seeds(request):
    kind, given = request.param
    return kinds.parse("seeds", {"kind": kind, **given})


def test_every_kind_has_an_example():
    assert sorted(EXAMPLES) == list(kinds.available("seeds"))


def test_rows_are_the_same_each_time_and_ids_are_unique(seeds, root):
    rows = list(seeds.rows(root))
    assert rows == list(seeds.rows(root))
    assert len({row.id for row in rows}) == len(rows) > 10


def test_every_row_is_a_root_that_teaches_nothing_yet_and_has_what_its_kind_writes(seeds, root):
    for row in seeds.rows(root):
        assert (row.parents, row.roots, row.keys, row.held_out) == ((), (), (), False)
        assert not any(message.train for message in row.messages)
        has = {name for name in records.as_json(row) if name not in ("id", "messages")} | ({"prompt"} if row.messages else set())
        assert has == set(seeds.writes) or "*" in seeds.writes or (seeds.kind, has) == ("media", {"media"})
        if row.messages:
            assert row.messages[-1].role == "user"
            assert row.messages[-1].content.strip()


def test_ids_do_not_depend_on_where_the_files_lie(seeds, root, tmp_path_factory):
    if seeds.outside() is not None or not seeds.files():
        return
    ids = {row.id for row in seeds.rows(root)}
    moved = tmp_path_factory.mktemp("moved")
    for name in seeds.files():
        (moved / "deep").mkdir(exist_ok=True)
        (root / name).rename(moved / "deep" / name)
    there = {"path": f"deep/{seeds.path}", **({"folder": f"deep/{seeds.folder}"} if seeds.kind == "media" else {})}
    assert {row.id for row in seeds.model_copy(update=there).rows(moved)} == ids


def test_rows_survive_being_written(seeds, root, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    records.write_dataset(folder, Row, seeds.rows(root))

    def plain(rows):
        return [records.as_json(row) for row in sorted(rows, key=lambda row: row.id)]

    assert plain(records.read_dataset(folder, Row)) == plain(seeds.rows(root))


def test_what_it_reads_is_in_the_project_or_outside_or_in_the_spec(seeds, root):
    assert not (seeds.files() and seeds.outside())
    assert all((root / path).exists() for path in seeds.files())
    assert all(isinstance(value, str) for value in (seeds.outside() or {}).values())


def test_it_survives_resolved_json(seeds):
    assert kinds.parse("seeds", json.loads(json.dumps(seeds.identity()))) == seeds
