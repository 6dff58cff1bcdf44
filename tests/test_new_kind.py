"""The README's example of a new kind: the file as printed there, put into a copy of the package, selects rows and meets the contract."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAGE = """
import json, sys
from pathlib import Path

import kdbuild
from kdbuild import kinds, records
from kdbuild.records import Dropped, Message, Row
from kdbuild.spec.model import Params, Phase
from kdbuild.stages import select
from kdbuild.stages.job import Job

root = Path(sys.argv[1])
assert Path(kdbuild.__file__).is_relative_to(root), kdbuild.__file__
assert "min-words" in kinds.available("selectors")
phase = Phase.model_validate({"select": [{"kind": "min-words", "num_words": 2}]})
answers = {"a": "one two three", "b": "one", "c": "one two"}
rows = [Row(id, (Message("user", "q"), Message("assistant", text, train=True))) for id, text in answers.items()]
folder = root / "artifacts/s/p/elicited"
folder.mkdir(parents=True)
records.write_dataset(folder, Row, rows)
section = {
    "_key": "0", "rows": "artifacts/s/p/elicited", "embedder": None, "held_out_frac": 0.0, "accept_failed_frac": 0.0,
    "steps": [selector.identity() for selector in phase.select], "actors": {}, "pools": {},
}
job = Job(root, "s", "select", "p", section, Params())
select.run(job)
job.finish()
kept = [row.id for row in records.read_dataset(root / "artifacts/s/p/selected", Row)]
gone = {row.id: [row.by, row.reason] for row in records.read_dataset(root / "artifacts/s/p/dropped", Dropped)}
print(json.dumps([kept, gone]))
"""


def example() -> str:
    """Return the first Python block under the heading."""
    text = (ROOT / "kdbuild/README.md").read_text(encoding="utf-8").partition("## Add a selector\n")[2]
    found = re.search(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, "kdbuild/README.md has no Python block under `## Add a selector`"
    return found[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with the package and the selectors' contract test, and the example in its place."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kdbuild", tmp_path / "kdbuild", ignore=ignore)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests/selectors/test_contract.py", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    (tmp_path / "kdbuild/selectors/min_words.py").write_text(example(), encoding="utf-8")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_example_is_short_and_in_style() -> None:
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 15
    for command in (
        ["check", "--stdin-filename", "kdbuild/selectors/min_words.py", "-"],
        ["format", "--check", "--stdin-filename", "kdbuild/selectors/min_words.py", "-"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command], input=example(), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_example_selects_rows(copy: Path) -> None:
    kept, gone = json.loads(run(copy, "-c", STAGE, str(copy)))
    assert kept == ["a", "c"]
    assert gone == {"b": ["min-words", "short answer"]}


def test_contract_tests_find_the_example(copy: Path) -> None:
    told = run(copy, "-m", "pytest", "-q", "-rN", "-p", "no:cacheprovider", "tests", "-k", "min-words")
    assert re.search(r"[1-9]\d* passed", told), told
