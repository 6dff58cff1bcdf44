"""What the report and the cards tell, read from the stage's inputs into plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbuild import records
from kdbuild.errors import ArtifactError
from kdbuild.records import Call, Dropped, Matched, Row
from kdbuild.report.paid import Paid, paid
from kdbuild.report.selection import (
    SORTS,
    Calibration,
    Reason,
    Score,
    Step,
    Winner,
    calibrations_of,
    other_facts,
    reasons_of,
    scores_of,
    steps_of,
    winners_of,
)
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
}
"""What the counts of the facts files are called."""


@dataclass(frozen=True)
class Line:
    """One line of the funnel."""

    step: str
    did: str
    num_dropped: int
    """Rows that end here, of both sides."""
    num_left: int
    """Rows that go on, without those set aside."""
    num_held_out: int
    """Rows set aside for evaluation."""


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
    """What its operators asked."""
    judged: Paid
    """What its scorers asked; an answer that an operator asked for too is not counted again."""
    folder: str
    schema: pa.Schema
    """Columns of the selected rows."""
    steps: tuple[Step, ...] = ()
    """The steps of its selection, in order."""
    winners: Mapping[str, Winner] = field(default_factory=dict)
    """What the examples of reasons lost to, by id."""
    scores: tuple[Score, ...] = ()
    calibrations: tuple[Calibration, ...] = ()

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
        """(Step, what, rows) of elicit.json."""
        return [
            (step, what, self.facts[step][name])
            for (step, name), what in STEP_COUNTS.items()
            if isinstance(self.facts.get(step, {}).get(name), int)
        ]

    @property
    def num_dropped(self) -> int:
        """Rows that did not go on, for whatever reason."""
        return sum(reason.count for reason in self.reasons)

    @property
    def num_rejected(self) -> int:
        """Rows that did not come as far as selection."""
        return sum(reason.count for reason in self.reasons if reason.is_rejection)

    @property
    def funnel(self) -> list[Line]:
        """What came in, and what each step left of it."""
        num_in = self.num_rejected + (self.steps[0].num_in + self.steps[0].num_held_out_in if self.steps else len(self.rows))
        num_left = self.steps[0].num_in if self.steps else self.num_training
        num_held_out = self.steps[0].num_held_out_in if self.steps else self.num_held_out
        found = [Line("rows in", "all, those that elicitation rejected included", 0, num_in, 0)]
        if self.num_rejected:
            found.append(Line("elicit", SORTS["rejected"].lower(), self.num_rejected, num_in - self.num_rejected, 0))
        if num_held_out:
            found.append(Line("held out", "set aside for evaluation; no selector compares them", 0, num_left, num_held_out))
        for step in self.steps:
            found.append(Line(step.kind, step.did, step.num_dropped + step.num_held_out_dropped, step.num_left, step.num_held_out_left))
        return found

    @property
    def facts_of_steps(self) -> list[tuple[str, str, Any]]:
        """(Step, name, value) of what steps measured of themselves, and whatever else select.json says."""
        said = [(f"{i}. {step.kind}", name, value) for i, step in enumerate(self.steps, 1) for name, value in step.facts]
        return said + [("select", name, value) for name, value in other_facts(self.facts.get("select", {}))]


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
    return Story(section, data, training, _comparison(job) if _is_evaluated(job) else None)


# --- one part each ---------------------------------------------------------------------------------------------------


def _data_part(job: Job, phase: str) -> DataPart:
    def path(name: str) -> str:
        return layout.out(job.spec, phase, name)

    steps = ReportSection.of(job.section).phases[phase]
    facts: dict[str, Facts] = {step: _json(job.root, layout.facts(job.spec, phase, step)) for step in ("elicit", "select") if step in steps}
    taken = steps_of(facts["select"])
    rows = tuple(records.read_dataset(job.input(path("selected")), Row))
    folder = job.input(path("dropped"))
    dropped = records.read_dataset(folder, Dropped)
    reasons = reasons_of(dropped)
    asked = records.read_dataset(job.input(path("calls")), Call) if "elicit" in steps else []
    return DataPart(
        phase,
        facts=facts,
        rows=rows,
        reasons=reasons,
        paid=paid(asked),
        judged=paid(_part(folder, records.JUDGED, Call), but={(call.key, call.max_new_tokens) for call in asked}),
        folder=path("selected"),
        schema=_schema(job.root / path("selected")),
        steps=taken,
        winners=winners_of(reasons, dropped, rows, _part(folder, records.MATCHED, Matched)),
        scores=_scores(folder, rows, [name for step in taken for name in step.scores]),
        calibrations=calibrations_of(facts["select"]),
    )


def _part(folder: Path, name: str, record: type) -> list[Any]:
    """Return the rows of a data set inside another, where it is there."""
    return records.read_dataset(folder / name, record) if (folder / name).is_dir() else []


def _scores(folder: Path, rows: Iterable[Row], order: list[str]) -> tuple[Score, ...]:
    if not (folder / records.SCORES).is_dir():
        return ()
    return scores_of(folder / records.SCORES, {row.id for row in rows if not row.held_out}, order)


def _schema(folder: Path) -> pa.Schema:
    import pyarrow.parquet as pq

    return pq.read_schema(min(folder.glob("*.parquet")))


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


def _json(root: Path, path: str) -> Facts:
    try:
        return dict(json.loads((root / path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ArtifactError(f"{path} is not there or is torn", hint="`dvc repro` builds it") from None
