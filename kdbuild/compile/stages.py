"""A stage as kdbuild sees it, and as dvc.yaml holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kdbuild import canonical
from kdbuild.spec import layout

STEP_REVISIONS = {
    "model": 1,
    "seeds": 1,
    "init": 1,
    "elicit": 3,
    "select": 3,
    "train": 1,
    "evaluate": 1,
    "report": 2,
}
"""Raised when a step writes other bytes for the same inputs; part of `_key`, as the kinds' own revisions are."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Stage:
    """One stage: what runs, what it reads, what it writes, and the section of resolved.json that defines it."""

    spec: str
    """Name of the spec; `models` for a model, `kdbuild` for the structure stage."""
    step: str
    phase: str | None = None
    """Name of the phase; of the model for a model stage."""
    params_file: str | None = None
    keys: tuple[str, ...] = ()
    """Path of the section inside `params_file`."""
    section: dict[str, Any] = field(default_factory=dict)
    """The section, `_key` included."""
    deps: tuple[tuple[str, str], ...] = ()
    """(role, path) of what it reads."""
    outs: tuple[str, ...] = ()
    """Cached outputs."""
    metrics: tuple[str, ...] = ()
    """Small JSON outputs, committed to git."""
    persistent: tuple[str, ...] = ()
    """Outputs of the compile steps: committed to git, kept while the stage runs."""
    also: tuple[Any, ...] = ()
    """What else its key is made of: digests of packaged templates."""

    @property
    def name(self) -> str:
        """Its name in dvc.yaml."""
        if self.spec == "models" and self.step == "model":
            return f"model_{self.phase}"
        return layout.stage_name(self.spec, self.step, self.phase)

    @property
    def command(self) -> str:
        """Its command: no values, and `exec` so that no shell stays in between."""
        return " ".join(["exec kdbuild stage", self.step, self.spec, *([self.phase] if self.phase else [])])

    @property
    def compiles(self) -> bool:
        """Whether it only checks or writes what compile writes."""
        return self.step in ("structure", "compile")

    def as_dvc(self) -> dict[str, Any]:
        """Return the entry of dvc.yaml."""
        entry: dict[str, Any] = {"cmd": self.command}
        if self.deps:
            entry["deps"] = sorted({path for _, path in self.deps})
        if self.params_file:
            names = [".".join((*self.keys, *leaf)) for leaf in leaves(self.section)]
            entry["params"] = [{self.params_file: sorted(names)}]
        if self.outs or self.persistent:
            entry["outs"] = [*self.outs, *({path: {"cache": False, "persist": True}} for path in self.persistent)]
        if self.metrics:
            entry["metrics"] = [{path: {"cache": False}} for path in self.metrics]
        return entry


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths DVC tracks: every value that is not a mapping or a list of mappings, and whole what DVC cannot address."""
    if isinstance(value, Mapping) and value and all(_PLAIN_KEY.fullmatch(key) for key in value):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            yield from leaves(item, (*path, str(i)))
    else:
        yield path


def keyed(stage: Stage, *also: Any) -> Stage:
    """Return the stage with `_key` in its section."""
    stage = replace(stage, also=also)
    return replace(stage, section={**stage.section, "_key": stage_key(stage, STEP_REVISIONS[stage.step])})


def stage_key(stage: Stage, revision: int) -> str:
    """Return the digest of a stage's section, its step's `revision`, dep roles, out names, and `also`."""
    section = {name: value for name, value in stage.section.items() if name != "_key"}
    names = sorted([*stage.outs, *stage.metrics])
    return canonical.digest(["kdbuild-stage/1", stage.step, revision, section, sorted(stage.deps), names, list(stage.also)])
