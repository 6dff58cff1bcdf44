"""Write what compile makes, and tell whether what is there is what compile would make."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from kdbuild import canonical
from kdbuild.compile.project import HEADER, Project, body_digest
from kdbuild.compile.stages import Stage
from kdbuild.errors import EditedByHand, NotCompiled
from kdbuild.spec import layout

GITIGNORE = "*\n!.gitignore\n!/*.json\n!/*/\n!/*/*.json\n!/*/*/\n!/*/*/*.json\n/*/*/*/\n"
"""artifacts/.gitignore: JSON files of the first three levels are committed, every directory below a phase is not."""

_DIGEST = re.compile(r"^# kdbuild-body: sha256:([0-9a-f]{64})$", re.MULTILINE)


def write_atomically(path: Path, text: str) -> bool:
    """Write `text` unless the file already holds it; return whether it was written. A reader sees the old file or the new one."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return True


def generated(project: Project) -> dict[str, str]:
    """Return every generated file, path to text, dvc.yaml last."""
    files = {f"{layout.ARTIFACTS}/.gitignore": GITIGNORE, layout.STRUCTURE: canonical.pretty({"kdbuild_structure": 1})}
    files |= {path: _resolved_text(project, path) for path in project.resolved}
    files["dvc.yaml"] = project.dvc_yaml
    return files


def write(project: Project) -> list[str]:
    """Write every generated file that differs; return their paths. Where specs are not valid, dvc.yaml stays as it is, with their stages.

    Raises:
        EditedByHand: dvc.yaml is not what kdbuild wrote.
    """
    refuse_edited(project.root)
    texts = generated(project)
    if project.broken:
        del texts["dvc.yaml"]
    return [path for path, text in texts.items() if write_atomically(project.root / path, text)]


def is_written(root: Path, stages: Iterable[Stage]) -> bool:
    """Return whether dvc.yaml holds these stages as they are."""
    written = stages_in_file(root)
    return all(written.get(stage.name) == stage.as_dvc() for stage in stages)


def write_resolved(project: Project, path: str) -> None:
    """Write one resolved.json."""
    write_atomically(project.root / path, _resolved_text(project, path))


def _resolved_text(project: Project, path: str) -> str:
    return canonical.pretty(project.resolved[path], sort=False)  # phases stand in their own order


def refuse_edited(root: Path) -> None:
    """Raise EditedByHand if dvc.yaml is there and its body is not the one its header names."""
    path = root / "dvc.yaml"
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    found = _DIGEST.search(text)
    if found is None:
        raise EditedByHand(
            "dvc.yaml was not written by kdbuild",
            hint="move your stages to another folder's dvc.yaml (DVC reads every one), delete this one, and run `kdbuild compile`",
        )
    body = text[len(HEADER.format(digest=found[1])) :]
    if body_digest(body) != found[1]:
        raise EditedByHand(
            "dvc.yaml was edited by hand: its body is not the one kdbuild wrote",
            hint="to take the edit back, run `kdbuild compile --force`; to keep what it does, say it in specs/ or params.yaml first "
            "(a stage of your own belongs in another folder's dvc.yaml), then run `kdbuild compile --force`",
        )


def stages_in_file(root: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.yaml as they are written there; empty where there is none."""
    path = root / "dvc.yaml"
    if not path.exists():
        return {}
    return (YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}).get("stages") or {}


def refuse_other_shape(project: Project, only: str | None = None) -> None:
    """Raise NotCompiled if dvc.yaml does not have the stages that the specs ask for.

    `only` compares the stages of one spec. The stages of a spec that is not valid are left alone: its own compile stage says why.
    """
    written = stages_in_file(project.root)
    # A spec's own stages first: what they need of the models follows from them, and is not what the user changed.
    ordered = sorted(project.stages, key=lambda stage: stage.spec in ("kdbuild", "models"))
    wanted = {stage.name: stage for stage in ordered if only in (None, stage.spec)}
    for name, stage in wanted.items():
        if name not in written:
            raise _not_compiled(stage, "is new")
        if written[name] != stage.as_dvc():
            raise _not_compiled(stage, "has another shape")
    if only is None:
        prefixes = tuple(f"{name}_" for name in project.broken)
        gone = [name for name in written if name not in wanted and not (prefixes and name.startswith(prefixes))]
        if gone and not (project.broken and gone[0].startswith("model")):
            raise NotCompiled(f"stage {gone[0]} is no longer in specs/: run `kdbuild compile`, then build again")
    else:
        gone = [name for name in written if name.startswith(f"{only}_") and name not in wanted]
        if gone:
            raise NotCompiled(f"stage {gone[0]} is no longer in specs/{only}.yaml: run `kdbuild compile`, then build again")


def _not_compiled(stage: Stage, what: str) -> NotCompiled:
    where = f"specs/{stage.spec}.yaml" if stage.spec not in ("kdbuild", "models") else "specs/"
    return NotCompiled(f"{where} changed its stages ({stage.name} {what}): run `kdbuild compile`, then build again")


__all__ = ["generated", "refuse_edited", "refuse_other_shape", "stages_in_file", "write", "write_atomically", "write_resolved"]
