"""Answers that came with `dvc pull`: taken into the store from `calls/` and `features/` outputs before a teacher is asked.

DVC deletes a stage's outputs before it runs the command, so the answers a colleague pulled are found in the DVC cache, by the md5 that
dvc.lock records. Answers of other stages and specs serve as well: keys know nothing of either.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from kdbuild.errors import KdbuildError
from kdbuild.records import JUDGED, MANIFEST
from kdbuild.rows import place
from kdbuild.rows.answers import decode
from kdbuild.rows.store import Asked, Store
from kdbuild.spec import layout

if TYPE_CHECKING:
    import pyarrow as pa

CALLS, FEATURES = "calls", "features"
_HOLD_ANSWERS = (CALLS, FEATURES, f"dropped/{JUDGED}")
"""Outputs of a phase with answers, and folders in them."""


@dataclass(frozen=True)
class _Output:
    """A `calls/` or `features/` output: what identifies it, its size in bytes, its files, and whether they are named by their md5."""

    digest: str
    size: int
    files: Mapping[str, Path]
    """Path inside the output to where the file lies."""
    in_cache: bool

    @property
    def shards(self) -> list[str]:
        """Its Parquet files."""
        return sorted(name for name in self.files if name.endswith(".parquet"))

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ValueError: a file of the cache is not what its name says.
        """
        path = self.files[name]
        content = path.read_bytes()
        if self.in_cache and hashlib.md5(content, usedforsecurity=False).hexdigest() != path.parent.name + path.name:
            raise ValueError(f"{path} is torn")
        return content

    def as_folder(self, folder: Path) -> Path:
        """Return `folder` filled with links to the files, under their own names."""
        for name in self.files:
            self.read(name)  # checks it
            (folder / name).symlink_to(self.files[name].absolute())
        return folder


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
    """Put every answer of an output into the store if it has one that is wanted; return how many."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        sought = pa.array(sorted(wanted))
        tables = [pq.read_table(io.BytesIO(output.read(name))) for name in output.shards]
        if not any(pc.any(pc.is_in(table["key"], value_set=sought)).as_py() for table in tables):
            return 0
        is_calls = all("payload" not in table.column_names for table in tables)
        num_read = sum(_put_calls(store, table) for table in tables) if is_calls else _put_features(store, output)
    except (OSError, ValueError, KeyError, pa.ArrowException, KdbuildError) as error:
        # What was pulled saves calls, it is not needed for the result: a torn file costs calls, and that is said.
        print(f"kdbuild: pulled answers {output.digest} cannot be read and are left out: {error}", file=sys.stderr)
        return 0
    store.mark_refilled(output.digest)
    return num_read


def _put_calls(store: Store, table: pa.Table) -> int:
    names = ("id", "key", "max_new_tokens", "answer")
    for row, key, limit, answer in zip(*(table[name].to_pylist() for name in names), strict=True):
        store.put(key, limit, decode(answer), row=row, pulled=True)
    return int(table.num_rows)


def _put_features(store: Store, output: _Output) -> int:
    from kdbuild.teachers._feature_files import FeatureFiles

    num_read = 0
    with TemporaryDirectory() as folder:
        for one in FeatureFiles(output.as_folder(Path(folder))):
            answer = replace(decode(one.answer), payload=one.payload)
            store.put(one.key, one.max_new_tokens, answer, row=one.id, pulled=True)
            num_read += 1
    return num_read


# --- where they are -------------------------------------------------------------------------------------------------------


def _outputs(root: Path) -> Iterator[_Output]:
    """Yield the outputs with answers that are in the workspace or, by dvc.lock, in the DVC cache."""
    for folder in sorted(path for name in _HOLD_ANSWERS for path in root.glob(f"{layout.ARTIFACTS}/*/*/{name}")):
        manifest = folder / MANIFEST
        if manifest.is_file():
            files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.iterdir()) if path.is_file()}
            digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
            yield _Output(digest, sum(f.stat().st_size for f in files.values()), files, in_cache=False)
    cache = place.cache_dir(root) / "files" / "md5"
    for md5, inside in sorted(_locked(root / "dvc.lock")):
        listing = cache / md5[:2] / md5[2:]
        try:
            named = {str(entry["relpath"]): str(entry["md5"]) for entry in json.loads(listing.read_bytes())}
            entries = {name.removeprefix(inside): digest for name, digest in named.items() if name.startswith(inside)}
            files = {name: cache / digest[:2] / digest[2:] for name, digest in entries.items() if "/" not in name}
            size = sum(f.stat().st_size for f in files.values())
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not pulled, or only in part
        yield _Output(md5, size, files, in_cache=True)


def _locked(lock: Path) -> set[tuple[str, str]]:
    """Return the md5 of every output with answers that dvc.lock records, and what the answers' paths inside it start with."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        stages: Any = YAML(typ="safe").load(lock.read_bytes())["stages"]
        outs = [out for stage in stages.values() for out in stage.get("outs", ())]
        named = [(str(out["md5"]), PurePosixPath(str(out["path"])).name) for out in outs if "md5" in out]
        found = {(md5, inside[len(name) + 1 :]) for md5, name in named for inside in _HOLD_ANSWERS if f"{inside}/".startswith(f"{name}/")}
    except (OSError, YAMLError, KeyError, TypeError, AttributeError):
        return set()  # no build yet, or a torn lock, which `kdbuild doctor` is for
    return {(md5, f"{inside}/" if inside else "") for md5, inside in found if md5.endswith(".dir") and md5.removesuffix(".dir").isalnum()}
