"""What crosses a stage border: rows, verdicts and calls, and how a directory of them is written and read.

A data set is a directory of Parquet shards plus `manifest.json`. Its bytes are a function of its rows alone: sorted by id, no times,
no paths, no library versions. One shard below 10,000 rows, else 16 or 256 by the first hex digits of the id's digest, so that an
edit of one row changes one file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbuild import canonical
from kdbuild.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 4096
MANIFEST = "manifest.json"
SCORES, JUDGED, MATCHED = "scores", "calls", "matched"
"""Folders inside a `dropped/` data set: the scores of the training rows (`Scored`), the answers they were made of (`Call`), and the texts
of what rows lost to that is no row of the stage (`Matched`)."""
REJECTED = "rejected"
"""Folder inside an `elicited/` data set: the rows (of `Dropped`) whose answer could not be used or that were not answered."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str
    train: bool = False
    """Whether the student learns this turn."""
    ended: bool = True
    """False where the turn was cut at the token limit: the student then learns no end of turn."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example on its way from seed to training row (the survey's record schema)."""

    id: str
    """Given in the seed, else a digest of its content; never an order, a file or a path."""
    messages: tuple[Message, ...] = ()
    parents: tuple[str, ...] = ()
    """Ids of the rows it was made from; empty for a seed."""
    roots: tuple[str, ...] = ()
    """Ids of the seeds it descends from; a seed is its own root."""
    keys: tuple[str, ...] = ()
    """Keys of the teacher's answers it was made of."""
    held_out: bool = False
    """Kept from training, for evaluation."""
    context: tuple[dict[str, Any], ...] = ()
    """Passages: doc_id, text, score."""
    rationale: str | None = None
    program: str | None = None
    label: str | None = None
    gold: str | None = None
    candidates: tuple[dict[str, Any], ...] = ()
    """Alternative answers: text, source (who wrote it), logprob, score, ended, scores (by name)."""
    ranking: tuple[int, ...] = ()
    """Candidate indices, best first."""
    feedback: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    weight: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    trajectory: tuple[dict[str, str], ...] = ()
    """Steps: thought, action, args, observation."""
    media: dict[str, str] | None = None
    """type, path, text_view."""
    tool: dict[str, str] | None = None
    """An API: name, description, parameters (JSON schema as text), returns, callable (`module:function`)."""
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the first one the student learns."""
        for i, message in enumerate(self.messages):
            if message.train:
                return self.messages[:i]
        return self.messages

    @property
    def answer(self) -> str | None:
        """The last turn the student learns, or None where there is none."""
        trained = [m.content for m in self.messages if m.train]
        return trained[-1] if trained else None

    def with_answer(self, content: str, *, ended: bool, keys: Iterable[str]) -> Row:
        """Return the row with the teacher's answer as its last turn."""
        turn = Message("assistant", content, train=True, ended=ended)
        return replace(self, messages=(*self.messages, turn), keys=(*self.keys, *keys))


@dataclass(frozen=True)
class Dropped:
    """A row that did not go on, and why."""

    id: str
    by: str
    """The kind that dropped it: a selector, or an elicitor for a rejected answer."""
    reason: str
    because_of: str | None = None
    """Id of the kept row that makes this one superfluous."""
    score: float | None = None
    text: str = ""
    """What was dropped, for people: the row's prompt and answer."""


@dataclass(frozen=True)
class Scored:
    """One score of a training row, whether it went on or not."""

    id: str
    """Id of the row."""
    name: str
    """Name of the score; `<name>[i]` for the i-th candidate of a row without an answer."""
    value: float


@dataclass(frozen=True)
class Matched:
    """What a dropped row lost to, where that is no row of the stage: a row of another data set, or an item of an evaluation."""

    id: str
    """What `Dropped.because_of` names."""
    text: str


@dataclass(frozen=True)
class Call:
    """One answer of a teacher, as it was paid for."""

    id: str
    """Id of the row it was asked for."""
    key: str
    """The row key: digest of everything that defines the answer (64 hex digits)."""
    max_new_tokens: int
    """The limit it was asked with; a key holds one answer per limit."""
    answer: str
    """Canonical JSON of the `Answer`."""


@dataclass(frozen=True)
class Feature:
    """What one teacher said of the tokens of a row's trained turns: an answer whose signals are its payload."""

    id: str
    """Id of the row."""
    key: str
    """The row key."""
    actor: str
    """Who read it: a key of the manifest's `teachers`."""
    max_new_tokens: int
    """The limit it was asked with."""
    reading: str
    """Canonical JSON of the `Reading` that was asked for."""
    tokens: str
    """Digest of the token ids of the trained turns, by the teacher's tokenizer (16 hex digits)."""
    answer: str
    """Canonical JSON of the `Answer` without its payload."""
    payload: bytes
    """The signals, as `teachers/_features.py` writes them. Arrays that training reads piece by piece lie beside the Parquet file."""


def row_id(content: Any) -> str:
    """Return the id of a row that was given none: 16 hex digits of the digest of its content."""
    return canonical.digest(["kdbuild-row/1", content])[:16]


def as_json(row: Row) -> dict[str, Any]:
    """Return what a row holds as plain JSON values, empty fields left out."""
    values = {f.name: _without_empty(_column_value(getattr(row, f.name))) for f in fields(row)}
    return {name: value for name, value in values.items() if value not in (None, [], {}, "", False)}


def _without_empty(value: Any) -> Any:
    # A struct that was written and read again has all its fields; where they are None it is still the same struct.
    if isinstance(value, dict):
        return {name: _without_empty(item) for name, item in value.items() if item is not None}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def root_of(row: Row) -> tuple[str, ...]:
    """Return the seeds a row descends from."""
    return row.roots or (row.id,)


def is_held_out(row: Row, held_out_frac: float) -> bool:
    """Return whether any seed the row descends from is held out: a matter of the seed's id and the fraction alone."""
    return any(canonical.fraction("held-out", root) < held_out_frac for root in root_of(row))


# --- Parquet ---------------------------------------------------------------------------------------------------------


def _schema(record: type) -> pa.Schema:
    import pyarrow as pa

    text, real = pa.string(), pa.float64()
    message = pa.struct([("role", text), ("content", text), ("train", pa.bool_()), ("ended", pa.bool_())])
    passage = pa.struct([("doc_id", text), ("text", text), ("score", real)])
    scores = pa.list_(pa.struct([("name", text), ("value", real)]))
    candidate = pa.struct([("text", text), ("source", text), ("logprob", real), ("score", real), ("ended", pa.bool_()), ("scores", scores)])
    step = pa.struct([("thought", text), ("action", text), ("args", text), ("observation", text)])
    media = pa.struct([("type", text), ("path", text), ("text_view", text)])
    tool = pa.struct([(name, text) for name in ("name", "description", "parameters", "returns", "callable")])
    special: dict[tuple[str, str], pa.DataType] = {
        ("Row", "messages"): pa.list_(message),
        ("Row", "context"): pa.list_(passage),
        ("Row", "candidates"): pa.list_(candidate),
        ("Row", "ranking"): pa.list_(pa.int32()),
        # Not maps: the `datasets` library and the hub's viewer cannot read those.
        ("Row", "scores"): scores,
        ("Row", "trajectory"): pa.list_(step),
        ("Row", "media"): media,
        ("Row", "tool"): tool,
        ("Row", "meta"): pa.list_(pa.struct([("name", text), ("value", text)])),
    }
    plain = {"str": text, "str | None": text, "bool": pa.bool_(), "int": pa.int64(), "float": real, "float | None": real}
    plain |= {"tuple[str, ...]": pa.list_(text), "bytes": pa.binary()}
    columns = []
    for f in fields(record):
        kind = special.get((record.__name__, f.name)) or plain[str(f.type)]
        columns.append(pa.field(f.name, kind))
    return pa.schema(columns)


NAMED = ("scores", "meta")
"""Fields of a row that hold values by name, written as lists of (name, value)."""


def _column(name: str, rows: list[Any]) -> list[Any]:
    values = [getattr(row, name) for row in rows]
    if name in NAMED:
        return [_by_name(value) for value in values]
    if name == "candidates":
        return [[{**one, "scores": _by_name(one["scores"])} if one.get("scores") else one for one in value] for value in values]
    return [_column_value(value) for value in values]


def _by_name(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _column_value(value: Any) -> Any:
    if isinstance(value, Message):
        return {"role": value.role, "content": value.content, "train": value.train, "ended": value.ended}
    if isinstance(value, tuple):
        return [_column_value(item) for item in value]
    if isinstance(value, dict):
        return dict(sorted(value.items()))
    return value


def _named(pairs: Any) -> dict[str, Any]:
    return {pair["name"]: pair["value"] for pair in pairs or ()}


def _candidate(values: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in values.items() if name != "scores"}
    return {**plain, "scores": _named(values["scores"])} if values["scores"] else plain


def _record(record: type, values: dict[str, Any]) -> Any:
    if record is Row:
        values["messages"] = tuple(Message(**m) for m in values["messages"])
        for name in NAMED:
            values[name] = _named(values[name])
        values["candidates"] = [_candidate(one) for one in values["candidates"] or ()]
        for name in ("parents", "roots", "keys", "context", "candidates", "ranking", "trajectory"):
            values[name] = tuple(values[name] or ())
    return record(**values)


def _sort_key(row: Any) -> tuple[str, str, int]:
    return (row.id, getattr(row, "key", getattr(row, "name", "")), getattr(row, "max_new_tokens", 0))


def shards(rows: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the name of each shard of a data set (a Parquet file) and the rows in it."""
    if len(rows) < 10_000:
        yield "part-0.parquet", rows
        return
    digits = 1 if len(rows) < 1_000_000 else 2
    found: dict[str, list[Any]] = {f"{i:0{digits}x}": [] for i in range(16**digits)}
    for row in rows:
        found[hashlib.sha256(row.id.encode()).hexdigest()[:digits]].append(row)
    for name, members in found.items():
        yield f"part-{name}.parquet", members


def write_dataset(folder: Path, record: type, rows: Iterable[Any], *, manifest: Mapping[str, Any] | None = None) -> None:
    """Write `rows` (all of dataclass `record`) as a data set into `folder`, which must exist, manifest last.

    `manifest` adds what a consumer must verify, such as a teacher's revision. Ids must be unique but for calls.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(rows, key=_sort_key)
    schema = _schema(record)
    names = [f.name for f in fields(record)]
    for name, members in shards(ordered):
        columns = {n: _column(n, members) for n in names}
        table = pa.Table.from_pydict(columns, schema=schema)
        pq.write_table(table, folder / name, compression="zstd", compression_level=3, row_group_size=ROWS_PER_GROUP, store_schema=False)
    write_manifest(folder, {"record": record.__name__, "num_rows": len(ordered), **(manifest or {})})


def read_dataset(folder: Path, record: type, *, any_of: Mapping[str, Collection[str]] | None = None) -> list[Any]:
    """Return the rows of a data set in id order, after checking the manifest's sizes.

    `any_of` returns only those in which one of these columns holds one of its values.

    Raises:
        ArtifactError: the directory is missing, or is not what its manifest says.
    """
    import pyarrow.parquet as pq

    manifest = read_manifest(folder)
    if manifest.get("record") != record.__name__:
        raise ArtifactError(f"{folder} holds {manifest.get('record')} rows, not {record.__name__}")
    wanted = None if any_of is None else [[(column, "in", sorted(values))] for column, values in any_of.items() if values]
    if wanted == []:
        return []
    rows = [
        _record(record, values)
        for name in sorted(manifest["files"])
        if name.endswith(".parquet") and "/" not in name  # a folder inside is a data set of its own
        for values in pq.read_table(folder / name, filters=wanted).to_pylist()
    ]
    return sorted(rows, key=_sort_key)


# --- manifests -------------------------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """Return the digest of a file, or of a folder by its manifest or else by all its files; what is not there is an empty folder."""
    manifest = path / MANIFEST
    if manifest.is_file() or path.is_file():
        return sha256_of(path if path.is_file() else manifest)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else []
    return canonical.digest([[f.relative_to(path).as_posix(), sha256_of(f)] for f in files])


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `manifest.json`: `facts`, and the size and sha256 of every other file below `folder`."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    (folder / MANIFEST).write_text(canonical.pretty({**facts, "files": files}), encoding="utf-8")


def read_manifest(folder: Path, *, hashes: bool = False) -> dict[str, Any]:
    """Return the manifest of an output after checking the size (and the sha256 where `hashes`) of every file it names.

    Raises:
        ArtifactError: something is missing or is not what the manifest says.
    """
    hint = "`dvc checkout` restores it from the cache; `dvc repro` builds it"
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not there or has no {MANIFEST}", hint=hint) from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{folder / MANIFEST} is torn or not a manifest", hint=hint) from None
    for name, facts in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != facts["size"]:
            raise ArtifactError(f"{path} has {size} bytes; its manifest says {facts['size']}", hint=hint)
        if hashes and sha256_of(path) != facts["sha256"]:
            raise ArtifactError(f"{path} does not have the sha256 its manifest says", hint=hint)
    return manifest
