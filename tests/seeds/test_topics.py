import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from kdbuild.errors import RowError, SourceError
from kdbuild.seeds.topics import Topics


def read(root, text, name="t.yaml", **fields):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(Topics(path=name, **fields).rows(root))


def metas(rows):
    return [row.meta for row in rows]


TIDES, SORTING = {"kind": "topic", "value": "tides"}, {"kind": "topic", "value": "sorting", "level": "2"}


def test_every_format_gives_the_same_rows(tmp_path):
    expected = read(tmp_path, "- tides\n- {value: sorting, level: 2}\n")
    assert metas(expected) == [TIDES, SORTING]
    assert read(tmp_path, "topic: [tides, {value: sorting, level: 2}]") == expected
    assert read(tmp_path, '{"value": "tides"}\n{"topic": "sorting", "level": 2}\n', "t.jsonl") == expected
    assert read(tmp_path, "topic,level\ntides,\nsorting,2\n", "t.csv") == expected
    pq.write_table(pa.table({"value": ["tides", "sorting"], "level": [None, 2]}), tmp_path / "t.parquet")
    assert list(Topics(path="t.parquet").rows(tmp_path)) == expected
    assert read(tmp_path, "\ufefftides\r\n\n  sorting \n", "t.txt") == list(Topics(topics=["tides", "sorting"]).rows(tmp_path))


def test_lists_by_kind_and_what_an_entry_says_itself(tmp_path):
    rows = read(tmp_path, "label: [good, bad]\nentity:\n  - {value: Oslo, kind: city}\n")
    assert metas(rows) == [{"kind": "label", "value": "good"}, {"kind": "label", "value": "bad"}, {"kind": "city", "value": "Oslo"}]
    assert metas(Topics(topics=["a"], means="persona").rows(tmp_path)) == [{"kind": "persona", "value": "a"}]


def test_a_triple_is_made_of_its_columns(tmp_path):
    (row,) = read(tmp_path, "head,relation,tail\nOslo,capital of,Norway\n", "t.csv", means="triple", columns=["head", "relation", "tail"])
    expected = {"head": "Oslo", "relation": "capital of", "tail": "Norway", "kind": "triple", "value": "Oslo | capital of | Norway"}
    assert row.meta == expected


def test_ids_are_given_or_a_digest_of_the_content_and_equal_ones_are_numbered(tmp_path):
    rows = read(tmp_path, "- {id: mine, value: tides}\n- sorting\n- sorting\n- {value: 2026-01-31, exact: true}\n")
    assert rows[0].id == "mine"
    assert rows[2].id == f"{rows[1].id}-2"
    assert rows[1].id == next(Topics(topics=["sorting"]).rows(tmp_path)).id
    assert rows[3].meta == {"kind": "topic", "value": "2026-01-31", "exact": "true"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.yaml", "- a\n- {valeu: b}\n", "t.yaml:2 has no `value`: valeu: 'b'"),
        ("t.yaml", "- a\n- [b]\n", "t.yaml:2: `value` is not a text or a number"),
        ("t.yaml", "- a\n- \n", "t.yaml:2 has no `value`"),
        ("t.yaml", "label:\n  - good\n  - {level: 1}\n", "t.yaml:3 has no `value`"),
        ("t.yaml", "label: good\n", "t.yaml:1: `label` is not a list"),
        ("t.yaml", "just a text\n", "t.yaml holds no rows"),
        ("t.yaml", "", "t.yaml holds no rows"),
        ("t.yaml", "- a\n- 'b\n", "t.yaml:3 is not YAML"),
        ("t.yaml", "- a\n- &x b\n- *x\n", "t.yaml:3 holds an alias"),
        ("t.yaml", "- a\n- !!python/object:os.system b\n", "t.yaml:2: the tag"),
        ("t.yaml", "- {value: a, value: b}\n", "t.yaml:1: `value` is given twice"),
        ("t.yaml", "- " + "[" * 20_000, "more than 32 deep"),
        ("t.yaml", b"- a\n- \xe9\n", "t.yaml:2 is not UTF-8"),
        ("t.txt", b"a\nb\xe9\n", "t.txt:2 is not UTF-8"),
        ("t.txt", "\n \n", "t.txt holds no rows"),
        ("t.csv", "topic\na\nb,c\n", "t.csv:3 has 2 fields"),
        ("t.jsonl", '{"value": "a"}\n{"value": "a\\u0000"}\n', "t.jsonl:2: `value` holds a NUL"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, name, text, message):
    with pytest.raises(RowError) as caught:
        read(tmp_path, text, name)
    assert message in caught.value.message


def test_a_file_that_is_not_there_and_blocks_that_make_no_sense(tmp_path):
    with pytest.raises(SourceError, match=r"t\.yaml is not there"):
        list(Topics(path="t.yaml").rows(tmp_path))
    for fields, message in [
        ({}, "topics stand in"),
        ({"topics": ["a"], "path": "t.txt"}, "topics stand in"),
        ({"path": "t.xls"}, "not a .yaml"),
    ]:
        with pytest.raises(ValidationError, match=message):
            Topics(**fields)
