"""Why a stage is not fresh: each cause named, with the old and the new value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kdbuild import canonical
from kdbuild.compile.stages import STEP_REVISIONS, Stage, leaves, stage_key
from kdbuild.plan.lockfile import Entry

ABSENT = "absent"
"""How a value that is not there is shown."""


class Reason(StrEnum):
    """What kind of thing changed."""

    NEVER_BUILT = "never-built"
    COMMAND = "command"
    PARAM = "param"
    CODE = "code"
    INPUT = "input"
    UPSTREAM = "upstream"
    OUTPUT = "output"


@dataclass(frozen=True)
class Cause:
    """One thing that changed since the stage last ran."""

    reason: Reason
    subject: str
    """The leaf, the file, the stage upstream, or what of the code."""
    old: Any = None
    new: Any = None
    note: str = ""
    """What to know or do about it."""

    def text(self) -> str:
        """Return it in one line."""
        line = {
            Reason.NEVER_BUILT: "never built",
            Reason.COMMAND: f"command: {self.old} -> {self.new}",
            Reason.PARAM: f"{self.subject}: {_shown(self.old)} -> {_shown(self.new)}",
            Reason.CODE: f"code changed: {self.subject}",
            Reason.INPUT: f"input {self.subject} {_change(self.old, self.new)}",
            Reason.UPSTREAM: f"reads what {self.subject} may change",
            Reason.OUTPUT: f"output {self.subject} {_change(self.old, self.new)}",
        }[self.reason]
        return f"{line} ({self.note})" if self.note else line


def _change(old: Any, new: Any) -> str:
    if old is None:
        return "is new"
    return "is missing" if new is None else "changed"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else canonical.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def tracked(stage: Stage) -> dict[str, Any]:
    """Return the leaves of the stage's section that DVC tracks, dotted name to value, as DVC reads them from resolved.json."""
    if stage.params_file is None:
        return {}
    return {".".join((*stage.keys, *leaf)): _at(stage.section, leaf) for leaf in leaves(stage.section)}


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def of_params(stage: Stage, entry: Entry) -> list[Cause]:
    """Return what changed in the stage's section; the digest of the whole is explained, never shown."""
    now, before = tracked(stage), entry.params.get(stage.params_file or "", {})
    key, prefix = ".".join((*stage.keys, "_key")), len(".".join(stage.keys)) + 1
    moved = key in now and now[key] != before.get(key)
    found: list[Cause] = []
    for leaf in sorted({*now, *before}):
        name = leaf[prefix:]
        old, new = before.get(leaf, ABSENT), now.get(leaf, ABSENT)
        # DVC takes 1, 1.0 and true for the same; `_key` does not, and so the stage runs: show what it saw.
        if leaf == key or (old == new and (not moved or _same(old, new))):
            continue
        if name.endswith("kind_revision") and ABSENT not in (old, new):
            found.append(Cause(Reason.CODE, _kind_at(stage, leaf[prefix:]), old, new, f"revision {old} -> {new}"))
        else:
            found.append(Cause(Reason.PARAM, name, old, new))
    if moved and not found:
        found.append(_of_key(stage, entry, before.get(key)))
    return found


def _same(old: Any, new: Any) -> bool:
    try:
        return canonical.dumps(old) == canonical.dumps(new)
    except (TypeError, ValueError):  # a hand-edited dvc.lock may hold anything
        return False


def _kind_at(stage: Stage, name: str) -> str:
    """Return what a `kind_revision` leaf belongs to: `operators.0 (label)`."""
    path = tuple(name.split(".")[:-1])
    kind = _at(stage.section, path).get("kind")
    return f"{'.'.join(path)} ({kind})"


def _of_key(stage: Stage, entry: Entry, old_key: Any) -> Cause:
    """Say why the digest of the whole section changed though no value did."""
    reads, read = {path for _, path in stage.deps}, set(entry.deps)
    if reads != read:
        return Cause(Reason.PARAM, "what it reads", sorted(read - reads), sorted(reads - read))
    writes, wrote = {*stage.outs, *stage.metrics}, set(entry.outs)
    if writes != wrote:
        return Cause(Reason.PARAM, "what it writes", sorted(wrote - writes), sorted(writes - wrote))
    now = STEP_REVISIONS[stage.step]
    for revision in range(now - 1, 0, -1):
        if stage_key(stage, revision) == old_key:
            return Cause(Reason.CODE, f"step `{stage.step}`", revision, now, f"revision {revision} -> {now}")
    return Cause(Reason.CODE, f"step `{stage.step}`", note="a packaged template or the order of its inputs")


def of_hashes(now: Mapping[str, str | None], before: Mapping[str, str], reason: Reason) -> Iterator[Cause]:
    """Yield a cause for each path whose hash is not the one of `before`."""
    for path, digest in sorted(now.items()):
        if digest is None or digest != before.get(path):
            yield Cause(reason, path, before.get(path), digest)
