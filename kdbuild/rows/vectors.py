"""What one embedder made of texts, kept between builds: a cache that can be lost at any time and then only costs time.

One folder per embedder (`Embedder.vector_identity`) beside the row store, with an SQLite file of its own: paid answers lie elsewhere. Every
entry carries a checksum. What cannot be read or written (a torn file, a full disk, a folder of someone else's) is said once, and the
rest of the build keeps what it needs in memory.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import uuid
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kdbuild.errors import StageError
from kdbuild.rows import database, place

if TYPE_CHECKING:
    import numpy as np

FOLDER = "vectors"
NAME = "vectors.sqlite"
_PER_QUERY = 500
_BUSY_TIMEOUT_S = 30.0
_CHECKSUM_BYTES = 4
_TORN = ("SQLITE_NOTADB", "SQLITE_CORRUPT")

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, vector BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS vectors_by_digest ON vectors (digest);
CREATE TABLE IF NOT EXISTS graphs (place TEXT PRIMARY KEY, graph BLOB NOT NULL);
COMMIT;
"""


class _Torn(Exception):
    """An entry is not what was written."""


class VectorCache:
    """Vectors by the sha256 of their text, and graphs of near texts by a name."""

    def __init__(self, folder: Path | None) -> None:
        """Open the cache in `folder`, made if absent; None keeps everything in memory."""
        self._folder = folder
        self._told = False
        self._use(_connect(None))  # what is in memory serves as well, and goes with the process
        if folder is not None:
            with self._only_costs_time():
                self._use(_connect(folder))

    @classmethod
    def open(cls, root: Path, rows_dir: str | None, identity: str) -> Self:
        """Open the cache of one embedder of the project at `root`, beside its row store."""
        try:
            return cls(place.store_dir(root, rows_dir) / FOLDER / identity[:32])
        except StageError as error:
            print(f"kdbuild: embeddings are not kept for the next build: {error.message}", file=sys.stderr)
            return cls(None)

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        weakref.finalize(self, connection.close)

    # --- vectors ---------------------------------------------------------------------------------------------------------

    def vectors(self, digests: Sequence[bytes]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions in `digests` of what is known, with the vectors: float32 of shape (number of positions, dimension)."""
        with self._only_costs_time():
            position = {digest: i for i, digest in enumerate(digests)}
            # By digest, as the index lies: neighbours share its pages.
            ordered = sorted(position)
            for start in range(0, len(ordered), _PER_QUERY):
                some = ordered[start : start + _PER_QUERY]
                marks = ",".join("?" * len(some))
                found = self._connection.execute(f"SELECT digest, vector FROM vectors WHERE digest IN ({marks})", some).fetchall()
                if found:
                    yield [position[digest] for digest, _ in found], _unpacked(found)

    def put(self, digests: Sequence[bytes], vectors_KD: np.ndarray) -> None:
        """Keep vectors; those that are there stay."""
        entries = [(digest, _sealed(digest, vector.tobytes())) for digest, vector in zip(digests, vectors_KD, strict=True)]
        with self._only_costs_time(), database.transaction(self._connection):
            self._connection.executemany("INSERT OR IGNORE INTO vectors (digest, vector) VALUES (?, ?)", entries)

    # --- graphs ----------------------------------------------------------------------------------------------------------

    def graph(self, place: str) -> bytes | None:
        """Return the graph of this name as it was put."""
        with self._only_costs_time():
            found = self._connection.execute("SELECT graph FROM graphs WHERE place = ?", (place,)).fetchone()
            return None if found is None else _opened(place.encode(), found[0])
        return None

    def put_graph(self, place: str, graph: bytes) -> None:
        """Keep a graph in place of the one of this name."""
        with self._only_costs_time(), database.transaction(self._connection):
            self._connection.execute("REPLACE INTO graphs (place, graph) VALUES (?, ?)", (place, _sealed(place.encode(), graph)))

    # --- what goes wrong -------------------------------------------------------------------------------------------------

    @contextmanager
    def _only_costs_time(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, _Torn) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        torn = isinstance(error, _Torn) or getattr(error, "sqlite_errorname", "").startswith(_TORN)
        if not self._told:
            what = "is torn and was thrown away" if torn else f"cannot be used ({error})"
            print(f"kdbuild: the cache of embeddings in {self._folder} {what}: this build embeds again what it needs", file=sys.stderr)
        self._told = True
        self._use(_connect(None))
        if torn and self._folder is not None:
            _throw_away(self._folder)


def _connect(folder: Path | None) -> sqlite3.Connection:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    where = ":memory:" if folder is None else str(folder / NAME)
    connection = sqlite3.connect(where, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        if folder is not None:
            database.choose_journal(connection, folder / NAME, "the cache of embeddings")
        # A power cut may cost the last transactions, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


def _throw_away(folder: Path) -> None:
    # Renamed as a whole first: another process goes on with the files it has open, and none meets the log of another database.
    aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.torn")
    try:
        folder.rename(aside)
    except OSError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def _sealed(name: bytes, value: bytes) -> bytes:
    return value + zlib.crc32(value, zlib.crc32(name)).to_bytes(_CHECKSUM_BYTES, "little")


def _opened(name: bytes, sealed: bytes) -> bytes:
    value = sealed[:-_CHECKSUM_BYTES]
    if _sealed(name, value) != sealed:
        raise _Torn
    return value


def _unpacked(found: Sequence[tuple[bytes, bytes]]) -> np.ndarray:
    import numpy as np

    values = [_opened(digest, sealed) for digest, sealed in found]
    if len({len(value) for value in values}) != 1 or len(values[0]) % 4:
        raise _Torn
    return np.frombuffer(b"".join(values), np.float32).reshape(len(values), -1)
