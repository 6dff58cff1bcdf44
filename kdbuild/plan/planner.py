"""What a build would do with each stage, decided as DVC decides it, without starting DVC.

Sources: dvc/stage/__init__.py `changed`, dvc/output.py `status`, dvc/stage/cache.py `restore`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from kdbuild.compile.stages import Stage
from kdbuild.errors import SpecError
from kdbuild.plan import causes, runcache
from kdbuild.plan.causes import Cause, Reason
from kdbuild.plan.hashes import Hashes
from kdbuild.plan.lockfile import Entry
from kdbuild.plan.runcache import RunCache


class Status(StrEnum):
    """What becomes of a stage."""

    FRESH = "fresh"
    """Nothing to do."""
    STALE = "stale"
    """Its command runs."""
    RESTORABLE = "restorable"
    """DVC fetches its outputs from the cache; its command does not run."""
    MAYBE = "maybe"
    """Something upstream runs; whether this stage does too depends on what comes out of it."""


@dataclass(frozen=True)
class Planned:
    """One stage of the plan."""

    stage: Stage
    status: Status
    causes: tuple[Cause, ...]
    outs: Mapping[str, str | None]
    """Hash of each output after the build; None where that is not known."""


@dataclass
class Planner:
    """Walks the stages from their inputs on and keeps what is known of every output after the build."""

    stages: Sequence[Stage]
    lock: Mapping[str, Entry]
    hashes: Hashes
    cache: RunCache
    texts: Mapping[str, str]
    """Generated files (path to text) as the build writes them."""

    def __post_init__(self) -> None:
        """Index the outputs; nothing is known of them yet."""
        self._makers = makers_of(self.stages)
        self._after: dict[str, str | None] = {}
        self._planned: dict[str, Planned] = {}
        self._returning: set[str] = set()  # objects that stages which run may put back into the cache

    def plan(self) -> list[Planned]:
        """Return every stage with its status, inputs before what reads them."""
        return [self._decide(stage) for stage in in_order(self.stages, self._makers)]

    def _decide(self, stage: Stage) -> Planned:
        planned = self._judged(stage)
        self._planned[stage.name] = planned
        self._after.update(planned.outs)
        if planned.status in (Status.STALE, Status.MAYBE) and stage.name in self.lock:
            self._returning.update(self.lock[stage.name].outs.values())
        return planned

    def _judged(self, stage: Stage) -> Planned:
        entry = self.lock.get(stage.name)
        deps, unknown = self._inputs(stage)
        upstream = [Cause(Reason.UPSTREAM, name) for name in unknown]
        unknown_outs = dict.fromkeys(_writes(stage))
        changed = self._changes(stage, entry, deps)
        if not changed:
            if upstream:
                return Planned(stage, Status.MAYBE, tuple(upstream), unknown_outs)
            return Planned(stage, Status.FRESH, (), dict(entry.outs) if entry else {})
        found = (*changed, *upstream)
        if stage.compiles:
            known: dict[str, str | None] = {path: _md5(self.texts[path]) for path in stage.persistent if path in self.texts}
            return Planned(stage, Status.STALE, found, known)
        if upstream:
            status = Status.MAYBE if self._might_restore(stage, entry, changed) else Status.STALE
            return Planned(stage, status, found, unknown_outs)
        outs = self._offered(stage, entry, changed, deps)
        if outs is not None and self.cache.has(outs):
            return Planned(stage, Status.RESTORABLE, found, outs)
        # An object that is gone may be another stage's output as well, and come back when that one runs.
        comes_back = outs is not None and self._comes_back(outs)
        return Planned(stage, Status.MAYBE if comes_back else Status.STALE, found, unknown_outs)

    def _inputs(self, stage: Stage) -> tuple[dict[str, str | None], list[str]]:
        """Return the hash each input will have, and the stages that leave one unknown."""
        deps: dict[str, str | None] = {}
        unknown: list[str] = []
        for path in sorted({path for _, path in stage.deps}):
            makers = [maker for out, maker in self._makers.items() if maker.name != stage.name and _overlap(out, path)]
            busy = [maker.name for maker in makers if self._planned[maker.name].status is not Status.FRESH]
            if path in self._after and self._after[path] is not None:
                deps[path] = self._after[path]
            elif busy:
                unknown += busy
            else:
                deps[path] = self.hashes.of(path)
        return deps, sorted(set(unknown))

    def _changes(self, stage: Stage, entry: Entry | None, deps: Mapping[str, str | None]) -> list[Cause]:
        if entry is None:
            return [Cause(Reason.NEVER_BUILT, stage.name)]
        found = [] if entry.cmd == stage.command else [Cause(Reason.COMMAND, stage.name, entry.cmd, stage.command)]
        found += causes.of_params(stage, entry)
        found += causes.of_hashes(deps, entry.deps, Reason.INPUT)
        return [*found, *self._changed_outs(stage, entry)]

    def _changed_outs(self, stage: Stage, entry: Entry) -> list[Cause]:
        found = []
        for path in _writes(stage):
            before, now = entry.outs.get(path), self.hashes.of(path)
            if path in stage.outs and before is not None and not self.cache.has({path: before}):
                note = "not in the cache; `dvc pull` may fetch it"
                found.append(Cause(Reason.OUTPUT, path, before, None, note))
            elif now is None or now != before:
                found.append(Cause(Reason.OUTPUT, path, before, now))
            elif path in stage.persistent and path in self.texts and _md5(self.texts[path]) != before:
                found.append(Cause(Reason.OUTPUT, path, before, _md5(self.texts[path]), "the specs ask for another one"))
        return found

    def _offered(
        self, stage: Stage, entry: Entry | None, changed: Sequence[Cause], deps: Mapping[str, str | None]
    ) -> Mapping[str, str] | None:
        """Return the outputs DVC would look for in its cache before it runs the stage, or None."""
        if any(digest is None for digest in deps.values()):
            return None
        if entry is not None and _only_outs(changed) and set(_writes(stage)) == set(entry.outs):
            return entry.outs
        listed = [self._as_locked(path, str(digest)) for path, digest in deps.items()]
        params = {stage.params_file: causes.tracked(stage)} if stage.params_file else {}
        cached = self.cache.entry(runcache.key_of(stage.command, listed, params, list(_writes(stage))))
        return None if cached is None else cached.outs

    def _comes_back(self, outs: Mapping[str, str]) -> bool:
        return self.cache.has({path: digest for path, digest in outs.items() if digest not in self._returning})

    def _as_locked(self, path: str, digest: str) -> dict[str, object]:
        entry: dict[str, object] = {"path": path, "hash": "md5", "md5": digest}
        if self.hashes.is_executable(path):
            entry["isexec"] = True
        return entry

    def _might_restore(self, stage: Stage, entry: Entry | None, changed: Sequence[Cause]) -> bool:
        """Return whether the cache may turn out to have the outputs, once what is upstream has run."""
        if entry is not None and _only_outs(changed) and self._comes_back(entry.outs):
            return True
        return self.cache.mentions(str(stage.section.get("_key")))


def _only_outs(changed: Iterable[Cause]) -> bool:
    return all(cause.reason is Reason.OUTPUT for cause in changed)


def _writes(stage: Stage) -> tuple[str, ...]:
    return (*stage.outs, *stage.metrics, *stage.persistent)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode("utf-8"), usedforsecurity=False).hexdigest()


def makers_of(stages: Iterable[Stage]) -> dict[str, Stage]:
    """Return each output's path with the stage that writes it."""
    return {path: stage for stage in stages for path in _writes(stage)}


def in_order(stages: Sequence[Stage], makers: Mapping[str, Stage]) -> list[Stage]:
    """Return the stages so that each comes after those whose outputs it reads.

    Raises:
        SpecError: a stage reads, over others, what it writes itself.
    """
    found: dict[str, Stage] = {}
    open_: list[str] = []

    def visit(stage: Stage) -> None:
        if stage.name in found:
            return
        if stage.name in open_:
            raise SpecError(f"the stages {' -> '.join([*open_, stage.name])} wait for each other")
        open_.append(stage.name)
        for maker in upstream_of(stage, makers):
            visit(maker)
        open_.pop()
        found[stage.name] = stage

    for stage in stages:
        visit(stage)
    return list(found.values())


def upstream_of(stage: Stage, makers: Mapping[str, Stage]) -> list[Stage]:
    """Return the stages whose outputs a stage reads, its compile stage among them."""
    reads = {path for _, path in stage.deps} | ({stage.params_file} if stage.params_file else set())
    return [maker for out, maker in makers.items() if maker.name != stage.name and any(_overlap(out, path) for path in reads)]
