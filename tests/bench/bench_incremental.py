"""semantic-dedup over 20,000 rows and 200 new ones, from what an earlier build remembered: `python tests/bench/bench_incremental.py`.

Each pair of runs judges 20,200 rows in a folder where 20,000 of them were built before, and in an empty one. The embedder is `fake`: a real
one takes minutes for what it does in seconds, so the ratio of the whole is the least a user sees. Shown beside it: a run that remembers
the vectors and no comparison. All verdicts must be equal; the median of the paired ratios of the whole decides. Exits
with 1 where the limit
is missed.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "2"
os.environ.pop("OPENBLAS_CORETYPE", None)  # it slows numpy where it is set

from kdbuild.records import Message, Row
from kdbuild.rows.vectors import NAME
from kdbuild.selectors import Scene, Verdict
from kdbuild.selectors.semantic_dedup import SemanticDedup
from kdbuild.spec.model import Params
from kdbuild.spec.sections import EmbedderUse
from kdbuild.stages.job import Job
from kdbuild.stages.vectors import Vectors

NUM_OLD, NUM_NEW, DIMENSION, NUM_PAIRS = 20_000, 200, 384, 5
SELECTOR = SemanticDedup(max_cosine=0.9)
AT_LEAST = 5.0


def opened(root: Path) -> Vectors:
    """Return the embedder as a new process of the stage opens it."""
    (root / ".dvc").mkdir(parents=True, exist_ok=True)
    use = EmbedderUse.model_validate({"embedder": {"kind": "fake", "dimension": DIMENSION}, "weights": None})
    return Vectors(Job(root, "s", "select", "p", {}, Params()), use)


def rows() -> list[Row]:
    """Return rows by id, a fifth of which are near another; the new ones lie anywhere among them."""
    rng = random.Random(0)
    made: list[str] = []
    for _ in range(NUM_OLD + NUM_NEW):
        words = [f"w{rng.randrange(20_000)}" for _ in range(12)]
        made.append(" ".join(words) if not made or rng.random() > 0.2 else f"{rng.choice(made)} {words[0]}")
    ids = rng.sample(range(10**9), len(made))
    pairs = zip(ids, made, strict=True)
    return [Row(f"{i:09d}", (Message("user", text), Message("assistant", text[:20], train=True))) for i, text in pairs]


def judged(root: Path, given: list[Row]) -> tuple[float, list[Verdict], Vectors]:
    """Return wall seconds, the verdicts and the embedder."""
    vectors = opened(root)
    start = time.perf_counter()
    verdicts = SELECTOR.judge(given, Scene(root, embedder=vectors))
    return time.perf_counter() - start, verdicts, vectors


def forget_comparisons(root: Path) -> None:
    """Leave the vectors alone in what a build remembers."""
    (file,) = root.rglob(NAME)
    connection = sqlite3.connect(file)
    with connection:
        connection.execute("DELETE FROM graphs")
    connection.close()


def main() -> int:
    """Run everything; return the exit code."""
    every = rows()
    old, whole = (sorted(some, key=lambda row: row.id) for some in (every[:NUM_OLD], every))
    ratios: dict[str, list[float]] = {"whole": [], "vectors remembered, comparisons not": []}
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        judged(before, old)
        for _ in range(NUM_PAIRS):
            shutil.rmtree(Path(folder) / "again", ignore_errors=True)
            shutil.rmtree(Path(folder) / "nothing", ignore_errors=True)
            shutil.copytree(before, Path(folder) / "again")
            ours_s, ours, vectors = judged(Path(folder) / "again", whole)
            nothing_s, expected, fresh = judged(Path(folder) / "nothing", whole)
            forget_comparisons(Path(folder) / "nothing")
            compared_s, compared, _ = judged(Path(folder) / "nothing", whole)
            ratios["whole"].append(nothing_s / ours_s)
            ratios["vectors remembered, comparisons not"].append(compared_s / ours_s)
            same = ours == expected == compared
            print(
                f"with what is remembered {ours_s:.2f} s ({vectors.num_embedded} embedded, {vectors.num_compared:,} pairs), from nothing "
                f"{nothing_s:.2f} s ({fresh.num_embedded} embedded, {fresh.num_compared:,} pairs), comparisons forgotten "
                f"{compared_s:.2f} s, {sum(v.reason is not None for v in ours)} dropped, equal: {same}",
                flush=True,
            )
            if not same:
                return 1
        size = sum(path.stat().st_size for path in before.rglob(f"{NAME}*"))
    print(f"remembered: {size / 2**20:.0f} MiB for {NUM_OLD} x {DIMENSION}")
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
    passed = statistics.median(ratios["whole"]) >= AT_LEAST
    print(f"whole, at least {AT_LEAST}: {'ok' if passed else 'MISSED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
