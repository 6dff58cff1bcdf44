"""retrieve's BM25 against bm25s, and its embedding index against faiss-cpu's flat index: `python tests/bench/bench_retrieve.py`.

100,000 passages made of the words of the standard library's own docstrings. Both sides index and search what is already cut into words,
or vectors, and turns alternate; the median of the paired time ratios decides. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import os
import sys

NUM_THREADS = 1
os.environ["OMP_NUM_THREADS"] = str(NUM_THREADS)

import random  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import bm25s  # noqa: E402
import faiss  # noqa: E402
import numpy as np  # noqa: E402

from kdbuild.elicitors import _index  # noqa: E402
from kdbuild.elicitors._index import Passage  # noqa: E402
from kdbuild.elicitors._words import words  # noqa: E402
from kdbuild.seeds import _docstrings  # noqa: E402

NUM_PASSAGES, NUM_QUERIES, DIMENSION, K, NUM_PAIRS = 100_000, 300, 384, 10, 3
MIN_TIMES = {"bm25 index": 1.0, "bm25 search": 0.5, "embedding search": 1.0}
"""Least speed against the peer; the peers keep float32 (faiss) and compiled code, kdbuild gives the same order on every machine."""


def passages(seed: int = 0) -> list[str]:
    """Return passages of 20 to 120 words: real docstrings, cut and mixed."""
    draw = random.Random(seed)
    texts = [text.split() for module, source in _docstrings.files_of("python", []) for _, text in _docstrings.docstrings(module, source)]
    found = []
    for _ in range(NUM_PASSAGES):
        mixed = [word for text in draw.sample(texts, 3) for word in text[: draw.randint(7, 40)]]
        found.append(" ".join(mixed))
    return found


def seconds(run: Callable[[], object]) -> float:
    """Return wall seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], object], peer: Callable[[], object]) -> bool:
    """Run both in turns; print the medians, and return whether ours is fast enough."""
    pairs = [(seconds(ours), seconds(peer)) for _ in range(NUM_PAIRS)]
    times = statistics.median(theirs / mine for mine, theirs in pairs)
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"{name}: kdbuild {mine:.2f} s, peer {theirs:.2f} s: {times:.2f} times the peer's speed, at least {MIN_TIMES[name]}")
    return times >= MIN_TIMES[name]


def main() -> int:
    """Measure; return the exit code."""
    texts = passages()
    queries = [" ".join(random.Random(i).sample(texts[i * 7].split(), 8)) for i in range(NUM_QUERIES)]
    corpus = [Passage(str(i), text) for i, text in enumerate(texts)]

    def peer_index() -> bm25s.BM25:
        reference = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        reference.index([words(text) for text in texts], show_progress=False)
        return reference

    def search(index: _index.Index) -> list[list[tuple[int, float]]]:
        return [_index.ranked(score_N, K) for score_N in index.scores(queries)]

    fast = [compare("bm25 index", lambda: _index.WordIndex(corpus), peer_index)]
    index, reference = _index.WordIndex(corpus), peer_index()
    tokens = [words(query) for query in queries]
    fast.append(compare("bm25 search", lambda: search(index), lambda: reference.retrieve(tokens, k=K, n_threads=1, show_progress=False)))

    rng = np.random.default_rng(0)
    vector_ND = rng.standard_normal((NUM_PASSAGES, DIMENSION)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    meaning = _index.MeaningIndex(corpus, lambda some: vector_ND[: len(some)])
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vector_ND)
    fast.append(compare("embedding search", lambda: search(meaning), lambda: flat.search(vector_ND[:NUM_QUERIES], K)))
    return 0 if all(fast) else 1


if __name__ == "__main__":
    sys.exit(main())
