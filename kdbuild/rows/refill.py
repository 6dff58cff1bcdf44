"""Answers that came with `dvc pull`: taken into the store from `calls/` outputs before a teacher is asked.

DVC deletes a stage's outputs before it runs the command, so the answers a colleague pulled are found in the DVC cache, by the md5 that
dvc.lock records. Answers of other stages and specs serve as well: keys know nothing of either.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kdbuild.errors import KdbuildError
from kdbuild.records import MANIFEST
from kdbuild.rows import place
from kdbuild.rows.answers import decode
from kdbuild.rows.store import Asked, Store
from kdbuild.spec import layout

if TYPE_CHECKING:
    import pyarrow as pa

CALLS = "calls"


@dataclass(frozen=True)
class _Output:
    """A `calls/` output: what identifies it, its size in bytes, its shards, and whether they are named by their md5."""

    digest: str
    size: int
    shards: tuple[Path, ...]
    in_cache: bool

    def read(self) -> Iterator[bytes]:
        """Yield the bytes of the shards.

        Raises:
            ValueError: a file of the cache is not what its name says.
        """
        for path in self.shards:
            content = path.read_bytes()
            if self.in_cache and hashlib.md5(content, usedforsecurity=False).hexdigest() != path.parent.name + path.name:
                raise ValueError(f"{path} is torn")
            yield content


def refill(store: Store, root: Path, missing: Callable[[], Iterable[Asked]]) -> int:
    """Take in pulled answers until nothing is missing; return how many calls were read.

    Args:
        store: where they go.
        root: the project's folder.
        missing: says what is missing now; asked again after each output was read.
    """
    wanted = {key for key, _ in missing()}
    if not wanted:
        return 0
    num_read = 0
    for output in sorted(_outputs(root), key=lambda o: (o.size, o.digest)):
        if not wanted:
            break
        if store.was_refilled(output.digest):
            continue
        taken = _take(store, output, wanted)
        if taken:
            num_read += taken
            wanted = {key for key, _ in missing()}
    return num_read


def _take(store: Store, output: _Output, wanted: set[str]) -> int:
    """Put every call of an output into the store if it has one that is wanted; return how many."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        shards = list(output.read())
        sought = pa.array(sorted(wanted))
        keys = (pq.read_table(io.BytesIO(shard), columns=["key"])["key"] for shard in shards)
        if not any(pc.any(pc.is_in(column, value_set=sought)).as_py() for column in keys):
            return 0
        num_read = sum(_put_all(store, pq.read_table(io.BytesIO(shard))) for shard in shards)
    except (OSError, ValueError, KeyError, pa.ArrowException, KdbuildError) as error:
        # What was pulled saves calls, it is not needed for the result: a torn file costs calls, and that is said.
        print(f"kdbuild: pulled answers {output.digest} cannot be read and are left out: {error}", file=sys.stderr)
        return 0
    store.mark_refilled(output.digest)
    return num_read


def _put_all(store: Store, table: pa.Table) -> int:
    names = ("id", "key", "max_new_tokens", "answer")
    for row, key, limit, answer in zip(*(table[name].to_pylist() for name in names), strict=True):
        store.put(key, limit, decode(answer), row=row, pulled=True)
    return int(table.num_rows)


# --- where they are -------------------------------------------------------------------------------------------------------


def _outputs(root: Path) -> Iterator[_Output]:
    """Yield the `calls/` outputs that are in the workspace or, by dvc.lock, in the DVC cache."""
    for folder in sorted(root.glob(f"{layout.ARTIFACTS}/*/*/{CALLS}")):
        manifest = folder / MANIFEST
        if manifest.is_file():
            files = tuple(sorted(folder.glob("*.parquet")))
            digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
            yield _Output(digest, sum(f.stat().st_size for f in files), files, in_cache=False)
    cache = place.cache_dir(root) / "files" / "md5"
    for md5 in sorted(_locked(root / "dvc.lock")):
        listing = cache / md5[:2] / md5[2:]
        try:
            entries = json.loads(listing.read_bytes())
            names = [str(entry["md5"]) for entry in entries if str(entry["relpath"]).endswith(".parquet")]
            files = tuple(sorted(cache / name[:2] / name[2:] for name in names))
            size = sum(f.stat().st_size for f in files)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not pulled, or only in part
        yield _Output(md5, size, files, in_cache=True)


def _locked(lock: Path) -> set[str]:
    """Return the md5 of every `calls` output that dvc.lock records."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        stages: Any = YAML(typ="safe").load(lock.read_bytes())["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", ())]
        found = {str(out["md5"]) for out in outs if PurePosixPath(str(out["path"])).name == CALLS and "md5" in out}
    except (OSError, YAMLError, KeyError, TypeError, AttributeError):
        return set()  # no build yet, or a torn lock, which `kdbuild doctor` is for
    return {md5 for md5 in found if md5.endswith(".dir") and md5.removesuffix(".dir").isalnum()}
