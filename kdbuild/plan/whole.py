"""The plan of a project: every stage's status and causes, and what would be asked of teachers."""

from __future__ import annotations

import configparser
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdbuild.compile import write
from kdbuild.compile.project import Project
from kdbuild.compile.stages import Stage
from kdbuild.elicitors._extent import plus
from kdbuild.errors import SpecError, StageError
from kdbuild.kinds import nearest
from kdbuild.plan import lockfile, state
from kdbuild.plan.asks import Asks, Bound, Forecaster, bound_of
from kdbuild.plan.hashes import Hashes
from kdbuild.plan.planner import Planned, Planner, Status, in_order, makers_of, upstream_of
from kdbuild.plan.runcache import RunCache
from kdbuild.rows import place
from kdbuild.spec import layout

SCHEMA = "kdbuild-plan/1"
"""Raised when a field of the JSON changes its meaning or goes away."""


@dataclass(frozen=True)
class Plan:
    """What a build would do."""

    planned: tuple[Planned, ...]
    """Inputs before what reads them."""
    asks: tuple[Asks, ...]
    rewrites: tuple[str, ...]
    """Generated files that are not what the specs ask for now."""
    watched: tuple[str, ...]
    """Every file and directory the plan depends on."""

    def of(self, *statuses: Status) -> list[Planned]:
        """Return the stages of these statuses, compile stages aside."""
        return [one for one in self.planned if one.status in statuses and not one.stage.compiles]

    @property
    def is_fresh(self) -> bool:
        """Whether there is nothing to do."""
        return not self.rewrites and all(one.status is Status.FRESH for one in self.planned)

    @property
    def least_calls(self) -> int:
        """Teacher calls that are sure."""
        return sum(asks.least_calls for asks in self.asks)

    @property
    def most_calls(self) -> int | None:
        """The most teacher calls; None where nothing bounds them."""
        found: int | None = 0
        for asks in self.asks:
            found = plus(found, asks.most_calls)
        return found

    @property
    def bound(self) -> Bound:
        """What `num_calls` says."""
        return bound_of(self.least_calls, self.most_calls)

    @property
    def num_calls(self) -> int:
        """Teacher calls: the most where there is one, else the least."""
        return self.least_calls if self.most_calls is None else self.most_calls

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        asks = {one.stage: asdict(one) for one in self.asks}
        return {
            "schema": SCHEMA,
            "fresh": self.is_fresh,
            "rewrites": list(self.rewrites),
            "stages": [_as_json(one, asks.get(one.stage.name)) for one in self.planned],
            "totals": {
                **{status.value: sum(one.status is status for one in self.planned) for status in Status},
                "num_calls": self.num_calls,
                "bound": self.bound.value,
                "least_calls": self.least_calls,
                "most_calls": self.most_calls,
                "prompt_tokens": sum(one.prompt_tokens for one in self.asks),
                "answer_tokens": sum(one.answer_tokens for one in self.asks),
                "cost_usd": sum(one.usd for one in self.asks),
            },
        }


def _as_json(one: Planned, asks: dict[str, Any] | None) -> dict[str, Any]:
    stage = one.stage
    return {
        "name": stage.name,
        "spec": stage.spec,
        "phase": stage.phase,
        "step": stage.step,
        "status": one.status.value,
        "causes": [{**asdict(cause), "text": cause.text()} for cause in one.causes],
        "asks": asks,
    }


def require_dvc(root: Path) -> None:
    """Raise StageError where there is no DVC project, or none whose configuration can be read."""
    if not (root / ".dvc").is_dir():
        raise StageError(f"{root} is not a DVC project", hint="`kdbuild init` starts one, also in a folder that has specs already")
    try:
        place.cache_dir(root)
    except configparser.Error as error:
        raise StageError(
            f".dvc/config cannot be read: {' '.join(str(error).split())}", hint="`git checkout .dvc/config` brings it back"
        ) from None


def make(root: Path, project: Project, specs: Sequence[str] = ()) -> Plan:
    """Return the plan of the project, or of the named specs and what they need.

    Args:
        root: the project's folder.
        project: its specs, compiled in memory.
        specs: names; none: all.

    Raises:
        EditedByHand: dvc.yaml is not what kdbuild wrote.
        StageError: dvc.lock is torn, or this is no DVC project.
        SpecError: there is no spec of a name given.
    """
    require_dvc(root)
    write.refuse_edited(root)
    texts = write.generated(project)
    if project.broken:
        del texts["dvc.yaml"]  # it keeps the stages of the specs that are left out: nothing can be written in their place
    lock, cache = lockfile.read(root), RunCache(place.cache_dir(root))
    hashes = Hashes(root, state.folder(root) / "hashes.json")
    stages = closure(project.stages, specs)
    _refuse_broken_inputs(project, stages)
    planned = tuple(Planner(stages, lock, hashes, cache, texts).plan())
    hashes.save()
    rewrites = tuple(_rewrites(root, texts, stages))
    asks = tuple(_forecasts(root, project, planned, cache, lock))
    return Plan(planned, asks, rewrites, tuple(_watched(root, stages, lock, cache)))


def _rewrites(root: Path, texts: Mapping[str, str], stages: Sequence[Stage]) -> Iterator[str]:
    yield from (path for path, text in texts.items() if _read(root / path) != text)
    if "dvc.yaml" not in texts and not write.is_written(root, stages):
        yield "dvc.yaml"


def _refuse_broken_inputs(project: Project, stages: Sequence[Stage]) -> None:
    made = set(makers_of(stages))
    for stage in stages:
        for _, path in stage.deps:
            spec = next((name for name in project.broken if path.startswith(f"{layout.ARTIFACTS}/{name}/") and path not in made), None)
            if spec is not None:
                raise SpecError(f"specs/{stage.spec}.yaml reads {path}, and specs/{spec}.yaml is not valid:\n\n{project.broken[spec]}")


def left_out(project: Project) -> Iterator[str]:
    """Yield a line for each spec that is not valid, and so is no part of a plan."""
    for name in sorted(project.broken):
        yield f"specs/{name}.yaml is left out: it is not valid (`kdbuild check {name}` says why)"


def closure(stages: Sequence[Stage], specs: Iterable[str]) -> list[Stage]:
    """Return the stages of the named specs and those they need; all where no spec is named."""
    wanted = set(specs)
    if not wanted:
        return list(stages)
    known = sorted({stage.spec for stage in stages} - {"kdbuild"})
    for name in sorted(wanted - set(known)):
        near = nearest(name, known)
        raise SpecError(f"there is no spec named `{name}`", hint=f"did you mean `{near}`?" if near else f"specs: {', '.join(known)}")
    makers = makers_of(stages)
    found = {stage.name: stage for stage in stages if stage.spec in wanted}
    waiting = list(found.values())
    while waiting:
        for stage in upstream_of(waiting.pop(), makers):
            if stage.name not in found:
                found[stage.name] = stage
                waiting.append(stage)
    return in_order(list(found.values()), makers)


def _forecasts(root: Path, project: Project, planned: Sequence[Planned], cache: RunCache, built: Container[str]) -> list[Asks]:
    if not any(one.stage.section.get("actors") and one.status in (Status.STALE, Status.MAYBE) for one in planned):
        return []
    folder = place.store_dir(root, project.params.runtime.rows_dir)
    prices = {name: teacher.price for name, teacher in project.params.teachers.items()}
    return list(Forecaster(root, folder, prices, planned, cache, built).all())


def _watched(root: Path, stages: Sequence[Stage], lock: dict[str, lockfile.Entry], cache: RunCache) -> Iterable[str]:
    """Yield what a later build looks at to tell that nothing changed: sources, generated files, outputs and their cache objects."""
    yield from ("specs", "params.yaml", "dvc.yaml", "dvc.lock", ".dvcignore", ".dvc/config", ".dvc/config.local")
    for stage in stages:
        yield from (path for _, path in stage.deps)
        yield from (*stage.outs, *stage.metrics, *stage.persistent)
        yield from [stage.params_file] if stage.params_file else []
        entry = lock.get(stage.name)
        for path in stage.outs if entry else ():
            try:
                yield from (str(file) for file in cache.objects(entry.outs[path] if entry else ""))
            except (OSError, ValueError, KeyError, TypeError):
                continue


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
