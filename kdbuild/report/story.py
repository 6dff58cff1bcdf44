"""What the report and the cards tell, read from the stage's inputs into plain values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbuild import records
from kdbuild.errors import ArtifactError
from kdbuild.kinds import available
from kdbuild.records import Call, Dropped, Row
from kdbuild.rows.answers import decode
from kdbuild.spec import layout
from kdbuild.spec.sections import ReportSection
from kdbuild.stages.job import Job

if TYPE_CHECKING:
    import pyarrow as pa

Facts = dict[str, Any]

STEP_COUNTS = {
    ("elicit", "num_seeds"): "came in",
    ("elicit", "num_rows"): "made from the teacher's answers",
    ("elicit", "num_failed"): "without an answer, accepted by the spec",
    ("elicit", "num_cut"): "whose answer was cut at the token limit",
    ("select", "num_rows"): "came in, rejected ones included",
}
"""What the counts of the facts files are called."""


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
    def is_rejection(self) -> bool:
        """Whether it was an answer that could not be used, and not a selection among good ones."""
        return self.by in available("elicitors")


@dataclass(frozen=True)
class Paid:
    """The answers of a phase; an answer that two rows share was paid for once and counts once."""

    num_answers: int
    num_cut: int
    """Answers that reached the token limit."""
    num_prompt_tokens: int
    num_answer_tokens: int
    lengths: tuple[int, ...]
    """Tokens of each answer, sorted."""


@dataclass(frozen=True)
class DataPart:
    """A phase that made a data set."""

    phase: str
    facts: dict[str, Facts]
    """Contents of elicit.json and select.json."""
    rows: tuple[Row, ...]
    """What it selected, both sides, by id."""
    reasons: tuple[Reason, ...]
    paid: Paid
    folder: str
    schema: pa.Schema
    """Columns of the selected rows."""

    @property
    def num_held_out(self) -> int:
        """Rows kept from training."""
        return sum(row.held_out for row in self.rows)

    @property
    def num_training(self) -> int:
        """Rows to train on."""
        return len(self.rows) - self.num_held_out

    @property
    def counts(self) -> list[tuple[str, str, int]]:
        """(Step, what, rows) of elicit.json and select.json; what was kept and dropped is counted from the data sets themselves."""
        return [
            (step, what, self.facts[step][name])
            for (step, name), what in STEP_COUNTS.items()
            if isinstance(self.facts.get(step, {}).get(name), int)
        ]

    @property
    def num_dropped(self) -> int:
        """Rows that did not go on, for whatever reason."""
        return sum(reason.count for reason in self.reasons)


@dataclass(frozen=True)
class TrainPart:
    """A phase that trained."""

    phase: str
    facts: Facts
    curves: dict[str, tuple[tuple[float, float], ...]]
    """Name to (optimiser step, value)."""
    folder: str


@dataclass(frozen=True)
class Comparison:
    """The models side by side."""

    metrics: dict[str, dict[str, float]]
    """Model to metric to value, models in order: `init`, phases, `teacher`."""
    better: dict[str, str]
    """Metric to `lower` or `higher`."""
    num_held_out_rows: int
    samples: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Story:
    """Everything the report says."""

    section: ReportSection
    data: tuple[DataPart, ...]
    training: tuple[TrainPart, ...]
    comparison: Comparison | None
    texts: dict[str, str] = field(default_factory=dict)
    """Row id to its prompt and answer, for the rows that made another superfluous."""

    @property
    def target(self) -> str:
        """What it is for, in words."""
        return str(self.section.target.skill or self.section.target.vertical)

    @property
    def last_phase(self) -> str | None:
        """The phase that left the final model; None where nothing was trained."""
        return self.training[-1].phase if self.training else None


def gather(job: Job) -> Story:
    """Read the stage's inputs.

    Raises:
        ArtifactError: one of them is missing or torn.
    """
    section = ReportSection.of(job.section)
    data = tuple(_data_part(job, phase) for phase, steps in section.phases.items() if "select" in steps)
    training = tuple(_train_part(job, phase) for phase, steps in section.phases.items() if "train" in steps)
    wanted = {d.because_of for part in data for reason in part.reasons for d in reason.examples if d.because_of}
    texts = {row.id: text_of(row) for part in data for row in part.rows if row.id in wanted}
    return Story(section, data, training, _comparison(job) if _is_evaluated(job) else None, texts)


def text_of(row: Row) -> str:
    """Return a row as people read it: its turns, one after the other."""
    return "\n".join(f"{message.role}: {message.content}" for message in row.messages)


# --- one part each ---------------------------------------------------------------------------------------------------

EXAMPLES_PER_REASON = 5


def _data_part(job: Job, phase: str) -> DataPart:
    def path(name: str) -> str:
        return layout.out(job.spec, phase, name)

    steps = ReportSection.of(job.section).phases[phase]
    return DataPart(
        phase,
        facts={step: _json(job.root, layout.facts(job.spec, phase, step)) for step in ("elicit", "select") if step in steps},
        rows=tuple(records.read_dataset(job.input(path("selected")), Row)),
        reasons=_reasons(records.read_dataset(job.input(path("dropped")), Dropped)),
        paid=_paid(records.read_dataset(job.input(path("calls")), Call) if "elicit" in steps else ()),
        folder=path("selected"),
        schema=_schema(job.root / path("selected")),
    )


def _schema(folder: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    return pq.read_schema(min(folder.glob("*.parquet")))


def _reasons(dropped: Iterable[Dropped]) -> tuple[Reason, ...]:
    groups: dict[tuple[str, str], list[Dropped]] = {}
    for one in dropped:
        groups.setdefault((one.by, one.reason), []).append(one)
    found = [Reason(by, reason, len(rows), tuple(rows[:EXAMPLES_PER_REASON])) for (by, reason), rows in groups.items()]
    return tuple(sorted(found, key=lambda reason: (-reason.count, reason.by, reason.reason)))


def _paid(calls: Iterable[Call]) -> Paid:
    answers = [decode(text) for text in {(call.key, call.max_new_tokens): call.answer for call in calls}.values()]
    answered = [answer for answer in answers if answer.failed is None]
    return Paid(
        num_answers=len(answered),
        num_cut=sum(not answer.ended for answer in answered),
        num_prompt_tokens=sum(answer.num_prompt_tokens for answer in answered),
        num_answer_tokens=sum(answer.num_new_tokens for answer in answered),
        lengths=tuple(sorted(answer.num_new_tokens for answer in answered)),
    )


def _train_part(job: Job, phase: str) -> TrainPart:
    facts = _json(job.root, layout.facts(job.spec, phase, "train"))
    return TrainPart(phase, facts, _curves(facts), layout.out(job.spec, phase, "model"))


def _curves(facts: Facts) -> dict[str, tuple[tuple[float, float], ...]]:
    """Return what train.json has by step: every list of mappings with a `step` is one or more curves."""
    points: dict[str, list[tuple[float, float]]] = {}
    for table in facts.values():
        if not isinstance(table, list):
            continue
        for line in table:
            if isinstance(line, Mapping) and isinstance(line.get("step"), int):
                for name, value in line.items():
                    if name != "step" and _is_number(value):
                        points.setdefault(name, []).append((float(line["step"]), float(value)))
    loss_first = sorted(points, key=lambda name: (not name.startswith("loss"), name))
    shown: dict[str, tuple[tuple[float, float], ...]] = {}
    for name in loss_first:
        line = tuple(points[name])
        # With one objective its own curve is the loss again.
        if len(line) > 1 and line not in shown.values():
            shown[name] = line
    return shown


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_evaluated(job: Job) -> bool:
    """Return whether the spec has an evaluate stage. Its section says so, not a metrics.json that an earlier form of the spec left."""
    return "evaluate" in _json(job.root, layout.resolved(job.spec))


def _comparison(job: Job) -> Comparison:
    given = _json(job.root, layout.metrics(job.spec))
    folder = job.input(layout.out(job.spec, "evaluate", "plots"))
    files = sorted(folder.glob(layout.metric_file("*")))
    lines = [line for file in files for line in json.loads(file.read_text(encoding="utf-8"))]
    metrics: dict[str, dict[str, float]] = {}
    for line in lines:
        metrics.setdefault(line["model"], {})[line["metric"]] = line["value"]
    return Comparison(
        metrics=metrics,
        better={line["metric"]: line["better"] for line in lines},
        num_held_out_rows=int(given["num_held_out_rows"]),
        samples=tuple(json.loads((folder / "samples.json").read_text(encoding="utf-8"))),
    )


def scalars(facts: Facts) -> dict[str, Any]:
    """Return what of a facts file is one value each."""
    return {name: value for name, value in facts.items() if isinstance(value, (str, bool)) or _is_number(value)}


def by_kind(reasons: Iterable[Reason]) -> Counter[str]:
    """Return how many rows each kind dropped."""
    counts: Counter[str] = Counter()
    for reason in reasons:
        counts[reason.by] += reason.count
    return counts


def _json(root: Path, path: str) -> Facts:
    try:
        return dict(json.loads((root / path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ArtifactError(f"{path} is not there or is torn", hint="`dvc repro` builds it") from None
