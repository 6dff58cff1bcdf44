"""The store of teachers' answers: SQLite, safe for several processes, durable in groups.

For readers (the planner):

    store = Store.open(folder, read_only=True)            a store that is not there yet is an empty one
    store.serve_many([(key, max_new_tokens), ...])        -> {(key, max_new_tokens): Answer} of those that need no call
    store.last_run("everyday_sft_elicit")                 -> {row id: [keys]} of the stage's last finished run, or None

For writers: `put` buffers, `flush` makes durable; answers become durable `commit_interval_s` after they came, whatever the caller does.
A served answer is always durable. Keys are 64 hex digits outside, 32 bytes inside.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdbuild.errors import StageError
from kdbuild.rows import database
from kdbuild.rows.answers import decode, encode, serves
from kdbuild.teachers import Answer

GROUP = 256
"""Answers that are made durable at once, even before the interval is over."""
GROUP_BYTES = 2**20
"""As much text is made durable at once too: what a full disk leaves unwritten must fit into the reserve, in the log and in the file."""
_KEYS_PER_QUERY = 500
_FORGOTTEN = 2
"""Value of `failed` (0: an answer, 1: a failure accepted as final) of what was taken back, to be asked again."""
Asked = tuple[str, int]
"""A row key and the limit (`max_new_tokens`) of the ask."""


@dataclass(frozen=True)
class Run:
    """One line of the run ledger: what a stage run cost. Nothing of it is in an output."""

    stage: str
    section_key: str
    started: float
    """Seconds since the epoch."""
    seconds: float | None
    """None while it runs, or where it was killed."""
    finished: bool
    """Whether it came to its end with every row."""
    num_calls: int
    num_prompt_tokens: int
    num_new_tokens: int
    cost_usd: float


class Store:
    """Answers by key and limit; first writer wins. Use as a context manager, or call `close`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, commit_interval_s: float) -> None:
        self._connection = connection
        self._path = path
        self._interval_s = commit_interval_s
        self._buffer: list[tuple[bytes, int, str, int, str, float, bool]] = []
        self._buffered_bytes = 0
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._filled = threading.Event()
        self._trouble: StageError | None = None
        self._flusher: threading.Thread | None = None

    @classmethod
    def open(cls, folder: Path, *, commit_interval_s: float = 0.02, read_only: bool = False) -> Self:
        """Open (or make) the store in `folder`.

        Raises:
            StageError: the file is torn (names `kdbuild doctor`), or cannot be opened or made.
        """
        path = folder / database.NAME
        with database.explained(path):
            return cls(database.connect(path, read_only=read_only), path, commit_interval_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        except StageError:
            if error is None:
                raise

    def close(self) -> None:
        """Make durable what is buffered, and close."""
        self._closing.set()
        self._filled.set()
        if self._flusher is not None:
            self._flusher.join()
        try:
            self.flush()
        finally:
            self._connection.close()

    # --- answers ---------------------------------------------------------------------------------------------------------

    def serve(self, key: str, max_new_tokens: int) -> Answer | None:
        """Return the stored answer that needs no call under this limit, or None."""
        return self.serve_many([(key, max_new_tokens)]).get((key, max_new_tokens))

    def serve_many(self, asked: Iterable[Asked], *, failures: bool = False, flush: bool = True) -> dict[Asked, Answer]:
        """Return the stored answers of those that need no call; `failures` includes asks whose failure was accepted as final.

        An answer serves if it ended by itself within the present limit or was cut at exactly that limit. Without `flush`, those put
        within the last commit interval are not seen.
        """
        if flush:
            self.flush()
        limits: dict[bytes, list[int]] = {}
        for key, limit in asked:
            limits.setdefault(bytes.fromhex(key), []).append(limit)
        found: dict[Asked, Answer] = {}
        for raw, stored_limit, text in self._select(sorted(limits)):
            answer = decode(text)
            if answer.failed is not None and not failures:
                continue
            for limit in limits[raw]:
                # The exact limit comes before any other, then the smallest, then a failure: stores serve alike, whatever their history.
                better = (raw.hex(), limit) not in found or (stored_limit == limit and answer.failed is None)
                if better and serves(answer, stored_limit, limit):
                    found[raw.hex(), limit] = answer
        return found

    def _select(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int, str]]:
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            part = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            query = (
                f"SELECT key, max_new_tokens, answer FROM answers WHERE key IN ({marks}) AND failed < {_FORGOTTEN} ORDER BY 1, failed, 2"
            )
            with self._lock, database.explained(self._path):
                rows = self._connection.execute(query, part).fetchall()
            yield from rows

    def put(self, key: str, max_new_tokens: int, answer: Answer, *, row: str = "", cost_usd: float = 0.0, pulled: bool = False) -> None:
        """Buffer an answer asked for row `row`; it becomes durable within the commit interval. One already there stays.

        A failed answer is a failure accepted as final; a real answer replaces it. What was forgotten comes back only by a call of this
        machine, not with answers that were `pulled`: another answer does.

        Raises:
            StageError: the disk is full or cannot be written; what was put is kept and written by the next flush that can.
        """
        entry = (bytes.fromhex(key), max_new_tokens, encode(answer), int(answer.failed is not None), row, cost_usd, pulled)
        with self._lock:
            self._buffer.append(entry)  # before anything can raise: it is paid for
            if self._trouble is not None:
                raise self._trouble
            self._buffered_bytes += len(entry[2])
            full = len(self._buffer) >= GROUP or self._buffered_bytes >= GROUP_BYTES
            self._start_flusher()
        self._filled.set()
        if full:
            self.flush()

    def flush(self) -> None:
        """Make every answer put so far durable.

        Raises:
            StageError: the disk is full or cannot be written.
        """
        with self._lock:
            if not self._buffer:
                return
            try:
                self._write_buffer()
            except StageError as error:
                if isinstance(error.__cause__, sqlite3.Error) and database.is_full(error.__cause__):
                    database.make_room(self._path, self._connection)
                    with suppress(StageError):
                        self._write_buffer()  # what was paid for is safe now; the run still ends, with the error that says why
                raise

    def _write_buffer(self) -> None:
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO answers (key, max_new_tokens, answer, failed, row, cost_usd) VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
                "ON CONFLICT (key, max_new_tokens) DO UPDATE SET answer = excluded.answer, failed = excluded.failed, "
                "row = excluded.row, cost_usd = excluded.cost_usd WHERE answers.failed > excluded.failed "
                "AND NOT (?7 AND (excluded.failed OR answers.answer = excluded.answer))",
                self._buffer,
            )
        self._buffer.clear()
        self._buffered_bytes = 0

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, database.explained(self._path), database.transaction(self._connection):
            yield

    def _start_flusher(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_in_time, name="kdbuild-rows", daemon=True)
            self._flusher.start()

    def _flush_in_time(self) -> None:
        # A teacher may think for minutes between two answers: the ones already paid for must not wait in memory for the next.
        while not self._closing.is_set():
            self._filled.wait()
            self._filled.clear()
            try:
                self.flush()
            except StageError as error:
                self._trouble = error
            self._closing.wait(self._interval_s)

    def forget_failures(self, keys: Iterable[str]) -> int:
        """Take failures accepted as final back, so that they are asked again; return how many there were."""
        return self._forget(keys, failed=1)

    def forget_answers(self, keys: Iterable[str]) -> int:
        """Take answers back, so that they are asked again; return how many there were."""
        return self._forget(keys, failed=0)

    def _forget(self, keys: Iterable[str], *, failed: int) -> int:
        self.flush()
        query = f"UPDATE answers SET failed = {_FORGOTTEN} WHERE key = ? AND failed = ?"
        with self._transaction():
            return sum(self._connection.execute(query, (bytes.fromhex(key), failed)).rowcount for key in set(keys))

    def taken_by(self, keys: Iterable[str]) -> Spent:
        """Return what the answers under these keys took when they were asked."""
        self.flush()
        query = (
            "SELECT count(*), ifnull(sum(json_extract(answer, '$.num_prompt_tokens')), 0), "
            "ifnull(sum(json_extract(answer, '$.num_new_tokens')), 0), ifnull(sum(cost_usd), 0.0) FROM answers WHERE key = ? AND NOT failed"
        )
        with self._lock, database.explained(self._path):
            each = [Spent(*self._connection.execute(query, (bytes.fromhex(key),)).fetchone()) for key in set(keys)]
        return sum(each, Spent())

    def num_answers(self) -> int:
        """Return how many answers are stored."""
        self.flush()
        with self._lock, database.explained(self._path):
            return int(self._connection.execute(f"SELECT count(*) FROM answers WHERE failed < {_FORGOTTEN}").fetchone()[0])

    # --- what was already taken from pulled outputs ----------------------------------------------------------------------

    def was_refilled(self, digest: str) -> bool:
        """Return whether every call of the output with this digest has been taken in before."""
        with self._lock, database.explained(self._path):
            return self._connection.execute("SELECT 1 FROM refilled WHERE digest = ?", (digest,)).fetchone() is not None

    def mark_refilled(self, digest: str) -> None:
        """Remember that every call of the output with this digest has been taken in; flushes first."""
        self.flush()
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO refilled (digest) VALUES (?)", (digest,))

    # --- the run ledger --------------------------------------------------------------------------------------------------

    @contextmanager
    def run(self, stage: str, section_key: str) -> Iterator[Ledger]:
        """Record a stage run: what the `Ledger` counted is written at the end, however the run ends."""
        with self._transaction():
            values = (stage, section_key, time.time())
            cursor = self._connection.execute("INSERT INTO runs (stage, section_key, started) VALUES (?, ?, ?)", values)
        ledger, start = Ledger(), time.perf_counter()
        try:
            yield ledger
        except BaseException:
            self._try_to_end(cursor.lastrowid, stage, ledger, time.perf_counter() - start)
            raise
        self._end(cursor.lastrowid, stage, ledger, time.perf_counter() - start)

    def _try_to_end(self, run: Any, stage: str, ledger: Ledger, seconds: float) -> None:
        # The stage is failing for a reason of its own; a ledger that cannot be written must not hide it.
        ledger.rows = None
        try:
            self._end(run, stage, ledger, seconds)
        except StageError:
            return

    def _end(self, run: Any, stage: str, ledger: Ledger, seconds: float) -> None:
        self.flush()
        counts = astuple(ledger.spent)
        with self._transaction():
            self._connection.execute(
                "UPDATE runs SET seconds = ?, finished = ?, num_calls = ?, num_prompt_tokens = ?, num_new_tokens = ?, cost_usd = ? "
                "WHERE id = ?",
                (seconds, int(ledger.rows is not None), *counts, run),
            )
            self._connection.executemany(
                "INSERT INTO run_costs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)",
                [(run, operator, teacher, *astuple(spent)) for (operator, teacher), spent in ledger.by.items()],
            )
            if ledger.rows is not None:
                packed = zlib.compress(json.dumps({k: list(v) for k, v in ledger.rows.items()}).encode(), 1)
                self._connection.execute("INSERT OR REPLACE INTO last_rows (stage, rows) VALUES (?, ?)", (stage, packed))

    def last_run(self, stage: str) -> dict[str, list[str]] | None:
        """Return {row id: keys of the answers it was made of} of the stage's last finished run here, or None."""
        with self._lock, database.explained(self._path):
            found = self._connection.execute("SELECT rows FROM last_rows WHERE stage = ?", (stage,)).fetchone()
        return None if found is None else dict(json.loads(zlib.decompress(found[0])))

    def spent(self, stage: str, section_key: str) -> Spent:
        """Return what the stage's runs with this `_key` have taken so far."""
        with self._lock, database.explained(self._path):
            found = self._connection.execute(
                "SELECT ifnull(sum(num_calls), 0), ifnull(sum(num_prompt_tokens), 0), ifnull(sum(num_new_tokens), 0), "
                "ifnull(sum(cost_usd), 0.0) FROM runs WHERE stage = ? AND section_key = ?",
                (stage, section_key),
            ).fetchone()
        return Spent(*found)

    def costs(self) -> list[tuple[str, str, str, Spent]]:
        """Return (stage, operator, teacher, what its calls took in all runs), sorted."""
        with self._lock, database.explained(self._path):
            found = self._connection.execute(
                "SELECT stage, operator, teacher, sum(c.num_calls), sum(c.num_prompt_tokens), sum(c.num_new_tokens), sum(c.cost_usd) "
                "FROM run_costs c JOIN runs ON runs.id = c.run GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
            ).fetchall()
        return [(stage, operator, teacher, Spent(*counts)) for stage, operator, teacher, *counts in found]

    def row_costs(self) -> list[tuple[str, Spent]]:
        """Return (row id, what the answers asked for it took), dearest first; a row is an id, whichever spec asked."""
        with self._lock, database.explained(self._path):
            found = self._connection.execute(
                "SELECT row, count(*), sum(json_extract(answer, '$.num_prompt_tokens')), sum(json_extract(answer, '$.num_new_tokens')), "
                "sum(cost_usd) FROM answers WHERE NOT failed GROUP BY row ORDER BY 5 DESC, 3 DESC, 1"
            ).fetchall()
        return [(row, Spent(*counts)) for row, *counts in found]

    def runs(self, stage: str) -> list[Run]:
        """Return the stage's runs, oldest first."""
        with self._lock, database.explained(self._path):
            found = self._connection.execute(
                "SELECT stage, section_key, started, seconds, finished, num_calls, num_prompt_tokens, num_new_tokens, cost_usd "
                "FROM runs WHERE stage = ? ORDER BY id",
                (stage,),
            ).fetchall()
        names = [f.name for f in fields(Run)]
        return [Run(**{**dict(zip(names, line, strict=True)), "finished": bool(line[4])}) for line in found]


@dataclass(frozen=True)
class Spent:
    """What calls took."""

    num_calls: int = 0
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    usd: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Tokens of questions and answers."""
        return self.num_prompt_tokens + self.num_new_tokens

    def __add__(self, other: Spent) -> Spent:
        """Return the sum."""
        return Spent(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Ledger:
    """What a running stage counts of its calls. `rows` is set by a run that came to its end."""

    by: dict[tuple[str, str], Spent] = field(default_factory=dict)
    """(operator, teacher) to what its calls took."""
    rows: Mapping[str, Sequence[str]] | None = None
    """Row id to the keys of the answers it was made of."""
    spent: Spent = Spent()
    """All of it."""

    def count(self, answer: Answer, cost_usd: float, *, operator: str = "", teacher: str = "") -> None:
        """Count one call."""
        one = Spent(1, answer.num_prompt_tokens, answer.num_new_tokens, cost_usd)
        self.spent += one
        self.by[operator, teacher] = self.by.get((operator, teacher), Spent()) + one
