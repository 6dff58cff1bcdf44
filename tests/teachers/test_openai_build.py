"""A build with the `openai` teacher through real DVC: the key is nowhere in what was written or said, and failed rows are told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import servers

KEY = "sk-build-55d0c3b2a1908f7e6d5c"
PASSWORD = "query-s3cr3t-0042"
NUM_SEEDS = 30
PARAMS = """\
teachers:
  hosted:
    kind: openai
    model: small-model
    endpoints: ["{url}?token={password}"]
    api_key_env: TEACHER_KEY
    retry_wait_s: 0.01
    max_retries: 2
"""
SPEC = """\
target: {skill: testing}
teacher: hosted
seeds: {kind: dataset, path: specs/seeds/s.jsonl}
phases:
  sft:
    elicit: [{kind: label, max_new_tokens: 24}]
"""


@pytest.mark.slow
def test_the_key_is_in_no_file_and_no_output(tmp_path, new_project):
    with servers.serve(key=KEY) as server:
        files = {
            "params.yaml": PARAMS.format(url=server.url, password=PASSWORD),
            "specs/a.yaml": SPEC,
            "specs/seeds/s.jsonl": "".join(f'{{"id": "s{i}", "prompt": "Say {i}."}}\n' for i in range(NUM_SEEDS)),
        }
        project = new_project(tmp_path / "project", files)
        said = [project.run("dvc", "repro", "a_sft_elicit", code=None, env={"TEACHER_KEY": ""})]
        assert "the environment variable TEACHER_KEY, which holds the teacher's key, is not set" in said[-1].text
        said.append(project.run("dvc", "repro", "a_sft_elicit", code=None, env={"TEACHER_KEY": KEY[:-4] + "dead"}))
        assert "the key is refused" in said[-1].text
        server.faults = lambda call: servers.status(500) if call.body["messages"][-1]["content"] == "Say 7." else None
        said.append(project.run("dvc", "repro", "a_sft_elicit", code=None, env={"TEACHER_KEY": KEY}))
        assert "the teacher failed on 1 of 30 rows\n  s7: the server failed (HTTP 500)" in said[-1].text
        assert project.num_answers() == NUM_SEEDS - 1
        server.faults = lambda call: None
        num_served = server.num_served
        said.append(project.run("dvc", "repro", "a_sft_elicit", env={"TEACHER_KEY": KEY}))
        assert server.num_served == num_served + 1
        said.append(project.kdbuild("plan", code=None))
    assert project.json("artifacts/a/sft/elicit.json")["num_rows"] == NUM_SEEDS
    assert not [done for done in said if KEY[:12] in done.text or PASSWORD in done.text]
    for path in project.root.rglob("*"):
        if path.is_file() and path.name != "params.yaml" and not path.is_symlink():
            raw = path.read_bytes()
            assert KEY[:12].encode() not in raw, path
            assert PASSWORD.encode() not in raw or ".git" in path.parts, path
