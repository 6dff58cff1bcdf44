"""The SQLite file below the row store: how it is opened, written, and explained when it fails."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from kdbuild.errors import StageError

NAME = "rows.sqlite"
RESERVE = "reserve"
_RESERVE_BYTES = 4 * 2**20
_BUSY_TIMEOUT_S = 60.0
_VERSION = 2

# An ordinary rowid table: keys are random, and `WITHOUT ROWID` would keep whole answers in the b-tree of the keys, 4.5 times slower.
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, max_new_tokens INTEGER NOT NULL, answer TEXT NOT NULL,
    failed INTEGER NOT NULL, row TEXT NOT NULL, cost_usd REAL NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS answers_by_key ON answers (key, max_new_tokens);
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, stage TEXT NOT NULL, section_key TEXT NOT NULL, started REAL NOT NULL, seconds REAL,
    finished INTEGER NOT NULL DEFAULT 0, num_calls INTEGER NOT NULL DEFAULT 0, num_prompt_tokens INTEGER NOT NULL DEFAULT 0,
    num_new_tokens INTEGER NOT NULL DEFAULT 0, cost_usd REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS last_rows (stage TEXT PRIMARY KEY, rows BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS refilled (digest TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS run_costs (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, operator TEXT NOT NULL, teacher TEXT NOT NULL, num_calls INTEGER NOT NULL,
    num_prompt_tokens INTEGER NOT NULL, num_new_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL);
PRAGMA user_version = 2;
COMMIT;
"""

# SQLite cannot tell a network file system, and WAL's shared memory does not reach across hosts.
_NETWORK = ("nfs", "cifs", "smb", "9p", "lustre", "gpfs", "beegfs", "ceph", "afs", "glusterfs", "fuse.sshfs", "fuse.s3fs")


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the file, made with its tables if absent. A `read_only` store that is not there is an empty one."""
    if read_only:
        return _connect_read_only(path)
    if not os.access(path.parent, os.W_OK):
        raise StageError(f"the row store {path} cannot be written", hint=_HINTS["SQLITE_READONLY"][1])
    _keep_reserve(path)
    connection = _connection(path.as_uri())
    connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_TIMEOUT_S * 1000)}")
    choose_journal(connection, path, "row store")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < _VERSION:
        connection.executescript(_SCHEMA)  # every format so far is the one before and a table more
    elif version != _VERSION:
        connection.close()
        raise StageError(f"{path} has format {version}; this kdbuild reads format {_VERSION}", hint="update kdbuild, or move the file away")
    return connection


def _connection(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _connect_read_only(path: Path) -> sqlite3.Connection:
    if not path.exists():
        empty = _connection(":memory:")
        empty.executescript(_SCHEMA)
        return empty
    # The shared memory of WAL cannot be made in a folder that cannot be written; then nobody writes the file either.
    for mode in ("mode=ro", "immutable=1"):
        connection = _connection(f"{path.as_uri()}?{mode}")
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.OperationalError:
            connection.close()
            if mode == "immutable=1":
                raise
            continue
        if version == 0:
            connection.close()
            return _connect_read_only(path.with_name("absent"))
        if version < _VERSION and os.access(path, os.W_OK):
            connection.close()
            connect(path, read_only=False).close()  # an older format gets what it lacks
            return _connect_read_only(path)
        return connection
    raise AssertionError("unreachable")


def choose_journal(connection: sqlite3.Connection, path: Path, what: str) -> None:
    """Set WAL mode, or where it cannot work a rollback journal, said aloud; `what` names the file for people."""
    if _file_system(path.parent).startswith(_NETWORK):
        reason = "a network file system"
    else:
        mode = _ask_for_wal(connection)
        if mode == "wal":
            return
        reason = f"SQLite says `{mode}`"
    connection.execute("PRAGMA journal_mode = DELETE")
    print(f"kdbuild: {what} {path} uses a rollback journal instead of WAL ({reason}): slower, as safe", file=sys.stderr)


def _ask_for_wal(connection: sqlite3.Connection) -> str:
    # The busy timeout does not cover a change of journal: two first builds at once would see "locked".
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                return str(error)
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _file_system(folder: Path) -> str:
    """Return the type of the file system a folder lies on, or "" where that is not known."""
    best, found = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, mount, kind, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            if folder.is_relative_to(mount) and len(mount) >= len(best):
                best, found = mount, kind
    return found


# --- full disks -----------------------------------------------------------------------------------------------------------


def _keep_reserve(path: Path) -> None:
    """Set space aside, so that answers already paid for can still be written when the disk is full."""
    reserve = path.with_name(RESERVE)
    if reserve.exists() and reserve.stat().st_size == _RESERVE_BYTES:
        return
    try:
        with reserve.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)
            else:
                file.write(b"\0" * _RESERVE_BYTES)
    except OSError as error:
        if not isinstance(error, PermissionError):
            reserve.unlink(missing_ok=True)
        raise StageError(
            f"the row store {path.parent} cannot be written: {error.strerror}",
            hint=f"it needs {_RESERVE_BYTES // 2**20} MiB free before a teacher is asked; `runtime: {{rows_dir: ...}}` moves it",
        ) from None


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the body as one durable transaction."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def make_room(path: Path, connection: sqlite3.Connection) -> None:
    """Give up the reserve of the store at `path`, and empty the log that a full disk left behind: its pages are in the database."""
    path.with_name(RESERVE).unlink(missing_ok=True)
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def is_full(error: BaseException | None) -> bool:
    """Return whether an error means that the disk (or a quota, or the largest file allowed) is full."""
    return getattr(error, "sqlite_errorname", "") in {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC"}


_HINTS = {
    "SQLITE_NOTADB": ("is torn or not a row store", "run `kdbuild doctor`: it keeps every answer that can still be read"),
    "SQLITE_CORRUPT": ("is torn", "run `kdbuild doctor`: it keeps every answer that can still be read"),
    "SQLITE_FULL": ("cannot be written: the disk is full", "every answer stored so far is kept: free some space and run the build again"),
    "SQLITE_READONLY": ("cannot be written", "it lies on a read-only disk or belongs to someone else; `runtime: {rows_dir: ...}` moves it"),
    "SQLITE_BUSY": ("is locked by another process", f"it did not let go within {_BUSY_TIMEOUT_S:.0f} s; stop the other build"),
    "SQLITE_CANTOPEN": ("cannot be opened", "check that its folder exists and may be written; `runtime: {rows_dir: ...}` moves it"),
}


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a StageError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        name = "SQLITE_FULL" if is_full(error) else getattr(error, "sqlite_errorname", "")
        known = next((entry for start, entry in _HINTS.items() if name.startswith(start)), None)
        what, hint = known or (f"failed: {error}", "every answer stored so far is kept; run `kdbuild doctor`, then the build again")
        raise StageError(f"the row store {path} {what}", hint=hint) from error
