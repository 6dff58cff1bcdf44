"""Exact and semantic dedup of many rows whose vectors are given: `python tests/bench/million_rows.py [rows] [flat|steep]`.

A fifth of the rows are planted near another (cosine 0.9 or more), a twentieth repeat another's text. Prints time, peak memory, which share
of the planted pairs lost a row, and recall against brute force on a sample. Exits with 1 where memory or recall misses its limit. `steep`
(the default) has the spectrum of real embeddings, which makes near rows harder to tell apart; `flat` is noise in all directions.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.pop("OPENBLAS_CORETYPE", None)  # it slows numpy where it is set

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdbuild.records import Message, Row
from kdbuild.selectors import Scene
from kdbuild.selectors.exact_dedup import ExactDedup
from kdbuild.selectors.semantic_dedup import SemanticDedup

DIMENSION, MAX_COSINE, MAX_MEMORY_GB, MIN_RECALL = 384, 0.9, 8.0, 0.97
_CHUNK = 65_536


@dataclass(frozen=True)
class Planted:
    """Vectors of texts `row <i>`."""

    vectors_ND: np.ndarray
    copies: np.ndarray
    originals: np.ndarray

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of texts."""
        return self.vectors_ND[np.fromiter((int(text[4:]) for text in texts), np.int64, len(texts))]


def planted(num_rows: int, spectrum: str) -> Planted:
    """Return unit vectors, a fifth of which lie near an earlier one."""
    rng = np.random.default_rng(0)
    scale = np.ones(DIMENSION, np.float32) if spectrum == "flat" else (np.arange(1, DIMENSION + 1) ** -0.5).astype(np.float32)

    def noise(count: int) -> np.ndarray:
        made = rng.standard_normal((count, DIMENSION), dtype=np.float32) * scale
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made

    vectors = np.empty((num_rows, DIMENSION), np.float32)
    for at in range(0, num_rows, _CHUNK):
        vectors[at : at + _CHUNK] = noise(len(vectors[at : at + _CHUNK]))
    copies = rng.choice(np.arange(num_rows // 2, num_rows), num_rows // 5, replace=False)
    originals = rng.integers(0, num_rows // 2, len(copies))
    for at in range(0, len(copies), _CHUNK):
        some = copies[at : at + _CHUNK]
        near = vectors[originals[at : at + _CHUNK]] + noise(len(some)) * rng.uniform(0.02, 0.42, (len(some), 1)).astype(np.float32)
        vectors[some] = near / np.linalg.norm(near, axis=1, keepdims=True)
    return Planted(vectors, copies, originals)


def rows_of(num_rows: int) -> list[Row]:
    """Return the rows, sorted by ids that say nothing of their vectors; a twentieth repeat the text of another."""
    rng = np.random.default_rng(1)
    text = np.arange(num_rows)
    repeats = rng.choice(num_rows, num_rows // 20, replace=False)
    text[repeats] = rng.integers(0, num_rows, len(repeats))
    made = [Row(f"{i * 2654435761 % 2**32:08x}", (Message("user", f"row {told}"),)) for i, told in enumerate(text.tolist())]
    return sorted(made, key=lambda row: row.id)


def peak_gb() -> float:
    """Return the most memory this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(num_rows: int, spectrum: str) -> int:
    """Run it; return the exit code."""
    source = planted(num_rows, spectrum)
    rows = rows_of(num_rows)
    scene = Scene(Path(), embedder=source, max_memory_gb=MAX_MEMORY_GB)
    print(f"{num_rows} x {DIMENSION}, {spectrum}: {peak_gb():.2f} GB before", flush=True)
    start = time.perf_counter()
    left = [row for row, verdict in zip(rows, ExactDedup().judge(rows, scene), strict=True) if verdict.reason is None]
    print(f"exact-dedup: {time.perf_counter() - start:.1f} s, {len(left)} rows left", flush=True)
    start = time.perf_counter()
    verdicts = SemanticDedup(max_cosine=MAX_COSINE).judge(left, scene)
    semantic_s = time.perf_counter() - start
    gone = np.zeros(num_rows, bool)
    there = np.zeros(num_rows, bool)
    for row, verdict in zip(left, verdicts, strict=True):
        text = int(row.messages[0].content[4:])
        gone[text], there[text] = verdict.reason is not None, True
    pairs = there[source.copies] & there[source.originals]
    share = float((gone[source.copies] | gone[source.originals])[pairs].mean())
    recall, peak = scene.facts.get("recall", 1.0), peak_gb()
    print(f"semantic-dedup: {semantic_s:.1f} s, {sum(v.reason is None for v in verdicts)} rows left, peak {peak:.2f} GB, {scene.facts}")
    passed = peak <= MAX_MEMORY_GB and recall >= MIN_RECALL and share >= MIN_RECALL
    said = f"planted pairs that lost a row: {share:.4f} of {pairs.sum()}; recall against brute force {recall:.4f}"
    print(f"{said}: {'ok' if passed else 'MISSED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, sys.argv[2] if len(sys.argv) > 2 else "steep"))
