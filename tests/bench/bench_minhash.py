"""minhash-dedup against datasketch and against bare rensa, in one run: `python tests/bench/bench_minhash.py`.

20,000 generated texts of about 150 words, a fifth of them edits of another, at limit 0.7 and runs of three words. Two ratios have limits:

- From hashed shingles to candidates (sign, look for, put in): datasketch with `update_batch`, from the same hashes as kdbuild. Printed
  beside it: datasketch from bytes, which it hashes then, and both the whole way from texts.
- The whole way from texts to the kept set, against the shortest loop with rensa (words by the same function, shingle, sign, query,
  insert), which decides by the bands alone and verifies nothing.

The kept set of a sample is compared with exact Jaccard. Median of paired CPU time ratios; exits with 1 where a limit is missed.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rensa
from datasketch import MinHash, MinHashLSH

from kdbuild.elicitors._words import words
from kdbuild.records import Message, Row
from kdbuild.selectors import Scene
from kdbuild.selectors._shingles import NUM_HASHES, SEED, Index, Runs, hashes_per_band, runs_of
from kdbuild.selectors.minhash_dedup import MinhashDedup

NUM_ROWS, NUM_SIGNED, NUM_SAMPLE, NUM_PAIRS, LIMIT, NUM_WORDS = 20_000, 4_000, 2_000, 5, 0.7, 3
MIN_TIMES_DATASKETCH, MAX_TIMES_RENSA = 50.0, 1.2


def texts(seed: int = 0) -> list[str]:
    """Return texts of 100 to 200 words, a fifth of which lie near another, on both sides of the limit."""
    rng = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(20_000)]
    made: list[list[str]] = []
    for _ in range(NUM_ROWS):
        if made and rng.random() < 0.2:
            found = list(rng.choice(made))
            for _ in range(rng.randint(0, len(found) // 8)):
                found[rng.randrange(len(found))] = rng.choice(vocabulary)
        else:
            found = rng.choices(vocabulary, k=rng.randint(100, 200))
        made.append(found)
    return [" ".join(found) for found in made]


def shingles(text: str) -> list[str]:
    """Return the distinct runs of words of a text, the words being those that kdbuild takes."""
    found = words(text)
    return list(set(map(" ".join, zip(*(found[i:] for i in range(NUM_WORDS)), strict=False))))


def found_by_datasketch(sets: list[Any], **options: Any) -> int:
    """Sign each set, look for it, and put it in, with datasketch and the same bands; return how many were found."""
    per_band, num_found = hashes_per_band(LIMIT), 0
    index = MinHashLSH(num_perm=NUM_HASHES, params=(NUM_HASHES // per_band, per_band))
    for i, one in enumerate(sets):
        signature = MinHash(NUM_HASHES, **options)
        signature.update_batch(one)
        num_found += bool(index.query(signature))
        index.insert(str(i), signature)
    return num_found


def by_datasketch(rows: list[Row]) -> int:
    """Return how many rows share no band with one before, by datasketch."""
    return len(rows) - found_by_datasketch([[shingle.encode() for shingle in shingles(row.messages[0].content)] for row in rows])


def found_by_kdbuild(runs: Runs) -> int:
    """Do the same with kdbuild's index."""
    index, num_found = Index(runs, LIMIT), 0
    for text, signature in index.signed(index.like_any()):
        num_found += bool(index.possible(signature))
        index.add(text, signature)
    return num_found


def by_rensa(rows: list[Row]) -> int:
    """Return how many rows are kept by bands alone."""
    num_bands, num_kept = NUM_HASHES // hashes_per_band(LIMIT), 0
    num_hashes = num_bands * hashes_per_band(LIMIT)
    index = rensa.RMinHashLSH(LIMIT, num_hashes, num_bands)
    for i, row in enumerate(rows):
        signature = rensa.RMinHash(num_hashes, SEED)
        signature.update(shingles(row.messages[0].content))
        if not index.query(signature):
            index.insert(i, signature)
            num_kept += 1
    return num_kept


def by_kdbuild(rows: list[Row]) -> int:
    """Return how many rows kdbuild keeps."""
    return sum(verdict.reason is None for verdict in judged(rows))


def judged(rows: list[Row]) -> list[Any]:
    """Return kdbuild's verdicts."""
    return MinhashDedup(max_jaccard=LIMIT, num_words=NUM_WORDS, of="prompt").judge(rows, Scene(Path()))


def exact_kept(rows: list[Row]) -> list[str]:
    """Return the rows that exact Jaccard with every kept one keeps, by an inverted index of shingles: no pair is left out."""
    kept: dict[int, set[str]] = {}
    holding: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        words = row.messages[0].content.split()
        mine = {" ".join(words[at : at + NUM_WORDS]) for at in range(len(words) - NUM_WORDS + 1)}
        near = {j for shingle in mine for j in holding.get(shingle, ())}
        if all(len(mine & kept[j]) / len(mine | kept[j]) < LIMIT for j in near):
            kept[i] = mine
            for shingle in mine:
                holding.setdefault(shingle, []).append(i)
    return [rows[i].id for i in kept]


def ratios(peer: Callable[[], int], own: Callable[[], int]) -> list[float]:
    """Return the peer's CPU time over kdbuild's, of runs in turns."""
    found = []
    for _ in range(NUM_PAIRS):
        start = time.process_time()
        peer()
        middle = time.process_time()
        own()
        found.append((middle - start) / (time.process_time() - middle))
    return found


def shown(what: str, found: list[float]) -> float:
    """Print ratios; return their median."""
    median = statistics.median(found)
    print(f"{what}: {median:.2f} ({min(found):.2f} to {max(found):.2f})", flush=True)
    return median


def main() -> int:
    """Run everything; return the exit code."""
    rows = [Row(f"{i:06}", (Message("user", text),)) for i, text in enumerate(texts())]
    sample, few = rows[:NUM_SAMPLE], rows[:NUM_SIGNED]
    kept = [row.id for row, verdict in zip(sample, judged(sample), strict=True) if verdict.reason is None]
    exact = kept == exact_kept(sample)
    print(f"sample of {NUM_SAMPLE}: kept {len(kept)}, as exact Jaccard: {'ok' if exact else 'MISSED'}", flush=True)
    runs = runs_of([row.messages[0].content for row in few], NUM_WORDS)
    sets = [[shingle.encode() for shingle in shingles(row.messages[0].content)] for row in few]
    hashes = [[shingle & 0xFFFFFFFF for shingle in set(runs.of(i).tolist())] for i in range(NUM_SIGNED)]
    start = f"from shingles to candidates, {NUM_SIGNED} texts, datasketch / kdbuild"
    shown(f"{start} from bytes, kdbuild from hashes", ratios(lambda: found_by_datasketch(sets), lambda: found_by_kdbuild(runs)))
    signed = shown(f"{start}, both from hashes", ratios(lambda: found_by_datasketch(hashes, hashfunc=int), lambda: found_by_kdbuild(runs)))
    shown("from texts to kept rows, datasketch / kdbuild", ratios(lambda: by_datasketch(few), lambda: by_kdbuild(few)))
    start = f"from texts to kept rows, {NUM_ROWS} texts, bare rensa / kdbuild"
    whole = 1 / shown(start, ratios(lambda: by_rensa(rows), lambda: by_kdbuild(rows)))
    print(f"kept {by_kdbuild(rows)}, rensa alone {by_rensa(rows)}")
    fast, near = signed >= MIN_TIMES_DATASKETCH, whole <= MAX_TIMES_RENSA
    print(f"datasketch / kdbuild {signed:.1f}, at least {MIN_TIMES_DATASKETCH:g}: {'ok' if fast else 'MISSED'}")
    print(f"kdbuild / bare rensa {whole:.2f}, at most {MAX_TIMES_RENSA:g}: {'ok' if near else 'MISSED'}")
    return 0 if exact and fast and near else 1


if __name__ == "__main__":
    sys.exit(main())
