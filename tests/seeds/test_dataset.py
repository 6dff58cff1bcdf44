import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kdbuild import records
from kdbuild.errors import RowError, SourceError
from kdbuild.records import Message
from kdbuild.seeds.dataset import Dataset

PROMPTS = [{"id": "a", "prompt": "One?"}, {"id": "b", "prompt": "Zwei – 二?", "answer": "2"}]


def write(root, name, text):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def jsonl(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(root, text, name="s.jsonl", **given_fields):
    return list(Dataset(path=write(root, name, text), **given_fields).rows(root))


def refusal(root, text, name="s.jsonl", error=RowError, **given_fields):
    with pytest.raises(error) as caught:
        read(root, text, name, **given_fields)
    return caught.value


# --- formats ---------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_rows(tmp_path):
    expected = read(tmp_path, jsonl(*PROMPTS))
    assert [(row.id, row.messages, row.gold) for row in expected] == [
        ("a", (Message("user", "One?"),), None),
        ("b", (Message("user", "Zwei – 二?"),), "2"),
    ]
    columns = {name: [row.get(name) for row in PROMPTS] for name in ("id", "prompt", "answer")}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    assert list(Dataset(path="s.parquet").rows(tmp_path)) == expected
    assert read(tmp_path, json.dumps(PROMPTS, indent=2), "s.json") == expected
    assert read(tmp_path, 'id,prompt,answer\na,One?,\nb,"Zwei – 二?",2\n', "s.csv") == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.jsonl", '\ufeff{"prompt": "x"}\n\n  \n{"prompt": "y"}'),
        ("s.jsonl", '{"prompt": "x"}\r\n{"prompt": "y"}\r\n'),
        ("s.json", '\ufeff [ {"prompt": "x"} ,\n {"prompt": "y"} ]\n'),
        ("s.csv", "\ufeffprompt\r\nx\r\n\r\ny\r\n"),
    ],
)
def test_marks_blank_lines_and_line_ends_of_windows_do_not_matter(tmp_path, name, text):
    assert [row.messages[0].content for row in read(tmp_path, text, name)] == ["x", "y"]


def test_a_line_ends_at_a_newline_only(tmp_path):
    text = '{"prompt": "a\u2028b\u0085c"}\n'
    assert read(tmp_path, text)[0].messages[0].content == "a\u2028b\u0085c"
    assert read(tmp_path, "prompt\na\u2028b\n", "s.csv")[0].messages[0].content == "a\u2028b"


def test_jsonl_is_read_without_pyarrow(tmp_path):
    write(tmp_path, "s.jsonl", jsonl(*PROMPTS))
    code = (
        "import sys, pathlib; from kdbuild.seeds.dataset import Dataset; "
        "rows = list(Dataset(path='s.jsonl', limit=2).rows(pathlib.Path('.'))); "
        "print(len(rows), [m for m in ('pyarrow', 'pandas', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"


# --- columns ---------------------------------------------------------------------------------------------------------


def test_instruction_and_input_are_one_prompt_and_output_is_the_known_answer(tmp_path):
    first, second = read(
        tmp_path, jsonl({"instruction": "Add.", "input": "1, 2", "output": "3"}, {"instruction": "Hi", "input": "", "output": None})
    )
    assert (first.messages[0].content, first.gold) == ("Add.\n\n1, 2", "3")
    assert (second.messages[0].content, second.gold) == ("Hi", None)


def test_a_conversation_is_taken_whole_and_its_last_answer_is_the_known_one(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    answered = [*turns, {"role": "assistant", "content": "Hello."}]
    plain, with_answer = read(tmp_path, jsonl({"messages": turns}, {"messages": answered}))
    assert plain.messages == with_answer.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert (plain.gold, with_answer.gold) == (None, "Hello.")


def test_columns_can_have_other_names_and_numbers_can_be_answers(tmp_path):
    row = {"question": "1 + 1?", "solution": 2.0, "prompt": "not this", "answer": "nor this"}
    (found,) = read(tmp_path, jsonl(row), prompt="question", answer="solution")
    assert (found.messages[0].content, found.gold) == ("1 + 1?", "2.0")


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path):
    told = str(refusal(tmp_path, jsonl({"question": "x"}), prompt="questoin"))
    assert told.startswith("s.jsonl:1 has no column `questoin`")
    assert "did you mean `question`?" in told


def test_the_other_fields_of_a_row_have_columns_of_their_names(tmp_path):
    record = {
        "prompt": "Which?",
        "gold": "A",
        "context": ["One.", {"text": "Two.", "doc_id": 2, "score": 1}],
        "label": 3,
        "rationale": "Because.",
        "program": "print(1)",
        "candidates": ["x", {"text": "y", "source": "student", "score": 0.5}],
        "feedback": "Good.",
        "chosen": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "A"}],
        "rejected": "B",
        "tool": {"name": "f", "parameters": {"type": "object"}, "more": 1},
        "media": {"type": "image", "path": "a/b.png", "text_view": "A bus."},
        "meta": {"level": 2, "tags": ["a"], "none": None},
    }
    (row,) = read(tmp_path, jsonl(record))
    assert (row.gold, row.label, row.rationale, row.program, row.feedback) == ("A", "3", "Because.", "print(1)", "Good.")
    assert (row.chosen, row.rejected, row.meta) == ("A", "B", {"level": "2", "tags": '["a"]'})
    assert row.context == ({"doc_id": None, "text": "One.", "score": None}, {"doc_id": "2", "text": "Two.", "score": 1.0})
    assert [(one["text"], one["source"], one["score"]) for one in row.candidates] == [("x", None, None), ("y", "student", 0.5)]
    assert row.tool == {"name": "f", "parameters": '{"type":"object"}'}
    assert row.media == record["media"]
    assert row.id != read(tmp_path, jsonl({"prompt": "Which?", "gold": "A"}))[0].id


def test_columns_of_other_fields_can_have_other_names_or_be_left_out(tmp_path):
    record = {"prompt": "p", "passage": "One.", "meta": "not an object", "label": {"x": 1}}
    (row,) = read(tmp_path, jsonl(record), columns={"context": "passage", "meta": None, "label": None})
    assert (row.context[0]["text"], row.meta, row.label) == ("One.", {}, None)
    told = str(refusal(tmp_path, jsonl({"prompt": "p"}), columns={"context": "passage"}))
    assert told.startswith("s.jsonl:1 has no column `passage`")


@pytest.mark.parametrize(
    "record", [{"context": "One."}, {"meta": {"kind": "topic"}}, {"tool": {"name": "f"}}, {"media": {"text_view": "A bus."}}]
)
def test_a_row_without_a_prompt_has_something_else_to_ask_about(tmp_path, record):
    (row,) = read(tmp_path, jsonl(record))
    assert row.messages == ()
    assert refusal(tmp_path, jsonl({**record, "instruction": ""})).message.startswith("s.jsonl:1: `instruction` is not a text")
    assert "has no column `question`" in refusal(tmp_path, jsonl(record), prompt="question").message
    for nothing in ({"label": "x"}, {"context": []}, {"meta": {}}):
        assert "s.jsonl:1 has no prompt" in refusal(tmp_path, jsonl(nothing)).message


def test_the_known_answer_can_be_the_turn_that_is_learned(tmp_path):
    text = jsonl({"prompt": "1 + 1?", "answer": "2"})
    (row,) = read(tmp_path, text, learn_answer=True)
    assert row.messages == (Message("user", "1 + 1?"), Message("assistant", "2", train=True))
    assert (row.gold, row.id) == ("2", read(tmp_path, text)[0].id)
    assert "s.jsonl:1 has no answer to learn" in refusal(tmp_path, jsonl({"prompt": "1 + 1?"}), learn_answer=True).message
    assert "s.jsonl:1 has no prompt to learn" in refusal(tmp_path, jsonl({"context": "One.", "answer": "x"}), learn_answer=True).message


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"context": 3}, "`context` is not a text, an object with `text`, or a list of these: context: 3"),
        ({"context": [{"title": "x"}]}, "`context` is not a text"),
        ({"context": [{"text": "x", "score": "high"}]}, "`context` is not a score that is a number"),
        ({"candidates": "x"}, "`candidates` is not a list of texts"),
        ({"label": ["x"]}, "`label` is not a text or a number"),
        ({"tool": {"description": "x"}}, "`tool` is not an object with `name`"),
        ({"tool": {"name": "f", "parameters": "[]"}}, "`tool` is not an API whose `parameters` are a JSON schema"),
        ({"media": {"type": "image"}}, "`media` is not an object with a `text_view`"),
        ({"media": {"text_view": "x", "path": "../a"}}, "`media`: `../a` goes up with `..`"),
        ({"meta": ["x"]}, "`meta` is not an object"),
        ({"meta": {"a": "\x00"}}, "`meta.a` holds a NUL character"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(tmp_path, record, message):
    assert refusal(tmp_path, jsonl({"prompt": "fine", **record})).message.startswith(f"s.jsonl:1: {message}")


# --- ids -------------------------------------------------------------------------------------------------------------


def test_an_id_is_given_or_a_digest_of_what_is_read(tmp_path):
    given_id, number, none, other = read(
        tmp_path, jsonl({"id": "x", "prompt": "p"}, {"id": 7, "prompt": "p"}, {"prompt": "p"}, {"prompt": "q", "note": "not read"})
    )
    assert (given_id.id, number.id) == ("x", "7")
    assert none.id == records.row_id({"messages": [["user", "p"]], "gold": None})
    assert other.id == read(tmp_path, jsonl({"prompt": "q"}))[0].id


def test_equal_rows_are_numbered(tmp_path):
    p, q, n = {"prompt": "p"}, {"prompt": "q"}, {"id": "n", "prompt": "r"}
    rows = read(tmp_path, jsonl(p, q, p, p, n, n))
    assert [row.id for row in rows] == [rows[0].id, rows[1].id, f"{rows[0].id}-2", f"{rows[0].id}-3", "n", "n-2"]


def test_two_different_rows_with_one_id_are_an_error_that_names_both(tmp_path):
    told = refusal(tmp_path, jsonl({"id": "n", "prompt": "p"}, {"id": "m", "prompt": "p"}, {"id": "n", "prompt": "q"}))
    assert told.message == "two different rows have the id `n`: s.jsonl:1 and s.jsonl:3"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
def test_a_given_id_that_is_that_of_a_numbered_row_is_an_error(tmp_path, order):
    rows = [{"id": "n", "prompt": "p"}, {"id": "n", "prompt": "p"}, {"id": "n-2", "prompt": "q"}]
    assert "the id `n-2`" in refusal(tmp_path, jsonl(*(rows[i] for i in order))).message


ROW = st.fixed_dictionaries({"prompt": st.sampled_from("pqrst")}, optional={"answer": st.sampled_from("xy")})


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROW, min_size=1, max_size=12),
    data=st.data(),
    limit=st.one_of(st.none(), st.integers(1, 12)),
)
def test_the_order_of_the_file_does_not_matter(tmp_path, rows, data, limit):
    shuffled = data.draw(st.permutations(rows))
    one, other = read(tmp_path, jsonl(*rows), limit=limit), read(tmp_path, jsonl(*shuffled), limit=limit)
    assert {row.id: row for row in one} == {row.id: row for row in other}
    assert len(one) == min(len(rows), limit or len(rows))


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'prompt': 'x'}", "is not JSON (Expecting property name enclosed in double quotes): {'prompt': 'x'}"),
        ('{"prompt": "x"', "is not JSON"),
        ('{"prompt": NaN}', "is not JSON (NaN is not a JSON value)"),
        ('{"prompt": "x", "prompt": "y"}', "is not JSON (key 'prompt' stands there twice)"),
        ("[" * 100_000, "is not JSON"),
        ('["x"]', 'is not an object: ["x"]'),
        ("3", "is not an object: 3"),
        ("{}", "has no prompt: it is empty"),
        ('{"text": "x"}', "has no prompt: text: 'x'"),
        ('{"prompt": 3}', "`prompt` is not a text: prompt: 3"),
        ('{"prompt": "  "}', "`prompt` is not a text"),
        ('{"prompt": []}', "`prompt` is not a text or a list of turns"),
        ('{"messages": ["x"]}', "`messages` is not a list of {role, content}"),
        ('{"messages": [{"role": "human", "content": "x"}]}', "the role one of system, user, assistant, tool"),
        ('{"messages": [{"role": "system", "content": "x"}]}', "has no user turn with text"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "has no user turn with text"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]}', "does not end with a user turn"),
        ('{"prompt": "x", "id": true}', "`id` is not a short text or a whole number"),
        ('{"prompt": "x", "id": ""}', "`id` is not a short text or a whole number"),
        ('{"prompt": "x", "id": "a\\nb"}', "`id` is not a short text or a whole number"),
        ('{"prompt": "x", "answer": {"text": "y"}}', "`answer` is not a text or a number"),
        ('{"prompt": "x\\u0000y"}', "`prompt` holds a NUL character: x\\x00y"),
        ('{"prompt": "x", "answer": "\\ud800"}', "`answer` holds half of a character"),
        (b'{"prompt": "caf\xe9"}', 'is not UTF-8: {"prompt": "caf\\xe9"}'),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, line, message):
    raw = line if isinstance(line, bytes) else line.encode()
    told = refusal(tmp_path, b'{"prompt": "fine"}\n\n' + raw + b"\n")
    assert told.message.startswith("s.jsonl:3")
    assert message in told.message
    assert len(told.message) < 300


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.json", '{"prompt": "x"}', "s.json is not a list"),
        ("s.json", '[\n{"prompt": "x"},\n\n{"prompt": }]', "s.json:4 is not JSON"),
        ("s.json", '[\n{"prompt": "x"}\n{"prompt": "y"}]', "s.json:3: expected `,` or `]`"),
        ("s.json", '[\n{"prompt": "x"},\n3]', "s.json:3 is not an object: 3"),
        ("s.json", '[{"prompt": "x"}', "s.json:1: expected `,` or `]`: the file ends here"),
        ("s.json", b'[\n{"prompt": "x\xff"}]', "s.json:2 is not UTF-8"),
        ("s.csv", 'prompt,id\n"a\nb",1\nc\n', "s.csv:4 has 1 fields, the header has 2: c"),
        ("s.csv", "prompt,id\n,1\n", "s.csv:2 has no prompt"),
        ("s.csv", "prompt,prompt\na,b\n", "s.csv:1: two columns have one name"),
        ("s.csv", 'prompt\n"a\n', "s.csv:2 is not CSV"),
        ("s.parquet", "PAR1 but no more", "s.parquet is not a Parquet file"),
    ],
)
def test_what_is_wrong_with_other_formats_is_named(tmp_path, name, text, message):
    assert message in refusal(tmp_path, text, name).message


@pytest.mark.parametrize(("name", "text"), [("s.jsonl", ""), ("s.jsonl", "\n \n"), ("s.json", "[]"), ("s.csv", ""), ("s.csv", "prompt\n")])
def test_a_file_without_rows_is_an_error(tmp_path, name, text):
    assert "holds no rows" in refusal(tmp_path, text, name).message


def test_a_parquet_row_is_named_by_its_number(tmp_path):
    pq.write_table(pa.table({"prompt": ["x", None]}), tmp_path / "s.parquet")
    with pytest.raises(RowError, match=r"^s\.parquet, row 2 has no prompt"):
        list(Dataset(path="s.parquet").rows(tmp_path))


def test_a_file_that_is_not_there_or_a_folder_is_an_error(tmp_path):
    (tmp_path / "f.jsonl").mkdir()
    for name, message in (("s.jsonl", "s.jsonl is not there"), ("f.jsonl", "f.jsonl is a folder")):
        with pytest.raises(SourceError, match=message):
            list(Dataset(path=name).rows(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either a `path`"),
        ({"path": "a.jsonl", "hf": "a/b", "revision": "c"}, "either a `path`"),
        ({"path": "a.txt"}, "not a .jsonl, .json, .parquet or .csv file"),
        ({"path": "../a.jsonl"}, "goes up with"),
        ({"path": "/a.jsonl"}, "not inside the project"),
        ({"path": "a.jsonl", "split": "train"}, "`split` goes with `hf`"),
        ({"hf": "a/b"}, "needs a `revision`"),
        ({"hf": "https://a/b", "revision": "c"}, "match pattern"),
        ({"path": "a.jsonl", "limit": 0}, "greater than or equal to 1"),
    ],
)
def test_a_block_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValidationError) as caught:
        Dataset(**fields)
    assert message in caught.value.errors()[0]["msg"]


# --- the hub ---------------------------------------------------------------------------------------------------------


def test_a_set_of_the_hub_lies_outside_the_project():
    seeds = Dataset(hf="org/name", revision="abc")
    assert (seeds.files(), seeds.outside()) == ((), {"dataset": "org/name", "revision": "abc"})


def test_a_folder_of_the_same_name_is_not_taken_for_the_hubs_set(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="a folder `org/name` lies here"):
        list(Dataset(hf="org/name", revision="abc").rows(tmp_path))


TABLE = b'{"prompt": "One?", "answer": "1"}\n{"prompt": "Two?", "answer": "2"}\n'
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """What the hub answers about one set of one file, `org/name`; of anything else it knows nothing."""

    def log_message(self, *args):
        pass

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        path, facts = self.path.partition("?")[0], None
        entry = {"type": "file", "path": "train.jsonl", "size": len(TABLE), "oid": "b" * 40}
        if path.startswith("/api/datasets/org/name/revision/"):
            facts = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}], "tags": []}).encode()
        elif path.startswith("/api/datasets/org/name/tree/"):
            facts = json.dumps([entry]).encode()
        elif path.startswith("/datasets/org/name/resolve/") and path.endswith("/train.jsonl"):
            facts = TABLE
        self.send_response(200 if facts else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"b"')
        if not facts:
            self.send_header("X-Error-Code", "EntryNotFound" if "org/name" in path else "RepoNotFound")
        self.send_header("Content-Length", str(len(facts or b"")))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(facts or b"")

    do_GET = do_HEAD = do_POST = answer


@pytest.fixture
def hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def from_hub(tmp_path, endpoint, **fields):
    # A process of its own: the hub's client reads its settings when it is imported.
    code = (
        "import sys, json, pathlib; from kdbuild.seeds.dataset import Dataset; from kdbuild.errors import SourceError\n"
        "try:\n"
        "    rows = list(Dataset(**json.loads(sys.argv[1])).rows(pathlib.Path('.')))\n"
        "    print(json.dumps([[r.messages[0].content, r.gold] for r in rows]))\n"
        "except SourceError as error:\n"
        "    print(error)\n"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code, json.dumps(fields)]
    return subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_set_of_the_hub_is_read(tmp_path, hub):
    assert json.loads(from_hub(tmp_path, hub, hf="org/name", revision="abc")) == [["One?", "1"], ["Two?", "2"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hf": "org/other"}, "could not read train of org/other@abc from the hub"),
        ({"hf": "org/name", "split": "test"}, "could not read test of org/name@abc from the hub"),
        ({"hf": "org/name", "prompt": "question"}, "org/name has no column `question`\n\nhint: columns: prompt, answer"),
    ],
)
def test_what_the_hub_does_not_have_is_an_error_that_says_what_to_do(tmp_path, hub, fields, message):
    told = from_hub(tmp_path, hub, revision="abc", **fields)
    assert told.startswith(message)
    assert "hint: " in told


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_an_error_that_says_what_to_do(tmp_path):
    told = from_hub(tmp_path, "http://127.0.0.1:9", hf="org/name", revision="abc")
    assert told.startswith("could not read train of org/name@abc from the hub: ")
    assert "name it as `path:`" in told


def test_what_is_learnt_is_held_against_a_column_gold(tmp_path):
    text = jsonl({"prompt": "6 * 7?", "answer": "43", "gold": "42"}, {"prompt": "6 * 7?", "answer": "42", "gold": "42"})
    wrong, right = read(tmp_path, text, learn_answer=True)
    assert [(row.answer, row.gold) for row in (wrong, right)] == [("43", "42"), ("42", "42")]
    # They differ by what they say, so neither is the other's second.
    assert len({wrong.id, right.id}) == 2
    assert not any(row.id.endswith("-2") for row in (wrong, right))
    (alone,) = read(tmp_path, jsonl({"prompt": "6 * 7?", "answer": "42"}), learn_answer=True)
    assert alone.id == right.id
