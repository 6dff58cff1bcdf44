"""Select: which elicited rows the student learns from, which it is examined on, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdbuild import records
from kdbuild.errors import StageError
from kdbuild.records import Dropped, Row
from kdbuild.selectors import Embed, Selector
from kdbuild.spec import layout
from kdbuild.spec.sections import SelectSection
from kdbuild.stages.job import Job
from kdbuild.stages.vectors import Vectors

if TYPE_CHECKING:
    pass

STEP = "select"


def run(job: Job) -> None:
    """Write `selected/` (kept and held-out rows), `dropped/` (all others, with the reason) and select.json.

    Held-out rows are marked by their seeds' ids and pass untouched; selectors see the training rows, sorted by id, each what the one before
    kept. Rows without an answer go from both sides, unless none has one: prompts alone can be selected too.

    A dropped row names the row it gave way to as its selector saw it; where a later selector dropped that one too, it has its own entry.

    Raises:
        StageError: no training row is left.
    """
    section = SelectSection.of(job.section)
    folder = job.input(section.rows)
    rows: list[Row] = records.read_dataset(folder, Row)
    dropped = _rejected(folder)
    num_rows = len(rows) + len(dropped)
    rows, without = _answered(rows)
    dropped += without
    rows = [replace(row, keys=(), held_out=records.is_held_out(row, section.held_out_frac)) for row in rows]
    held_out = [row for row in rows if row.held_out]
    training = [row for row in rows if not row.held_out]
    kept, selected_out = _select(training, section.selectors, Vectors(job, section.embedder).embed)
    dropped += selected_out
    if not kept:
        raise _nothing_left(num_rows, len(held_out), dropped)
    phase = job.phase or ""
    records.write_dataset(job.out(layout.out(job.spec, phase, "selected")), Row, [*kept, *held_out])
    records.write_dataset(job.out(layout.out(job.spec, phase, "dropped")), Dropped, dropped)
    facts = {"num_rows": num_rows, "num_held_out": len(held_out), "num_kept": len(kept), "num_dropped": _counts(dropped)}
    job.write_json(layout.facts(job.spec, phase, STEP), facts)


def _rejected(folder: Path) -> list[Dropped]:
    """Return the rows that elicitation already gave up, where it left any."""
    rejected = folder / records.REJECTED
    return records.read_dataset(rejected, Dropped) if rejected.is_dir() else []


def _answered(rows: Sequence[Row]) -> tuple[list[Row], list[Dropped]]:
    with_answer = [row for row in rows if (row.answer or "").strip()]
    if not with_answer:
        return list(rows), []
    known = {row.id for row in with_answer}
    return with_answer, [Dropped(row.id, STEP, "no answer", text=_for_people(row)) for row in rows if row.id not in known]


def _select(rows: list[Row], selectors: Sequence[Selector], embed: Embed) -> tuple[list[Row], list[Dropped]]:
    dropped: list[Dropped] = []
    for selector in selectors:
        kept = []
        for row, verdict in zip(rows, selector.judge(rows, embed), strict=True):
            if verdict.reason is None:
                kept.append(row)
            else:
                dropped.append(Dropped(row.id, selector.kind, verdict.reason, verdict.because_of, verdict.score, _for_people(row)))
        rows = kept
    return rows, dropped


def _for_people(row: Row) -> str:
    return "\n\n".join(f"{message.role}: {message.content}" for message in row.messages)


def _counts(dropped: Sequence[Dropped]) -> dict[str, dict[str, int]]:
    """Return how many rows were dropped, by kind and by reason."""
    counts: dict[str, Counter[str]] = {}
    for row in dropped:
        counts.setdefault(row.by, Counter())[row.reason] += 1
    return {kind: dict(reasons) for kind, reasons in counts.items()}


def _nothing_left(num_rows: int, num_held_out: int, dropped: Sequence[Dropped]) -> StageError:
    gone = sorted((kind, reason, count) for kind, reasons in _counts(dropped).items() for reason, count in reasons.items())
    why = "".join(f"; {count} by {kind}: {reason}" for kind, reason, count in gone)
    return StageError(
        f"no training row is left of {num_rows}: {num_held_out} held out{why}",
        hint="loosen the selectors, add seeds, or lower `held_out_frac`",
    )
