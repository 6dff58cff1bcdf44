"""Documents of the project's files, and how they are cut."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdbuild.errors import RowError, SourceError
from kdbuild.records import Message
from kdbuild.seeds import _chunks, _html
from kdbuild.seeds.documents import Documents


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def read(root, path="docs", **fields):
    return list(Documents(**{"path": path, "min_chars": 1, **fields}).rows(root))


def texts(rows):
    return [row.context[0]["text"] for row in rows]


# --- files -------------------------------------------------------------------------------------------------------------------


def test_each_file_of_a_folder_is_read_by_its_format(tmp_path):
    write(
        tmp_path,
        docs__a_dot_md="# Title\n\nText.",
        docs__b_dot_txt=b"\xef\xbb\xbfPlain.\r\n",
        docs__c_dot_html="<head><title>x</title></head><p>Seen &amp; read.</p>",
        docs__deep__d_dot_py="def f():\n    return 1\n",
        docs__e_dot_jsonl='{"text": "One."}\n{"id": "two", "content": "Two."}\n',
        docs__f_dot_png=b"\x89PNG\xff",
    )
    write(tmp_path, **{"docs__.hidden.txt": "No.", "docs__.git__x.txt": "No."})
    rows = read(tmp_path)
    assert texts(rows) == ["# Title\n\nText.", "Plain.", "Seen & read.", "def f():\n    return 1", "One.", "Two."]
    assert [row.meta["document"] for row in rows][3:5] == ["docs/deep/d.py", "docs/e.jsonl"]
    assert [row.context[0]["doc_id"] for row in rows] == [row.id for row in rows[:5]] + ["two"]
    assert all(row.messages == () and row.context[0]["score"] is None for row in rows)
    assert texts(read(tmp_path, "docs/**/*.py")) == ["def f():\n    return 1"]
    assert texts(read(tmp_path, "docs/b.txt")) == ["Plain."]
    assert [Documents(path=path).files() for path in ("docs", "docs/**/*.py", "docs/b.txt")] == [("docs",), ("docs",), ("docs/b.txt",)]


def test_a_prompt_is_written_where_the_spec_has_one(tmp_path):
    write(tmp_path, docs__a_dot_md="Text.")
    (row,) = read(tmp_path, prompt="{name}: {text}")
    assert row.messages == (Message("user", "docs/a.md: Text."),)
    assert row.id == read(tmp_path)[0].id
    assert (Documents(path="docs", prompt="{text}").writes, Documents(path="docs").writes) == (
        ("prompt", "context", "meta"),
        ("context", "meta"),
    )


def test_one_text_in_two_files_is_two_rows(tmp_path):
    write(tmp_path, docs__a_dot_md="Text.", docs__b_dot_md="Text.", docs__c_dot_md="Other.")
    one, two, other = read(tmp_path)
    assert (two.id, other.id in (one.id, two.id)) == (f"{one.id}-2", False)
    assert len(read(tmp_path, max_rows=2)) == 2


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("docs__a.md", b"fine\ncaf\xe9\n", RowError, "docs/a.md:2 is not UTF-8: fine\\ncaf\\xe9"),
        ("docs__a.md", "fine\n\0", RowError, "docs/a.md:2 holds a NUL character"),
        ("docs__a.jsonl", '{"text": "x"}\n{"texts": "y"}', RowError, "docs/a.jsonl:2 has no text"),
        ("docs__a.jsonl", '{"text": "x"', RowError, "docs/a.jsonl:1 is not JSON"),
        ("docs__a.png", b"x", SourceError, "seeds path docs names no file that can be read"),
        ("other__a.md", "x", SourceError, "seeds path docs is not there"),
        ("docs__a.md", "\n \n", SourceError, "nothing in docs has documentation of 1 characters or more"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, name, text, error, message):
    write(tmp_path, **{name: text})
    with pytest.raises(error) as caught:
        read(tmp_path)
    assert caught.value.message.startswith(message)


def test_a_link_out_of_the_project_is_refused(tmp_path):
    write(tmp_path, secret_dot_md="Secret.", project__docs__a_dot_md="Text.")
    (tmp_path / "project" / "docs" / "b.md").symlink_to(tmp_path / "secret.md")
    with pytest.raises(SourceError, match=r"docs/b\.md leads out of the project"):
        read(tmp_path / "project")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either a `path`"),
        ({"path": "docs", "package": "json"}, "either a `path`"),
        ({"path": "docs", "modules": ["json"]}, "go with `package`"),
        ({"path": "docs/a.pdf"}, "not of a format that is read"),
        ({"path": "*.md"}, "begins with a wildcard"),
        ({"path": "../docs"}, "goes up"),
        ({"path": "docs", "min_chars": 500, "chunk_chars": 400}, "min_chars 500 is more than chunk_chars 400"),
    ],
)
def test_a_block_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValidationError) as caught:
        Documents(**fields)
    assert message in caught.value.errors()[0]["msg"]


# --- chunks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("One two.", 32, ["One two."]),
        ("\n\n  Indented.\n", 32, ["  Indented."]),
        # The second half of the window holds a paragraph's end: it wins over the sentence's.
        ("One one one. Two.\n\nThree. Four four four.", 28, ["One one one. Two.", "Three. Four four four."]),
        ("One one. Two two two. Three three three.", 24, ["One one. Two two two.", "Three three three."]),
        ("a" * 10 + " " + "b" * 30, 12, ["a" * 10, "b" * 12, "b" * 12, "b" * 6]),
        ("# A\n\nOne one.\n\n# B\n\nTwo two two.", 22, ["# A\n\nOne one.", "# B\n\nTwo two two."]),
        ("```\nx = 1\n\ny = 2\n```\n\nText after it.", 24, ["```\nx = 1\n\ny = 2\n```", "Text after it."]),
    ],
)
def test_a_text_is_cut_where_something_ends(text, most, expected):
    assert list(_chunks.chunks(text, most, _chunks.in_text)) == expected


def test_python_is_cut_between_functions():
    functions = [f"@cached\ndef f{i}(x):\n    y = x\n\n    return y + {i}" for i in range(4)]
    assert list(_chunks.chunks("\n\n\n".join(functions), 60, _chunks.in_python)) == functions
    assert list(_chunks.chunks("class A:\n    def a(self):\n        return 1\n\n    def b(self): ...\n", 45, _chunks.in_python)) == [
        "class A:\n    def a(self):\n        return 1",
        "    def b(self): ...",
    ]


def test_other_code_is_cut_at_blank_lines_before_the_outer_level():
    functions = [f"int f{i}(int x) {{\n  int y = x;\n\n  return y + {i};\n}}" for i in range(3)]
    assert list(_chunks.chunks("\n\n".join(functions), 60, _chunks.in_code)) == functions
    broken = "def f(:\n  x\n\ndef g():\n  y\n"
    assert _chunks.in_python(broken) == _chunks.in_code(broken)


PIECES = st.lists(st.sampled_from(["word", "Sentence ends. ", "\n\n", "\n", "# Head\n", "```\n", "    code\n", "é一。"]), max_size=60).map(
    "".join
)


@given(PIECES, st.integers(8, 80), st.sampled_from([_chunks.in_text, _chunks.in_code, _chunks.in_python]))
def test_nothing_but_space_is_lost_and_no_chunk_is_too_long(text, most, boundaries):
    found = list(_chunks.chunks(text, most, boundaries))
    assert re.sub(r"\s", "", "".join(found)) == re.sub(r"\s", "", text)
    assert all(len(part) <= most and part.strip() for part in found)


def test_an_edit_changes_the_chunks_near_it_only(tmp_path):
    paragraphs = [f"Paragraph {i} is about {i * 7919 % 1000}. " + "It goes on a little. " * (i % 5) for i in range(200)]
    before = set(_chunks.chunks("\n\n".join(paragraphs), 400, _chunks.in_text))
    after = set(_chunks.chunks("\n\n".join([*paragraphs[:10], "New here.", *paragraphs[10:]]), 400, _chunks.in_text))
    assert len(before) > 40
    assert len(after - before) <= 4


# --- HTML --------------------------------------------------------------------------------------------------------------------


def test_the_text_of_a_page_is_what_a_reader_sees():
    page = """<!doctype html><html><head><title>T</title><style>p {}</style></head><body>
    <nav><a href="/">Home</a></nav><h1>Tides</h1><p>The <b>moon</b>
    pulls &mdash; a&nbsp;lot.<br>Twice.</p><ul><li>High</li><li>Low</li></ul><script>if (a < b) {}</script>
    <pre>    x = 1
    y = 2</pre><p>End"""
    assert _html.text_of(page).replace("\xa0", " ") == (
        "Tides\n\nThe moon pulls — a lot.\nTwice.\n\nHigh\n\nLow\n\n    x = 1\n    y = 2\n\nEnd"
    )
    assert _html.text_of("no tags < at all") == "no tags < at all"


@given(st.text(alphabet=st.sampled_from(list("<>/!-pscrite &;ab\"'=\n")), max_size=80))
def test_no_page_is_too_broken(page):
    assert isinstance(_html.text_of(page), str)


# --- data sets hold documents too ---------------------------------------------------------------------------------------------


def test_records_survive_json(tmp_path):
    write(tmp_path, **{"docs__a.jsonl": json.dumps({"id": 7, "text": "Seven."})})
    (row,) = read(tmp_path)
    assert row.context[0] == {"doc_id": "7", "text": "Seven.", "score": None}
