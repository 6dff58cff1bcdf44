"""One run of one stage: its section, its inputs, its outputs, and where it may keep what it can lose."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kdbuild import canonical, records
from kdbuild.embedders import Embedder
from kdbuild.errors import ArtifactError, StageError
from kdbuild.kinds import Kind, knobs, parse
from kdbuild.rows import place
from kdbuild.spec import layout
from kdbuild.spec.model import Params, Runtime
from kdbuild.spec.names import PHASE, STUDENT
from kdbuild.spec.sections import EmbedderUse, TeacherUse
from kdbuild.teachers import Teacher

AnyKind = TypeVar("AnyKind", bound=Kind)


@dataclass
class Job:
    """What a step is given."""

    root: Path
    """The project's folder, absolute."""
    spec: str
    """Name of the spec; `models` for a model stage."""
    step: str
    phase: str | None
    """Name of the phase, or of the model for a model stage."""
    section: dict[str, Any]
    """The stage's part of resolved.json, `_key` included."""
    params: Params
    """params.yaml, for knobs only."""
    _finals: dict[str, Path] = field(default_factory=dict)
    _scratch: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The stage's name in dvc.yaml."""
        return layout.stage_name(self.spec, self.step, self.phase)

    @property
    def runtime(self) -> Runtime:
        """The knobs."""
        return self.params.runtime

    def out(self, path: str) -> Path:
        """Return an empty folder to fill; it gets its final name `path` (relative to the project) when the step is done."""
        partial = self._partial(path)
        partial.mkdir(parents=True)
        return partial

    def write_json(self, path: str, value: Mapping[str, Any]) -> None:
        """Write a canonical JSON file that appears under its final name when the step is done."""
        self.file(path).write_text(canonical.pretty(value), encoding="utf-8")

    def file(self, path: str) -> Path:
        """Return a path to write one file to; it gets its final name `path` when the step is done."""
        partial = self._partial(path)
        partial.parent.mkdir(parents=True, exist_ok=True)
        return partial

    def _partial(self, path: str) -> Path:
        final = self.root / path
        partial = final.with_name(final.name + ".partial")
        _remove(partial)
        self._finals[path] = final
        return partial

    def finish(self) -> None:
        """Make every output durable, then give it its final name."""
        for final in self._finals.values():
            partial = final.with_name(final.name + ".partial")
            if not partial.exists():
                raise StageError(f"{self.name} did not write {final.relative_to(self.root)}")
            _sync(partial)
            _remove(final)
            partial.rename(final)
            _sync_one(final.parent)
        for folder in self._scratch:
            _remove(folder)

    def discard(self) -> None:
        """Remove what was written so far."""
        for final in self._finals.values():
            _remove(final.with_name(final.name + ".partial"))

    def input(self, path: str) -> Path:
        """Return a folder the stage reads, after checking it against its manifest."""
        folder = self.root / path
        records.read_manifest(folder)
        return folder

    def weights(self, where: str | None) -> Path | None:
        """Return what a section's `weights` names: a folder of the project, or a hub name with revision as it is."""
        if where is None or where.startswith("hf:"):
            return None if where is None else Path(where)
        folder = self.root / where
        if not folder.exists():
            raise ArtifactError(f"{where} is not there", hint="`dvc repro` fetches it")
        if (folder / records.MANIFEST).exists():
            records.read_manifest(folder)
        return folder

    def teacher(self, use: TeacherUse) -> Teacher:
        """Return the section's teacher with the knobs that params.yaml gives it now; a model of this project runs as `runtime:` says."""
        if use.name != STUDENT and not use.name.startswith(PHASE):
            return _turned(use.teacher, self.params.teachers.get(use.name))
        engine = self.runtime.elicit.student_engine
        values = {name: value for name, value in use.teacher.identity().items() if name not in ("kind", "kind_revision")}
        if engine == "transformers":
            values |= {"batch_tokens": self.runtime.elicit.student_batch_tokens, "device": self.runtime.device}
        return parse("teachers", {"kind": engine, **values})  # type: ignore[no-any-return]

    def embedder(self, use: EmbedderUse) -> Embedder:
        """Return the section's embedder with the knobs that params.yaml gives it now."""
        return _turned(use.embedder, self.params.embedder)

    def input_digest(self, *paths: str) -> str:
        """Return the digest of the stage's key and of its inputs' manifests: what a checkpoint belongs to."""
        manifests = [(self.root / path / records.MANIFEST).read_text(encoding="utf-8") for path in paths]
        return canonical.digest([self.section["_key"], manifests])

    def scratch(self, name: str) -> Path:
        """Return a folder beside the row store, for checkpoints; it outlives a stage cut off, and goes once the outputs are final."""
        folder = place.store_dir(self.root, self.runtime.rows_dir) / "scratch" / name
        folder.mkdir(parents=True, exist_ok=True)
        self._scratch.append(folder)
        return folder


def _turned(kind: AnyKind, live: Kind | None) -> AnyKind:
    """Return `kind` with the knobs of `live`, where that is of the same kind."""
    if live is None or live.kind != kind.kind:
        return kind
    return kind.model_copy(update={name: getattr(live, name) for name in knobs(type(live))})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    for below in [path, *path.rglob("*")] if path.is_dir() else [path]:
        _sync_one(below)


def read_section(root: Path, path: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return one section of a resolved.json.

    Raises:
        ArtifactError: the file or the section is not there.
    """
    try:
        value: Any = json.loads((root / path).read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path} has no section {'.'.join(keys)}", hint="run `kdbuild compile`") from None
    return dict(value)
