"""One training phase, complete: what the loop is given, in this process or written out for others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdbuild import canonical, kinds, records
from kdbuild.adaptations import Adaptation
from kdbuild.objectives import Objective
from kdbuild.spec.model import Runtime, Train
from kdbuild.teachers import Teacher

JOB = "task.json"
ROWS = "rows"


@dataclass(frozen=True)
class OnlineTeacher:
    """A teacher that objectives match while the student trains."""

    name: str
    """Its name in params.yaml."""
    teacher: Teacher
    weights: Path | None


@dataclass(frozen=True)
class Task:
    """Everything a training phase needs; paths are absolute."""

    root: Path
    """The project's folder."""
    start: Path
    """Folder of the model it starts from."""
    rows: tuple[records.Row, ...]
    objectives: tuple[Objective, ...]
    teachers: dict[str, OnlineTeacher]
    """By the name an objective uses; the spec's own teacher is ``."""
    adaptation: Adaptation | None
    train: Train
    runtime: Runtime
    model_out: Path
    """Empty folder for the trained model."""
    adapter_out: Path | None
    """Empty folder for the adapter, where there is an adaptation."""
    checkpoints: Path
    """Folder that outlives the stage."""
    key: str
    """What a checkpoint must belong to."""
    features: tuple[Path, ...] = ()
    """Data sets of stored signals, where objectives with `signal: stored` find those of the rows."""
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Teachers by their names in params.yaml to what identifies their answers now: signals of another revision are refused."""

    def write(self, folder: Path) -> None:
        """Write the task into `folder`, for the processes of a launcher."""
        (folder / ROWS).mkdir()
        numbered = [replace(row, id=f"{i:08d}/{row.id}") for i, row in enumerate(self.rows)]
        records.write_dataset(folder / ROWS, records.Row, numbered)
        value = {
            "root": str(self.root),
            "start": str(self.start),
            "objectives": [_dump(o) for o in self.objectives],
            "teachers": {
                name: {"name": t.name, "teacher": _dump(t.teacher), "weights": None if t.weights is None else str(t.weights)}
                for name, t in self.teachers.items()
            },
            "adaptation": None if self.adaptation is None else _dump(self.adaptation),
            "train": self.train.model_dump(mode="json"),
            "runtime": self.runtime.model_dump(mode="json"),
            "model_out": str(self.model_out),
            "adapter_out": None if self.adapter_out is None else str(self.adapter_out),
            "checkpoints": str(self.checkpoints),
            "key": self.key,
            "features": [str(folder) for folder in self.features],
            "expected": self.expected,
        }
        (folder / JOB).write_text(canonical.pretty(value), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Task:
        """Return the task that `write` wrote."""
        value: dict[str, Any] = json.loads((folder / JOB).read_text(encoding="utf-8"))
        rows = records.read_dataset(folder / ROWS, records.Row)
        return cls(
            root=Path(value["root"]),
            start=Path(value["start"]),
            rows=tuple(replace(row, id=row.id.split("/", 1)[1]) for row in rows),
            objectives=tuple(kinds.parse("objectives", o) for o in value["objectives"]),
            teachers={
                name: OnlineTeacher(t["name"], kinds.parse("teachers", t["teacher"]), None if t["weights"] is None else Path(t["weights"]))
                for name, t in value["teachers"].items()
            },
            adaptation=None if value["adaptation"] is None else kinds.parse("adaptations", value["adaptation"]),
            train=Train.model_validate(value["train"]),
            runtime=Runtime.model_validate(value["runtime"]),
            model_out=Path(value["model_out"]),
            adapter_out=None if value["adapter_out"] is None else Path(value["adapter_out"]),
            checkpoints=Path(value["checkpoints"]),
            key=value["key"],
            features=tuple(map(Path, value["features"])),
            expected=value["expected"],
        )


def _dump(kind: kinds.Kind) -> dict[str, Any]:
    return kind.model_dump(mode="json", by_alias=True)
