"""The row store after a torn write or a bad disk: every answer that can still be read is kept."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from kdbuild.errors import KdbuildError
from kdbuild.plan import sqlite_pages
from kdbuild.rows import database
from kdbuild.rows.answers import decode
from kdbuild.rows.store import Store
from kdbuild.teachers import Answer

Found = tuple[str, str, Callable[[], str]]

_BESIDE = ("", "-wal", "-shm", "-journal")
_ANSWERS = "key, max_new_tokens, answer, row, cost_usd"


def find(folder: Path) -> Iterator[Found]:
    """Yield a store that is torn or holds what is not an answer."""
    path = folder / database.NAME
    if not path.exists():
        return
    wrong = _wrong_with(path)
    if wrong:
        remedy = "keeps the file aside and writes a new one of every answer that can still be read"
        yield f"the row store {path} is damaged: {wrong}", remedy, lambda: _mend(path)


def _wrong_with(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            verdict = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if verdict != "ok":
                return str(verdict)
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                return None if path.stat().st_size == 0 else "it is not a row store"
            connection.text_factory = bytes
            rows = connection.execute(f"SELECT {_ANSWERS} FROM answers")
            bad = sum(_answer(*row) is None for row in rows)
    except sqlite3.Error as error:
        return str(error)
    return f"{bad} of its answers {'is' if bad == 1 else 'are'} not one" if bad else None


def _answer(key: Any, limit: Any, answer: Any, row: Any, cost_usd: Any) -> tuple[str, int, Answer, str, float] | None:
    """Return what `Store.put` takes, or None where it is not an answer."""
    try:
        found = decode(answer.decode("utf-8"))
        good = isinstance(key, bytes) and len(key) == 32 and type(limit) is int
        return (key.hex(), limit, found, row.decode("utf-8"), float(cost_usd)) if good else None
    except (KdbuildError, TypeError, ValueError, AttributeError):
        return None


def _mend(path: Path) -> str:
    """Write a new store of what can be read, then put it in the old one's place."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="salvage-") as scratch:
        copy = _copied(path, Path(scratch))
        new = Path(scratch) / "new"
        new.mkdir()
        num_kept = _salvaged(copy, new)
        number = len(list(path.parent.glob(f"{path.name}.torn-*")))
        aside = path.with_name(f"{path.name}.torn-{number}")
        aside.hardlink_to(path)
        for end in _BESIDE[1:]:  # an old log beside the new file would be taken for its own
            old = path.with_name(path.name + end)
            if old.exists():
                old.rename(aside.with_name(aside.name + end))
        (new / database.NAME).replace(path)
    return f"kept {num_kept} answer{'' if num_kept == 1 else 's'}; the damaged file is {aside}"


def _copied(path: Path, folder: Path) -> Path:
    for end in _BESIDE:
        beside = path.with_name(path.name + end)
        if beside.exists() and end != "-shm":
            shutil.copyfile(beside, folder / beside.name)
    return folder / path.name


def _salvaged(old: Path, new: Path) -> int:
    """Copy every readable answer of `old` into a store in `new`; return how many there are.

    The run ledger goes along where it is whole. What was taken in from pulled outputs is forgotten: it may be among what is lost.
    """
    with Store.open(new) as store:
        for record in sqlite_pages.records(old):
            if len(record) == 7:  # id, key, max_new_tokens, answer, failed, row, cost_usd
                good = _answer(*record[1:4], *record[5:])
                if good is not None:
                    key, limit, answer, row, cost_usd = good
                    store.put(key, limit, answer, row=row, cost_usd=cost_usd)
        num_kept = store.num_answers()
    with closing(sqlite3.connect(new / database.NAME, isolation_level=None)) as target:
        _copy_ledger(old, target)
    return num_kept


def _copy_ledger(old: Path, target: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(old)) as source:
        for table in ("runs", "last_rows"):
            try:
                lines = source.execute(f"SELECT * FROM {table}").fetchall()
                target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(lines[0]))})", lines) if lines else None
            except (sqlite3.Error, UnicodeDecodeError):
                continue
