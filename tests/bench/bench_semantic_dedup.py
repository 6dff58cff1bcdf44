"""semantic-dedup's core against semhash 0.5.0 and faiss-cpu's flat range search, in one run: `python tests/bench/bench_semantic_dedup.py`.

20,000 x 384 float32 vectors of which a fifth are planted near another, at limit 0.9. The kept set is compared with a plain reference; then
each peer and kdbuild take turns, and the median of the paired time ratios decides. The last peer is the machine: kdbuild without sketches,
as where none helps, against numpy's own float32 matrix product over half of all pairs (384 N^2 operations).
Exits with 1 where a limit is missed. Two spectra: `flat` is noise in all 384 directions (hard for semhash's graph index) and
decides; `steep` falls as real embeddings do (easy for it) and is shown beside it, so that nobody takes the first for the whole truth.
"""

from __future__ import annotations

import os
import sys

NUM_THREADS = 2
os.environ["OMP_NUM_THREADS"] = str(NUM_THREADS)
os.environ.pop("OPENBLAS_CORETYPE", None)  # it slows numpy where it is set

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib import metadata  # noqa: E402

import faiss  # noqa: E402
import numpy as np  # noqa: E402
import semhash  # noqa: E402
import threadpoolctl  # noqa: E402

from kdbuild.selectors import _sketch  # noqa: E402
from kdbuild.selectors._similarity import NUM_DECIMALS, greedy_cover  # noqa: E402

NUM_ROWS, DIMENSION, MAX_COSINE, NUM_PAIRS = 20_000, 384, 0.9, 5
MIN_TIMES_SEMHASH, MIN_TIMES_FAISS, MIN_SGEMM_FRAC = 3.0, 1.3, 0.7


def planted(spectrum: str, seed: int = 0) -> np.ndarray:
    """Return unit vectors, a fifth of which lie near an earlier one, at cosines on both sides of the limit."""
    rng = np.random.default_rng(seed)
    scale = np.ones(DIMENSION) if spectrum == "flat" else np.arange(1, DIMENSION + 1) ** -0.5
    vectors = rng.standard_normal((NUM_ROWS, DIMENSION)) * scale
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    copies = rng.choice(np.arange(NUM_ROWS // 2, NUM_ROWS), NUM_ROWS // 5, replace=False)
    noise = rng.standard_normal((len(copies), DIMENSION)) * scale
    noise *= rng.uniform(0.02, 0.7, (len(copies), 1)) / np.linalg.norm(noise, axis=1, keepdims=True)
    vectors[copies] = vectors[rng.integers(0, NUM_ROWS // 2, len(copies))] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def reference_kept(vectors: np.ndarray) -> np.ndarray:
    """Return the kept rows, found one row at a time in float64."""
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    kept = np.empty_like(wide)
    order: list[int] = []
    for i, vector in enumerate(wide):
        if not order or np.round(kept[: len(order)] @ vector, NUM_DECIMALS).max() < MAX_COSINE:
            kept[len(order)] = vector
            order.append(i)
    return np.array(order)


def by_semhash(vectors: np.ndarray) -> int:
    """Return how many rows semhash keeps."""
    names = [f"row {i}" for i in range(len(vectors))]
    index = semhash.SemHash.from_embeddings(vectors, names, model=None)
    return len(index.self_deduplicate(threshold=MAX_COSINE).selected)


def by_faiss(vectors: np.ndarray) -> int:
    """Return how many pairs at or above the limit faiss finds: every row with itself, and each pair twice."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return int(index.range_search(vectors, MAX_COSINE)[0][-1])


def by_kdbuild(vectors: np.ndarray) -> int:
    """Return how many rows kdbuild keeps."""
    return int((greedy_cover(vectors, MAX_COSINE).index_Q < 0).sum())


def seconds(run: Callable[[np.ndarray], int], vectors: np.ndarray) -> tuple[float, int]:
    """Return wall seconds of one run, and what it returned."""
    start = time.perf_counter()
    result = run(vectors)
    return time.perf_counter() - start, result


def compare(name: str, peer: Callable[[np.ndarray], int], vectors: np.ndarray, at_least: float | None) -> bool:
    """Run both in turns, print the paired ratios, and return whether their median reaches the limit, if there is one."""
    ratios, times, ours = [], [], []
    for _ in range(NUM_PAIRS):
        theirs_s, count = seconds(peer, vectors)
        ours_s, _ = seconds(by_kdbuild, vectors)
        ratios.append(theirs_s / ours_s)
        times.append(theirs_s)
        ours.append(ours_s)
    median = statistics.median(ratios)
    passed = at_least is None or median >= at_least
    limit = "" if at_least is None else f", at least {at_least}: {'ok' if passed else 'MISSED'}"
    print(
        f"  {name}: {statistics.median(times):.2f} s (count {count}), kdbuild {statistics.median(ours):.2f} s, "
        f"ratio {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}){limit}",
        flush=True,
    )
    return passed


def by_product(vectors: np.ndarray) -> int:
    """Multiply as often as half of all pairs take, at the rate of a product that numpy is best at; return how many were multiplied."""
    # Two different arrays: of one with itself numpy computes one half only.
    rows, others, half = vectors[:4096], vectors[4096:8192], len(vectors) // 2
    out = np.empty((len(rows), len(others)), np.float32)
    num_products = round(half * len(vectors) / len(rows) ** 2)
    for _ in range(num_products):
        np.matmul(rows, others.T, out=out)
    return num_products * len(rows) ** 2


def main() -> int:
    """Run everything; return the exit code."""
    faiss.omp_set_num_threads(NUM_THREADS)
    for library in threadpoolctl.threadpool_info():
        print({key: library[key] for key in ("internal_api", "version", "num_threads", "architecture") if key in library})
    passed = True
    for spectrum in ("flat", "steep"):
        vectors = planted(spectrum)
        kept = np.flatnonzero(greedy_cover(vectors, MAX_COSINE).index_Q < 0)
        exact = np.array_equal(kept, reference_kept(vectors))
        print(f"{spectrum}: {NUM_ROWS} x {DIMENSION}, kept {len(kept)}, exact kept set: {'ok' if exact else 'MISSED'}", flush=True)
        passed &= exact
        decides = spectrum == "flat"
        passed &= compare("faiss IndexFlatIP.range_search", by_faiss, vectors, MIN_TIMES_FAISS if decides else None)
        passed &= compare(f"semhash {metadata.version('semhash')}", by_semhash, vectors, MIN_TIMES_SEMHASH if decides else None)
    print("flat, without sketches", flush=True)
    _sketch.narrow = lambda vectors, limit: _sketch.whole(vectors)  # type: ignore[assignment]
    passed &= compare("numpy's product", by_product, planted("flat"), MIN_SGEMM_FRAC)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
