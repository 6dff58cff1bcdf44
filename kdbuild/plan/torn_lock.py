"""dvc.lock after a crash: DVC rewrites it in place, so that a kill leaves it empty, cut, or cut where it still reads well."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from kdbuild.compile import write
from kdbuild.plan import lockfile
from kdbuild.plan.hashes import Hashes

Found = tuple[str, str, Callable[[], str]]


def find(root: Path, snapshots: Path) -> Iterator[Found]:
    """Yield a dvc.lock that is torn, or that forgot stages which a snapshot still knows."""
    path = root / "dvc.lock"
    if not path.exists():
        return
    text = _text(path)
    (now, is_whole), known = _stages(text), _candidates(root, snapshots)
    if not is_whole:
        known = [now, *known] if now else known
        what = "torn" if (text or "").strip() else "empty"
        yield f"dvc.lock is {what}: dvc stops at it", _remedy(known), lambda: _mend(root, known)
        return
    newest = known[0] if known else {}
    wanted = set(_in_dvc_yaml(root))
    lost = sorted((set(newest) & wanted) - set(now))
    if lost:
        names = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        what = f"dvc.lock forgot {len(lost)} stage{'s' if len(lost) > 1 else ''} it knew: {names}"
        yield what, _remedy([now, *known]), lambda: _mend(root, [now, *known])


def _remedy(candidates: list[dict[str, Any]]) -> str:
    if not candidates:
        return "puts it aside; DVC's run cache then restores what was built"
    return "puts it aside and writes a whole one from the snapshots kept by kdbuild and the one in git"


def _mend(root: Path, candidates: list[dict[str, Any]]) -> str:
    """Write a dvc.lock of the best entry of each stage: the newest whose outputs are what is there now, else the newest."""
    path = root / "dvc.lock"
    aside = write_aside(path)
    if not candidates:
        path.unlink()
        return f"the torn file is {aside}; the next build restores what is in the run cache"
    hashes, best = Hashes(root), {}
    for name in {name: None for candidate in candidates for name in candidate}:
        entries = [candidate[name] for candidate in candidates if name in candidate]
        best[name] = next((entry for entry in entries if _fits(entry, hashes)), entries[0])
    write.write_atomically(path, _dumped({"schema": "2.0", "stages": best}))
    return f"dvc.lock knows {len(best)} stages again; the torn file is {aside}"


def write_aside(path: Path) -> str:
    """Copy a damaged file beside DVC's temporary files, where git does not see it; return the copy's path inside the project."""
    folder = path.parent / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob(f"torn-*-{path.name}")))
    copy = folder / f"torn-{number}-{path.name}"
    copy.write_bytes(path.read_bytes())
    return copy.relative_to(path.parent).as_posix()


def _fits(entry: Mapping[str, Any], hashes: Hashes) -> bool:
    outs = lockfile.entry_of(entry, "").outs
    return bool(outs) and all(hashes.of(path) == digest for path, digest in outs.items())


def _candidates(root: Path, snapshots: Path) -> list[dict[str, Any]]:
    """Return what is known of good locks, newest first: kdbuild's snapshots, then the one in git."""
    texts = [*(_text(path) for path in sorted(snapshots.glob("*.lock"), reverse=True)), _committed(root)]
    found = [stages for stages, is_whole in map(_stages, texts) if is_whole and stages]
    wanted = _in_dvc_yaml(root)
    return [{name: entry for name, entry in stages.items() if name in wanted} if wanted else stages for stages in found]


def _stages(text: str | None) -> tuple[dict[str, Any], bool]:
    """Return the complete stages of a lock as they are written there, and whether it is a whole lock."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        lockfile.parse(text or "")
        is_whole = True
    except ValueError:
        is_whole = False
    try:
        stages = YAML(typ="safe").load(text)["stages"] or {}
        return {name: entry for name, entry in stages.items() if _is_complete(entry)}, is_whole
    except (YAMLError, KeyError, TypeError, AttributeError):
        return {}, is_whole


def _is_complete(entry: Any) -> bool:
    try:
        return bool(lockfile.entry_of(entry, "").outs)
    except ValueError:
        return False


def _committed(root: Path) -> str | None:
    done = subprocess.run(["git", "show", "HEAD:./dvc.lock"], cwd=root, capture_output=True, check=False)
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _in_dvc_yaml(root: Path) -> dict[str, Any]:
    from ruamel.yaml.error import YAMLError

    try:
        return write.stages_in_file(root)
    except (OSError, ValueError, AttributeError, YAMLError):
        return {}


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _dumped(value: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    text = StringIO()
    yaml.dump(value, text)
    return text.getvalue()


__all__ = ["find", "write_aside"]
