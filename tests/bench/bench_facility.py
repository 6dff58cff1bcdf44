"""facility-location's core against apricot-select, in one run: `python tests/bench/bench_facility.py`.

3,000 x 384 in groups, 150 rows taken. Both sides have the similarities to six decimals, so that ties are ties; apricot gets them
ready-made (in float64, as cosines: its lazy queue goes wrong on large numbers), kdbuild's time includes making them.
Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import os
import sys

NUM_THREADS = 2
os.environ["OMP_NUM_THREADS"] = str(NUM_THREADS)
os.environ.pop("OPENBLAS_CORETYPE", None)  # it slows numpy where it is set

import statistics  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from importlib import metadata  # noqa: E402

import numpy as np  # noqa: E402
from apricot import FacilityLocationSelection  # noqa: E402

from kdbuild.selectors._facility import SCALE, Dense, lazy_greedy  # noqa: E402
from kdbuild.selectors._similarity import unit  # noqa: E402

NUM_ROWS, DIMENSION, NUM_TAKEN, NUM_PAIRS, MIN_TIMES = 3000, 384, 150, 5, 5.0


def grouped(seed: int = 0) -> np.ndarray:
    """Return unit vectors around 200 centres, a tenth of them equal to another."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((200, DIMENSION))[rng.integers(0, 200, NUM_ROWS)] + rng.standard_normal((NUM_ROWS, DIMENSION))
    vectors[rng.choice(NUM_ROWS, NUM_ROWS // 10, replace=False)] = vectors[rng.integers(0, NUM_ROWS, NUM_ROWS // 10)]
    return unit(vectors.astype(np.float32))


def by_apricot(similarity: np.ndarray) -> list[int]:
    """Return the picks of apricot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [int(i) for i in FacilityLocationSelection(NUM_TAKEN, metric="precomputed", optimizer="lazy").fit(similarity).ranking]


def by_kdbuild(vectors: np.ndarray) -> list[int]:
    """Return the picks of kdbuild."""
    return lazy_greedy(Dense(vectors, 8.0), NUM_TAKEN, np.zeros(NUM_ROWS, np.int64))


def by_plain_greedy(similarity: np.ndarray) -> list[int]:
    """Return the picks of plain greedy, the first of equal rows."""
    best, taken = np.zeros(len(similarity)), list[int]()
    for _ in range(NUM_TAKEN):
        gains = np.maximum(similarity - best, 0).sum(axis=1)
        gains[taken] = -1
        taken.append(int(gains.argmax()))
        best = np.maximum(best, similarity[taken[-1]])
    return taken


def main() -> int:
    """Run everything; return the exit code."""
    vectors = grouped()
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    similarity = np.maximum(np.rint(wide @ wide.T * SCALE), 0)
    ours, plain = by_kdbuild(vectors), by_plain_greedy(similarity)
    similarity /= SCALE
    same = ours == plain == by_apricot(similarity)
    print(
        f"{NUM_ROWS} x {DIMENSION}, {NUM_TAKEN} taken; same picks as apricot and plain greedy: {'ok' if same else 'MISSED'}",
        flush=True,
    )
    ratios, times = [], []
    for _ in range(NUM_PAIRS):
        start = time.perf_counter()
        by_apricot(similarity)
        between = time.perf_counter()
        by_kdbuild(vectors)
        times.append(time.perf_counter() - between)
        ratios.append((between - start) / times[-1])
    median = statistics.median(ratios)
    verdict = "ok" if median >= MIN_TIMES else "MISSED"
    said = f"ratio {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), at least {MIN_TIMES}: {verdict}"
    print(f"  apricot-select {metadata.version('apricot-select')}, kdbuild {statistics.median(times):.2f} s, {said}")
    return 0 if same and median >= MIN_TIMES else 1


if __name__ == "__main__":
    sys.exit(main())
