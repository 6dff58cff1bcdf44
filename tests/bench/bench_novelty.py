"""novelty's core against the loop with rouge-score, in one run: `python tests/bench/bench_novelty.py`.

20,000 generated instructions, a quarter of them edits of another, at limit 0.7. The loop compares each instruction with every one kept
before it and would take hours for all of them, so both go through the first 400, in turns, and must decide alike: the measured ratio is
that of these 400. kdbuild then goes through all 20,000. The loop's time for those is a scaled number, and is called so: its time a pair
of the part, times the pairs that kdbuild's decisions say the loop would have scored; the ratio of it to kdbuild's measured time decides
too. Instructions are drawn anew, so that nobody tunes to them. Exits with 1 where a limit is missed.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

from kdbuild.elicitors._novelty import Pool

NUM_ROWS, NUM_PART, NUM_PAIRS, LIMIT, MIN_TIMES = 20_000, 400, 5, 0.7, 20.0
FRAMES = (
    "Write a {} about the {} of {}.",
    "Explain how {} can be {} with {}.",
    "Give me a list of {} {} that {}.",
    "What is the {} between {} and {}?",
    "Rewrite the following {} so that it sounds {}: {}",
    "Classify the {} as {} or {}.",
)
SYLLABLES = "ba ce di fo gu ha je ki lo mi nu pa qe ri so tu va we xi yo"


def instructions(seed: int = 0) -> list[str]:
    """Return instructions whose words are as unequally frequent as a language's."""
    rng, syllables = random.Random(seed), SYLLABLES.split()
    vocabulary = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(8000)]
    weights = [(i + 1) ** -0.9 for i in range(len(vocabulary))]
    made: list[str] = []
    for _ in range(NUM_ROWS):
        if made and rng.random() < 0.25:
            found = rng.choice(made).split()
            for _ in range(rng.randint(1, max(1, len(found) // 2))):
                found[rng.randrange(len(found))] = rng.choices(vocabulary, weights)[0]
            made.append(" ".join(found))
        else:
            made.append(rng.choice(FRAMES).format(*(" ".join(rng.choices(vocabulary, weights, k=rng.randint(1, 5))) for _ in range(3))))
    return made


def by_rouge_score(texts: Sequence[str]) -> list[bool]:
    """Return which texts are kept, as self-instruct's own loop finds it."""
    scorer, kept, verdicts = RougeScorer(["rougeL"], use_stemmer=False), [], []
    for text in texts:
        verdicts.append(max((scorer.score(other, text)["rougeL"].fmeasure for other in kept), default=0.0) < LIMIT)
        if verdicts[-1]:
            kept.append(text)
    return verdicts


def by_kdbuild(texts: Sequence[str]) -> list[bool]:
    """Return which texts are kept, as kdbuild finds it."""
    pool, verdicts = Pool(LIMIT, texts), []
    for i, text in enumerate(texts):
        verdicts.append(pool.nearest(text) is None)
        if verdicts[-1]:
            pool.add(str(i), text)
    return verdicts


def num_scored(verdicts: Sequence[bool]) -> int:
    """Return how many pairs the loop scores: each text with those kept before it."""
    pairs = kept = 0
    for verdict in verdicts:
        pairs += kept
        kept += verdict
    return pairs


def main() -> int:
    """Run everything; return the exit code."""
    texts = instructions()
    part, ratios, per_pair_s, same = texts[:NUM_PART], [], [], True
    for _ in range(NUM_PAIRS):
        start = time.process_time()
        theirs = by_rouge_score(part)
        theirs_s = time.process_time() - start
        start = time.process_time()
        ours = by_kdbuild(part)
        ours_s = time.process_time() - start
        same &= theirs == ours
        ratios.append(theirs_s / ours_s)
        per_pair_s.append(theirs_s / num_scored(theirs))
    ratio = statistics.median(ratios)
    print(
        f"first {NUM_PART}, kept {sum(ours)}: same decisions: {'ok' if same else 'MISSED'}; CPU time ratio {ratio:.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f}), at least {MIN_TIMES:g}: {'ok' if ratio >= MIN_TIMES else 'MISSED'}",
        flush=True,
    )
    start = time.process_time()
    verdicts = by_kdbuild(texts)
    ours_s = time.process_time() - start
    scaled_s = statistics.median(per_pair_s) * num_scored(verdicts)
    passed = same and ratio >= MIN_TIMES and scaled_s / ours_s >= MIN_TIMES
    print(
        f"all {NUM_ROWS}, kept {sum(verdicts)}: kdbuild {ours_s:.1f} s; the loop, scaled from the part and not run, {scaled_s:.0f} s "
        f"(ratio {scaled_s / ours_s:.0f})"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
