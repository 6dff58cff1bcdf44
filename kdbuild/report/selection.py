"""The account of a selection: what each step left, why rows are not there, what they were worth, and how far a judge can be trusted."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbuild import records
from kdbuild.kinds import available
from kdbuild.records import Dropped, Matched, Row

Facts = dict[str, Any]

EXAMPLES_PER_REASON = 5
MOST_REASONS = 40
"""Reasons shown of each sort; the others are counted."""
MOST_SCORES = 24
"""Scores shown of a phase; the others are named."""
MOST_FACTS = 40
"""Facts shown of a step."""
KNOWN_FACTS = frozenset(("num_rows", "num_held_out", "num_kept", "num_dropped", "steps", "calibration"))
"""What the page tells of select.json in its own way; anything else in it is listed as it is."""

Sort = Literal["dropped", "failed", "rejected"]
SORTS: dict[Sort, str] = {
    "dropped": "Dropped by selection",
    "failed": "Set apart: their scorer failed",
    "rejected": "Rejected before selection: the answer could not be used",
}


# --- steps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What one step of the selection did."""

    kind: str
    num_in: int
    """Rows to train on before it."""
    num_left: int
    """Rows to train on after it."""
    num_held_out_in: int
    num_held_out_left: int
    scores: tuple[str, ...] = ()
    """The scores it gave rows; only scorers have some."""
    facts: tuple[tuple[str, Any], ...] = ()
    """What it measured of itself, such as a recall: (name, value)."""

    @property
    def num_dropped(self) -> int:
        """Rows to train on that it took out, or that could not be scored."""
        return self.num_in - self.num_left

    @property
    def num_held_out_dropped(self) -> int:
        """Held-out rows that it took out."""
        return self.num_held_out_in - self.num_held_out_left

    @property
    def did(self) -> str:
        """What it did, in words."""
        if self.kind == "select":
            return "left out what has no answer"
        return f"scored: {', '.join(self.scores)}" if self.scores else "selected"


def steps_of(facts: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the steps that select.json tells of, in order."""
    return tuple(
        Step(
            kind=one["kind"],
            num_in=one["num_training_in"],
            num_left=one["num_training_left"],
            num_held_out_in=one["num_held_out_in"],
            num_held_out_left=one["num_held_out_left"],
            scores=tuple(one.get("scores", ())),
            facts=tuple(flat(one.get("facts", {})))[:MOST_FACTS],
        )
        for one in facts.get("steps", ())
    )


def flat(facts: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of every single value in nested facts; the name of an inner one begins with the outer ones'."""
    if isinstance(facts, Mapping):
        for key, value in facts.items():
            yield from flat(value, f"{name}: {key}" if name else str(key))
    elif isinstance(facts, list):
        for i, value in enumerate(facts):
            yield from flat(value, f"{name} {i + 1}".strip())
    else:
        yield name, facts


def other_facts(facts: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return what select.json says beside what the page tells in its own way."""
    return tuple(flat({name: value for name, value in facts.items() if name not in KNOWN_FACTS}))[:MOST_FACTS]


# --- reasons ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reason:
    """One reason for which rows did not go on."""

    by: str
    """The kind that dropped them."""
    reason: str
    count: int
    examples: tuple[Dropped, ...]
    """The first few by id."""

    @property
    def sort(self) -> Sort:
        """Whether good rows were chosen among, a row could not be scored, or an answer could not be used."""
        if self.by in available("scorers"):
            return "failed"
        return "rejected" if self.by in available("elicitors") else "dropped"

    @property
    def is_rejection(self) -> bool:
        """Whether it was an answer that could not be used, and not a selection among good ones."""
        return self.sort == "rejected"

    @property
    def told(self) -> str:
        """What happened to its rows, in a word or two."""
        return {"dropped": "dropped", "failed": "not scored", "rejected": "rejected"}[self.sort]


def reasons_of(dropped: Iterable[Dropped]) -> tuple[Reason, ...]:
    """Return the reasons, those with most rows first."""
    groups: dict[tuple[str, str], list[Dropped]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for one in dropped:
        counts[one.by, one.reason] += 1
        examples = groups.setdefault((one.by, one.reason), [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(one)
    found = [Reason(by, reason, counts[by, reason], tuple(rows)) for (by, reason), rows in groups.items()]
    return tuple(sorted(found, key=lambda reason: (-reason.count, reason.by, reason.reason)))


@dataclass(frozen=True)
class Winner:
    """What a dropped row lost to."""

    said: str
    """How it stands to the dropped row: `kept instead`."""
    text: str


def winners_of(reasons: Sequence[Reason], dropped: Sequence[Dropped], rows: Iterable[Row], matched: Iterable[Matched]) -> dict[str, Winner]:
    """Return what the examples lost to, by id: rows that are kept, rows that a later step dropped, and what is no row of the phase."""
    wanted = {one.because_of for reason in reasons for one in reason.examples if one.because_of}
    found = {one.id: Winner("matched, outside this data set", one.text) for one in matched if one.id in wanted}
    found |= {one.id: Winner(f"kept instead, and later dropped itself by {one.by}", one.text) for one in dropped if one.id in wanted}
    return found | {row.id: Winner("kept instead", text_of(row)) for row in rows if row.id in wanted}


def text_of(row: Row) -> str:
    """Return a row as people read it: its turns, one after the other."""
    return "\n".join(f"{message.role}: {message.content}" for message in row.messages)


# --- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """The values of one score."""

    name: str
    kept: tuple[float, ...]
    """Of rows to train on, sorted; of rows without an answer those of their candidates."""
    dropped: tuple[float, ...]
    """Of rows that did not go on, sorted."""


def quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Return the least, the tenth, the middle, the ninetieth percentile and the greatest of sorted values, at least one."""
    if len(values) == 1:
        return (values[0],) * 5
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return values[0], tenths[0], tenths[4], tenths[8], values[-1]


def scores_of(folder: Path, kept: Collection[str], order: Sequence[str]) -> tuple[Score, ...]:
    """Return the scores in `folder` (a data set of `Scored`), first those of `order`; `kept` are the ids of the rows that went on.

    Raises:
        ArtifactError: the folder is not what its manifest says.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    files = [name for name in sorted(records.read_manifest(folder)["files"]) if name.endswith(".parquet")]
    table = pa.concat_tables(pq.read_table(folder / name) for name in files)
    names = pc.replace_substring_regex(table["name"], r"\[\d+\]$", "")
    is_kept = pc.is_in(table["id"], pa.array(sorted(kept), pa.string()))

    def values(mask: Any) -> tuple[float, ...]:
        return tuple(sorted(table["value"].filter(mask).to_pylist()))

    found = []
    for name in sorted(names.unique().to_pylist(), key=lambda name: (order.index(name) if name in order else len(order), name)):
        mine = pc.equal(names, name)
        found.append(Score(name, values(pc.and_(mine, is_kept)), values(pc.and_not(mine, is_kept))))
    return tuple(found)


# --- judges ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """How often a judge's higher score went to the good one of a shipped pair."""

    score: str
    accuracy: float
    num_pairs: int

    @property
    def meaning(self) -> str:
        """What that means, in a sentence."""
        if not self.num_pairs:
            return "No shipped pair has what it reads: how far it can be trusted is not known."
        # Two standard deviations of a judge that guesses.
        margin = 1 / math.sqrt(self.num_pairs)
        if self.accuracy < 0.5 - margin:
            return "This is worse than chance: what it scores high is rather the worse answer."
        if self.accuracy <= 0.5 + margin:
            return "This cannot be told from chance (0.5): nothing here says that it knows good answers from bad ones."
        if self.accuracy < 0.8:
            return "This is better than chance (0.5), and still often wrong."
        return "It tells plain faults from good answers (chance is 0.5); how it does on finer differences was not tried."


def calibrations_of(facts: Mapping[str, Any]) -> tuple[Calibration, ...]:
    """Return the calibrations that select.json tells of."""
    found = facts.get("calibration", {})
    return tuple(Calibration(name, float(one["accuracy"]), int(one["num_pairs"])) for name, one in found.items())
