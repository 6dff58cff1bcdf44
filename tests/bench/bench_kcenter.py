"""kcenter's core against a loop over scikit-learn's pairwise distances, in one run: `python tests/bench/bench_kcenter.py`.

20,000 x 384, 300 rows taken. The loop is what published k-center code does: distances of all rows to the new centre by
`pairwise_distances`, then a minimum (Sener and Savarese's own code, and WaveCoder's). Picks must be the same: the loop is given float64
for that check. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import os
import sys

NUM_THREADS = 2
os.environ["OMP_NUM_THREADS"] = str(NUM_THREADS)
os.environ.pop("OPENBLAS_CORETYPE", None)  # it slows numpy where it is set

import statistics  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
from sklearn.metrics import pairwise_distances  # noqa: E402

from kdbuild.selectors._farthest import farthest_first  # noqa: E402
from kdbuild.selectors._similarity import unit  # noqa: E402

NUM_ROWS, DIMENSION, NUM_TAKEN, NUM_PAIRS, MIN_TIMES = 20_000, 384, 300, 3, 5.0


def by_distances(vectors: np.ndarray) -> list[int]:
    """Return the picks of the loop."""
    taken = [0]
    nearest = pairwise_distances(vectors, vectors[:1]).min(axis=1)
    while len(taken) < NUM_TAKEN:
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, pairwise_distances(vectors, vectors[taken[-1:]]).min(axis=1))
    return taken


def main() -> int:
    """Run everything; return the exit code."""
    vectors = unit(np.random.default_rng(0).standard_normal((NUM_ROWS, DIMENSION)).astype(np.float32))
    same = farthest_first(vectors, NUM_TAKEN)[0] == by_distances(vectors.astype(np.float64))
    print(f"{NUM_ROWS} x {DIMENSION}, {NUM_TAKEN} taken; same picks: {'ok' if same else 'MISSED'}", flush=True)
    ratios, ours = [], []
    for _ in range(NUM_PAIRS):
        start = time.perf_counter()
        by_distances(vectors)
        between = time.perf_counter()
        farthest_first(vectors, NUM_TAKEN)
        ours.append(time.perf_counter() - between)
        ratios.append((between - start) / ours[-1])
    median = statistics.median(ratios)
    verdict = "ok" if median >= MIN_TIMES else "MISSED"
    said = f"ratio {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), at least {MIN_TIMES}: {verdict}"
    print(f"  kdbuild {statistics.median(ours):.2f} s, {said}")
    return 0 if same and median >= MIN_TIMES else 1


if __name__ == "__main__":
    sys.exit(main())
