"""Answers that a broken server garbled: what was rejected can be seen and asked again, through the real `dvc` and a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

NUM_ROWS = 6
SEEDS = "".join(json.dumps({"id": f"q{i}", "prompt": f"Which number is {i}?", "gold": str(i)}) + "\n" for i in range(NUM_ROWS))
SPEC = """\
target: {skill: numbers}
teacher: served
seeds: {kind: dataset, path: specs/seeds.jsonl}
phases:
  one:
    elicit: [{kind: cot}]
"""
GARBLED = "\x1b[31mthe server is br\u00f6ken and says much that is of no use to anybody, over and over and over"


class Server:
    """Answers well, or garbles what it is asked about `garbled` rows."""

    def __init__(self) -> None:
        self.garbled: set[int] = set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = body["messages"][-1]["content"]
                number = next(i for i in range(NUM_ROWS) if f"is {i}?" in question)
                outer.asked.append(f"q{number}")
                text = GARBLED if number in outer.garbled else f"It is plain.\nAnswer: {number}"
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                reply = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def taken(self) -> list[str]:
        """Return whom it was asked about since the last time."""
        found, self.asked = sorted(self.asked), []
        return found


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture
def project(tmp_path, new_project, server, monkeypatch):
    monkeypatch.setenv("KDBUILD_TEST_KEY", "sk-0123456789abcdef")
    params = (
        f"teachers:\n  served: {{kind: openai, model: m, endpoints: ['http://127.0.0.1:{server.http.server_port}/v1'], "
        "api_key_env: KDBUILD_TEST_KEY, price: {prompt_usd_per_mtok: 1000, answer_usd_per_mtok: 2000}}\n"
    )
    return new_project(tmp_path / "p", {"params.yaml": params, "specs/seeds.jsonl": SEEDS, "specs/a.yaml": SPEC})


def test_rejected_answers_are_shown_and_asked_again(project, server):
    server.garbled = {1, 4}
    project.kdbuild("build", "--yes")
    assert server.taken() == [f"q{i}" for i in range(NUM_ROWS)]
    assert "nothing to retry" in project.kdbuild("retry", "a_one_elicit").text

    shown = project.kdbuild("rows", "list", "a_one_elicit", "--rejected").text.splitlines()
    start = f"?[31m{GARBLED[5:79]}"
    assert shown[:2] == [f"q{i}\tcot\tno line with the answer\t{start}…" for i in (1, 4)]
    rows = project.kdbuild("rows", "list", "a_one_elicit").text.splitlines()
    assert rows[:4] == [f"q{i}\tIt is plain. Answer: {i}" for i in (0, 2, 3, 5)]

    server.garbled = set()
    done = project.kdbuild("retry", "a_one_elicit", "--rejected", code=1)
    assert "this gives up 2 answers, which took 30 tokens, $0.04, and nobody is here to agree" in done.text
    assert server.taken() == []
    done = project.kdbuild("retry", "a_one_elicit", "--rejected", "--yes")
    assert "asking again: 2 that could not be used" in done.text
    assert server.taken() == ["q1", "q4"]
    assert json.loads(project.read("artifacts/a/one/elicit.json"))["num_rows"] == NUM_ROWS
    assert "nothing to retry: no answer of a_one_elicit could not be used" in project.kdbuild("retry", "a_one_elicit", "--rejected").text
    project.kdbuild("build", "--yes")
    assert server.taken() == []


def test_a_stage_that_failed_because_nothing_was_usable_can_be_asked_again(project, server):
    server.garbled = set(range(NUM_ROWS))
    done = project.kdbuild("build", "--yes", code=1)
    assert "teacher `served` answered nothing usable: 6 x no line with the answer" in done.text
    assert "kdbuild retry a_one_elicit --rejected" in done.text
    server.taken()
    server.garbled = set()
    project.kdbuild("retry", "a_one_elicit", "--rejected", "--yes")
    assert server.taken() == [f"q{i}" for i in range(NUM_ROWS)]
    assert json.loads(project.read("artifacts/a/one/elicit.json"))["num_rows"] == NUM_ROWS


def test_a_stage_that_nobody_knows(project):
    done = project.kdbuild("rows", "list", "a_one_elicitt", "--rejected", code=1)
    assert "no elicit stage named `a_one_elicitt`. Did you mean `a_one_elicit`?" in done.text


def test_a_build_without_the_key_stops_before_anything_runs(project, server, monkeypatch):
    project.edit("specs/a.yaml", "phases:\n", "phases:\n  zero: {select: [{kind: exact-dedup}]}\n")
    monkeypatch.delenv("KDBUILD_TEST_KEY")
    done = project.kdbuild("build", "--yes", code=1)
    assert "stage a_one_elicit asks teacher `served`: the environment variable KDBUILD_TEST_KEY" in done.text
    assert done.ran == set()
    assert server.taken() == []
    assert "warning: params.yaml:2: teachers.served: the environment variable KDBUILD_TEST_KEY" in project.kdbuild("check").text
    monkeypatch.setenv("KDBUILD_TEST_KEY", "sk-0123456789abcdef")
    assert "sk-0123456789abcdef" not in project.kdbuild("build", "--yes").text
    # What is stored needs no key.
    monkeypatch.delenv("KDBUILD_TEST_KEY")
    project.edit("specs/a.yaml", "phases:\n", "accept_failed_frac: 0.1\nphases:\n")
    project.kdbuild("build", "--yes")
