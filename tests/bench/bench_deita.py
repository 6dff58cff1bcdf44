"""semantic-dedup by score against DEITA's diversity filter, in one run: `python tests/bench/bench_deita.py`.

4,000 x 384, best first. The reference loop does what DEITA's `IterativeFilter` does by default (one row at a time: the kept embeddings
are put together anew, and the row stays if its highest cosine with them is below 0.9), in numpy. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import os
import sys

NUM_THREADS = 2
os.environ["OMP_NUM_THREADS"] = str(NUM_THREADS)
os.environ.pop("OPENBLAS_CORETYPE", None)  # it slows numpy where it is set

import statistics  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

from kdbuild.records import Message, Row  # noqa: E402
from kdbuild.selectors import Scene  # noqa: E402
from kdbuild.selectors._similarity import NUM_DECIMALS, unit  # noqa: E402
from kdbuild.selectors.semantic_dedup import SemanticDedup  # noqa: E402

NUM_ROWS, DIMENSION, MAX_COSINE, NUM_PAIRS, MIN_TIMES = 4000, 384, 0.9, 3, 20.0


class Given:
    """Vectors of texts that are numbers."""

    def __init__(self, vectors: np.ndarray) -> None:
        """The vectors of `0`, `1`, ..."""
        self.vectors = vectors

    def embed(self, texts: list[str]) -> np.ndarray:
        """Return the vectors of texts."""
        return self.vectors[[int(text) for text in texts]]


def planted(seed: int = 0) -> np.ndarray:
    """Return unit vectors, a fifth of which lie near another."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((NUM_ROWS, DIMENSION)).astype(np.float32))
    copies = rng.choice(NUM_ROWS, NUM_ROWS // 5, replace=False)
    noise = unit(rng.standard_normal((len(copies), DIMENSION)).astype(np.float32)) * rng.uniform(0.02, 0.7, (len(copies), 1))
    vectors[copies] = unit(vectors[rng.integers(0, NUM_ROWS, len(copies))] + noise)
    return vectors


def by_reference(vectors: np.ndarray, order: np.ndarray) -> list[int]:
    """Return the rows that the loop keeps, in its order. Vectors are lists in DEITA's files, so float64."""
    wide = vectors.astype(np.float64)
    kept: list[int] = []
    for row in order.tolist():
        if kept:
            existing = np.stack([wide[i] for i in kept])
            existing = existing / np.linalg.norm(existing, axis=1, keepdims=True)
            cosine = existing @ (wide[row] / np.linalg.norm(wide[row]))
            if round(float(cosine.max()), NUM_DECIMALS) >= MAX_COSINE:
                continue
        kept.append(row)
    return kept


def by_kdbuild(rows: list[Row], scene: Scene) -> list[int]:
    """Return the rows that kdbuild keeps."""
    verdicts = SemanticDedup(max_cosine=MAX_COSINE, by_score="quality").judge(rows, scene)
    return [i for i, verdict in enumerate(verdicts) if verdict.reason is None]


def main() -> int:
    """Run everything; return the exit code."""
    vectors = planted()
    quality = np.random.default_rng(1).permutation(NUM_ROWS)
    rows = [Row(f"{i:05d}", (Message("user", str(i)),), scores={"quality": float(quality[i])}) for i in range(NUM_ROWS)]
    scene, order = Scene(Path(), embedder=Given(vectors)), np.argsort(-quality)
    ratios, times, same = [], [], True
    for _ in range(NUM_PAIRS):
        start = time.perf_counter()
        expected = by_reference(vectors, order)
        between = time.perf_counter()
        found = by_kdbuild(rows, scene)
        times.append(time.perf_counter() - between)
        ratios.append((between - start) / times[-1])
        same &= sorted(expected) == found
    median = statistics.median(ratios)
    print(f"{NUM_ROWS} x {DIMENSION}, kept {len(found)}; same picks: {'ok' if same else 'MISSED'}")
    verdict = "ok" if median >= MIN_TIMES else "MISSED"
    said = f"ratio {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), at least {MIN_TIMES}: {verdict}"
    print(f"  kdbuild {statistics.median(times):.3f} s, {said}")
    return 0 if same and median >= MIN_TIMES else 1


if __name__ == "__main__":
    sys.exit(main())
