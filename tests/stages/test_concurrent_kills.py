"""An elicit that has 64 calls on their way to a server, killed or out of budget."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from kdbuild import records
from kdbuild.errors import StageError
from kdbuild.records import Message, Row
from kdbuild.rows import place
from kdbuild.rows.store import Store
from kdbuild.spec.model import Params
from kdbuild.stages import elicit
from kdbuild.stages.job import Job

sys.path.insert(0, str(Path(__file__).parent.parent / "teachers"))
from servers import MODEL, serve

SLOTS = 64
SAFE_S = 0.3
"""What was answered so long before a kill must be stored; the commit interval and a slow disk lie well within it."""


def run(root: Path, url: str, **elicit_runtime: Any) -> None:
    """Run the stage in this process."""
    teacher = {"kind": "openai", "model": MODEL, "endpoints": [url], "concurrency": {"start": SLOTS, "most": SLOTS}}
    section = {
        "_key": "k",
        "rows": "artifacts/in/rows",
        "seeds": None,
        "from_seeds": True,
        "actors": {"teacher": {"name": "t", "teacher": teacher, "weights": None}},
        "operators": [{"kind": "label", "max_new_tokens": 64}],
        "embedder": None,
        "held_out_frac": None,
        "accept_failed_frac": 0.0,
    }
    params = Params.model_validate({"teachers": {"t": teacher}, "runtime": {"elicit": elicit_runtime}})
    job = Job(root, "s", "elicit", "p", section, params)
    elicit.run(job)
    job.finish()


def output(root: Path) -> dict[str, bytes]:
    folder = root / "artifacts/s/p"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def start_rows(root: Path, num_rows: int) -> Path:
    folder = root / "artifacts/in/rows"
    folder.mkdir(parents=True)
    records.write_dataset(folder, Row, [Row(f"r{i:05d}", (Message("user", f"About {i}?"),)) for i in range(num_rows)])
    return root


def num_stored(root: Path) -> int:
    with Store.open(place.store_dir(root, None), read_only=True) as store:
        return store.num_answers()


@pytest.mark.parametrize("num_kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_paid_is_lost_beyond_the_calls_in_flight(tmp_path, num_kills):
    seed = random.randrange(2**32)
    print("seed of the moments:", seed)
    rng = random.Random(seed)
    num_rows = 500 * num_kills
    with serve(median_s=0.08, sigma=0.6) as server:
        calm, rough = start_rows(tmp_path / "calm", num_rows), start_rows(tmp_path / "rough", num_rows)
        run(calm, server.url)
        assert server.num_served == num_rows
        script = textwrap.dedent(
            f"""
            import sys
            from pathlib import Path
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from test_concurrent_kills import run
            run(Path({str(rough)!r}), {server.url!r})
            """
        )
        num_lost = 0
        for _ in range(num_kills):
            before, already = server.num_served, num_stored(rough)
            stage = subprocess.Popen([sys.executable, "-c", script])
            while server.num_served < before + SLOTS:
                assert stage.poll() is None, "the stage ended before it was killed"
                time.sleep(0.001)
            time.sleep(rng.random() * 0.3)
            answered = server.num_served - server.running - before
            time.sleep(SAFE_S)
            stage.send_signal(signal.SIGKILL)
            stage.wait()
            time.sleep(0.5)  # the server ends what it works on
            stored = num_stored(rough) - already
            assert stored >= answered
            num_lost += server.num_served - before - stored
            assert not (rough / "artifacts/s/p/elicited").exists()
        subprocess.run([sys.executable, "-c", script], check=True)
        num_calls = server.num_served - num_rows
    assert output(rough) == output(calm)
    assert num_calls == num_rows + num_lost
    print(f"{num_kills} kills, {num_calls} calls for {num_rows} rows: {num_lost / num_kills:.1f} lost a kill, {SLOTS} on their way")


def test_a_spent_budget_takes_in_what_is_on_its_way(tmp_path):
    root = start_rows(tmp_path, 600)
    with serve(median_s=0.05, sigma=0.6) as server:
        with pytest.raises(StageError, match="the budget of 2,000 tokens is spent") as caught:
            run(root, server.url, budget={"tokens": 2000})
        assert "build again to go on" in (caught.value.hint or "")
        first = server.num_served
        assert SLOTS < first < 600
        assert num_stored(root) == first
        with pytest.raises(StageError, match="is spent"):
            run(root, server.url, budget={"tokens": 2000})
        assert server.num_served == first
        run(root, server.url)
        assert server.num_served == 600
