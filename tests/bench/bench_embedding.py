"""The sentence-transformers embedder against `SentenceTransformer.encode` at its defaults: `python tests/bench/bench_embedding.py [MODEL]`.

256 texts of lognormal length (median about 50 tokens, sigma 1), in random order, by the real all-MiniLM-L6-v2: its folder is MODEL, by
default the embedder of this project (`dvc repro model_embedder` fetches it). Both have the model loaded and two threads; ours counts
tokens too. encode sorts by characters, cuts batches of 32 texts, and both threads share each; ours are cut by tokens, one thread each. They
take turns; the median of the paired ratios of wall time decides, CPU time stands beside it. Vectors may differ by 1e-5. Exits with 1 where
a limit is missed.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from pathlib import Path
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "2"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
from sentence_transformers import SentenceTransformer

from kdbuild.embedders import sentence_transformers as ours

NUM_TEXTS, NUM_PAIRS, AT_LEAST, MAX_DIFFERENCE = 256, 5, 1.3, 1e-5
WORDS = re.findall(r"[a-z]{3,}", (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").lower())


def texts(seed: int = 0) -> list[str]:
    """Return texts of ordinary words, of lognormal length."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(38), 1.0, NUM_TEXTS)).astype(int) + 1
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def timed(run) -> tuple[float, float, np.ndarray]:
    """Return wall seconds, CPU seconds, and the vectors."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    vectors = run()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s, vectors


def main() -> int:
    """Run everything; return the exit code."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts/models/embedder/weights")
    given, model = texts(), SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    embedder = ours.SentenceTransformers(model="path:models/minilm", device="cpu")
    walls, cpus, difference = [], [], 0.0
    with mock.patch.object(ours, "_load", return_value=model):
        embedder.embed(given[:32], folder)
        for _ in range(NUM_PAIRS):
            their_wall, their_cpu, theirs = timed(lambda: model.encode(given, normalize_embeddings=True, show_progress_bar=False))
            our_wall, our_cpu, vectors = timed(lambda: embedder.embed(given, folder))
            walls.append(their_wall / our_wall)
            cpus.append(their_cpu / our_cpu)
            difference = max(difference, float(np.abs(theirs - vectors).max()))
            print(f"encode {their_wall:.2f} s ({their_cpu:.2f} CPU), kdbuild {our_wall:.2f} s ({our_cpu:.2f} CPU)", flush=True)
    print(f"wall: {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f})")
    print(f"CPU: {statistics.median(cpus):.2f} ({min(cpus):.2f} to {max(cpus):.2f}); largest difference {difference:.1e}")
    passed = statistics.median(walls) >= AT_LEAST and difference <= MAX_DIFFERENCE
    print(f"at least {AT_LEAST}, at most {MAX_DIFFERENCE} apart: {'ok' if passed else 'MISSED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
