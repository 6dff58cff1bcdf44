"""Pairs of a good and a spoilt answer, written for this project: what a model that judges answers is tried on.

Each spoilt answer is a plausible one with one thing wrong (`fault`): a wrong fact, a wrong number, cut off, off the topic, repeating
itself, refusing what is harmless, against the instruction, or not in the passage. In about half of the pairs the good answer is the
longer one, so that length alone tells nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kdbuild.elicitors import _reads
from kdbuild.records import Message, Row
from kdbuild.scorers import Scorer

FILE = Path(__file__).parent / "_calibration.jsonl"
Pair = tuple[Row, Row]
"""(good, spoilt)."""


def pairs(scorer: Scorer) -> list[Pair]:
    """Return the pairs that a scorer can judge: those that have what it reads; none for a scorer that does not read the answer."""
    if not any("answer" in name.split("|") for name in scorer.reads):
        return []
    lines = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = [(_row(i, line, "good"), _row(i, line, "spoilt")) for i, line in enumerate(lines)]
    return [pair for pair in found if all(_reads.has(row, name) for row in pair for name in scorer.reads)]


def _row(i: int, line: dict[str, str], side: str) -> Row:
    context = ({"doc_id": f"passage-{i}", "text": line["context"], "score": None},) if "context" in line else ()
    messages = (Message("user", line["prompt"]), Message("assistant", line[side], train=True))
    return Row(f"calibration-{i}-{side}", messages, context=context)


def accuracy(judged: Sequence[Pair], scored: Sequence[Row], name: str) -> float:
    """Return the share of pairs whose good answer got the higher score; an equal score counts half."""
    scores = {row.id: row.scores[name] for row in scored}
    points = [_point(scores[good.id], scores[spoilt.id]) for good, spoilt in judged if good.id in scores and spoilt.id in scores]
    return round(sum(points) / len(points), 4) if points else 0.0


def _point(good: float, spoilt: float) -> float:
    return 0.5 if good == spoilt else float(good > spoilt)
