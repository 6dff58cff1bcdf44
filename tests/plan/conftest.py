"""A project of data only: a fake teacher, two phases, two specs; every stage takes about a second."""

from __future__ import annotations

import json

import pytest

PARAMS = """\
teachers:
  asked: {kind: fake, revision: one, price: {prompt_usd_per_mtok: 0.0}}
embedder: {kind: fake}
"""
SPEC = """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/s.jsonl}
phases:
  sft:
    elicit:
      - {kind: label, max_new_tokens: 12, system: "Answer briefly."}
    select:
      - {kind: exact-dedup}
      - {kind: semantic-dedup, of: prompt, max_cosine: 0.97}
"""
SECOND_PHASE = """\
  more:
    on: sft
    elicit:
      - {kind: label, max_new_tokens: 8, system: "Once more."}
"""
SEEDS = [
    {"id": f"s{i}", "prompt": prompt} for i, prompt in enumerate(["Name a fruit.", "Describe the sea.", "Count to four.", "Greet me."])
]


def jsonl(rows: list[dict]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="session")
def data_files():
    """Return the files of the project, path to text."""
    return {
        "params.yaml": PARAMS,
        "specs/a.yaml": SPEC + SECOND_PHASE,
        "specs/b.yaml": SPEC,
        "specs/seeds/s.jsonl": jsonl(SEEDS),
    }
