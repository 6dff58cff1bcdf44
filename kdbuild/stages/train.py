"""The stage that trains one phase."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from kdbuild import records
from kdbuild.records import Row
from kdbuild.spec import layout
from kdbuild.spec.sections import TrainSection
from kdbuild.stages.job import Job


@dataclass(frozen=True)
class Sides:
    """The rows of a phase, and what was kept out of training."""

    trained: tuple[Row, ...]
    num_rows_left_out_held_out: int
    num_rows_left_out_equal_to_held_out: int


def run(job: Job) -> None:
    """Write `artifacts/<spec>/<phase>/model/`, `adapter/` where there is an adaptation, and `train.json`."""
    from kdbuild.training.launch import train
    from kdbuild.training.task import OnlineTeacher, Task

    section = TrainSection.of(job.section)
    phase = job.phase or ""
    sides = split_sides(row for path in section.data for row in records.read_dataset(job.input(path), Row))
    model_out = job.out(layout.out(job.spec, phase, "model"))
    adapter_out = job.out(layout.out(job.spec, phase, "adapter")) if section.adaptation else None
    needed = {objective.teacher or "" for objective in section.objectives if objective.is_online}
    stored = [use for key, use in section.teachers.items() if key not in needed]
    trained = train(
        Task(
            root=job.root,
            start=job.input(section.start),
            rows=sides.trained,
            objectives=tuple(section.objectives),
            teachers={
                key: OnlineTeacher(use.name, job.teacher(use), job.weights(use.weights))
                for key, use in section.teachers.items()
                if key in needed
            },
            adaptation=section.adaptation,
            train=section.train,
            runtime=job.runtime,
            model_out=model_out,
            adapter_out=adapter_out,
            checkpoints=job.scratch(f"train-{job.name}"),
            key=job.input_digest(section.start, *section.data, *section.features),
            features=tuple(job.input(path) for path in section.features),
            expected={use.name: job.teacher(use).answer_identity(job.root) for use in stored},
        )
    )
    for folder in filter(None, (model_out, adapter_out)):
        records.write_manifest(folder, {})
    left_out = {name: value for name, value in asdict(sides).items() if name != "trained"}
    job.write_json(layout.facts(job.spec, phase, "train"), {**asdict(trained), **left_out})


def split_sides(rows: Iterable[Row]) -> Sides:
    """Leave out held-out rows, and rows whose prompt or answer is that of one; sorted by id."""
    ordered = sorted(rows, key=lambda row: (row.id, row.messages))
    held_out = [row for row in ordered if row.held_out]
    prompts = {_prompt(row) for row in held_out} - {""}
    answers = {_normal(row.answer or "") for row in held_out} - {""}
    rest = [row for row in ordered if not row.held_out]
    trained = tuple(row for row in rest if _prompt(row) not in prompts and _normal(row.answer or "") not in answers)
    return Sides(trained, len(held_out), len(rest) - len(trained))


def _prompt(row: Row) -> str:
    """Return what a row asks, in normal form; system turns, which many rows share, are not part of the question."""
    return _normal("\n".join(message.content for message in row.prompt if message.role != "system"))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
