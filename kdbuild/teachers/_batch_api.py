"""The batch API: many questions as one file, answered within a day at another price.

What was sent is found again by what it holds: a batch carries the digest of the teacher that sent it, and each line of its input file the
digest of its request as its id. A stage that was killed therefore takes up the batches it had sent, also where its questions are others
by now: what a batch holds of them is read from it, and only the rest is sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from kdbuild.errors import KdbuildError, StageError
from kdbuild.teachers import Answer, Ask
from kdbuild.teachers._calls import Broken, Limited, Refused, Stop, Unanswered, Unreachable
from kdbuild.teachers._chat import CHAT, Dialect, load, read_value
from kdbuild.teachers._endpoints import Endpoint, backoff_s
from kdbuild.teachers._remote import Deliver, WoundDown
from kdbuild.teachers._sender import Patience, named
from kdbuild.teachers._wire import MOST_BYTES, refusal, request

_MOST_LINES = 10_000
"""Providers take up to 50,000 lines; smaller batches come back earlier."""
_MOST_INPUT_BYTES = 64 * 2**20
_MOST_OUTPUT_BYTES = 2**31
_OLDEST_S = 8 * 24 * 3600
"""Batches older than this are not looked through."""
_RUNNING = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(eq=False)
class _Line:
    """One request, and the questions it answers (equal ones travel once)."""

    ask: Ask
    body: bytes
    indexes: list[int] = field(default_factory=list)
    tries: int = 0


class Batches:
    """The batches of one `generate`."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        endpoint: Endpoint,
        dialect: Dialect,
        patience: Patience,
        deliver: Deliver,
        *,
        owner: str,
        poll_s: float,
    ) -> None:
        """`owner` is the digest of the teacher's identity: batches of the same owner are its own, whichever run sent them."""
        self._http = http
        self._endpoint = endpoint
        self._dialect = dialect
        self._patience = patience
        self._deliver = deliver
        self._owner = owner
        self._poll_s = poll_s
        self._new: list[tuple[int, Ask]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False

    def add(self, asks: list[tuple[int, Ask]]) -> None:
        """Take up questions, each with its index; those that come while batches are on their way are sent after these."""
        self._new += asks
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    def cancel(self) -> None:
        """Stop waiting. The batches go on at the server, and are found again."""
        if self._task is not None:
            self._task.cancel()

    def wind_down(self) -> None:
        """Send no further batch, and deliver `WoundDown` after those that are on their way: they come as a whole, and are paid for."""
        self._is_ending = True
        if self._task is None or self._task.done():
            self._deliver([WoundDown()])

    async def _work(self) -> None:
        try:
            while self._new and not self._is_ending:
                lines = self._lines(self._new)
                self._new = []
                await self._answer(lines)
            if self._is_ending:
                self._deliver([WoundDown()])
        except Stop as stop:
            self._deliver([await named(self._http, self._endpoint, self._dialect.model, stop)])
        except asyncio.CancelledError:
            raise
        except (KdbuildError, Exception) as error:
            self._deliver([error])

    def _lines(self, asks: list[tuple[int, Ask]]) -> dict[str, _Line]:
        lines: dict[str, _Line] = {}
        for index, ask in asks:
            body = self._dialect.body(ask)
            name = hashlib.sha256(self._owner.encode() + body).hexdigest()[:40]
            lines.setdefault(name, _Line(ask, body)).indexes.append(index)
        return lines

    # --- the questions of one round ------------------------------------------------------------------------------------------

    async def _answer(self, lines: dict[str, _Line]) -> None:
        """Deliver an answer to every line."""
        running = await self._found(lines)
        while lines:
            sent = set().union(*running.values())
            for part in _parts({name: line for name, line in lines.items() if name not in sent}):
                if not self._is_ending:
                    running[await self._submit(part)] = set(part)
            if not running:
                return
            for batch in await self._ended(list(running)):
                await self._read(batch, {name: lines[name] for name in running.pop(batch["id"]) if name in lines}, lines)

    async def _found(self, lines: dict[str, _Line]) -> dict[str, set[str]]:
        """Deliver what earlier batches answered, and return those that are on their way with what they hold of these lines."""
        running: dict[str, set[str]] = {}
        async for batch in self._own_batches():
            left = lines.keys() - set().union(*running.values())
            if not left:
                break
            if batch.get("status") in _RUNNING:
                held = {name async for name, _ in self._file(batch.get("input_file_id"))} & left
                running |= {batch["id"]: held} if held else {}
            else:
                await self._read(batch, {name: lines[name] for name in left}, lines, is_earlier=True)
        return running

    async def _own_batches(self) -> AsyncIterator[dict[str, Any]]:
        """Yield this teacher's batches, newest first."""
        after = ""
        while True:
            try:
                page = await self._json("GET", "/batches", {"limit": "100"} | ({"after": after} if after else {}))
            except Stop as stop:
                if not stop.is_model:
                    raise
                hint = "`batch_api: false` on the teacher in params.yaml asks question by question"
                raise StageError(f"{self._endpoint.label}: the server has no batch API", hint=hint) from None
            batches = [batch for batch in page.get("data") or () if isinstance(batch, dict) and isinstance(batch.get("id"), str)]
            for batch in batches:
                if time.time() - (batch.get("created_at") or 0) > _OLDEST_S:
                    return
                if (batch.get("metadata") or {}).get("kdbuild") == self._owner:
                    yield batch
            if not page.get("has_more") or not batches or batches[-1]["id"] == after:
                return
            after = batches[-1]["id"]

    async def _submit(self, part: Mapping[str, _Line]) -> str:
        """Send lines as a batch; return its id."""
        for line in part.values():
            line.tries += 1
        content = b"".join(_as_line(name, line) for name, line in part.items())

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData()
            data.add_field("purpose", "batch")
            data.add_field("file", content, filename="kdbuild.jsonl", content_type="application/jsonl")
            return data

        file = str((await self._json("POST", "/files", data=form))["id"])
        order = {"input_file_id": file, "endpoint": f"/v1{CHAT}", "completion_window": "24h", "metadata": {"kdbuild": self._owner}}
        return await self._create(file, orjson.dumps(order))

    async def _create(self, file: str, order: bytes) -> str:
        for times in range(self._patience.max_retries + 1):
            try:
                raw = await request(self._http, self._endpoint, "POST", "/batches", order)
                return str(load(raw)["id"])
            except (Broken, Unreachable, Limited, KeyError, TypeError) as error:
                last = error
            await asyncio.sleep(backoff_s(self._patience.retry_wait_s, times))
            # It may have been made all the same: a second one would be paid for twice.
            async for batch in self._own_batches():
                if batch.get("input_file_id") == file:
                    return str(batch["id"])
        reason = last.reason if isinstance(last, Unanswered) else "the answer is not one"
        raise StageError(
            f"{self._endpoint.label}: the batch could not be started: {reason}", hint="build again: batches that were are found"
        )

    async def _ended(self, names: list[str]) -> list[dict[str, Any]]:
        """Wait until one or more of these batches have ended; return them."""
        while True:
            batches = [await self._json("GET", f"/batches/{name}") for name in names]
            ended = [batch for batch in batches if batch.get("status") not in _RUNNING]
            if ended:
                return ended
            await asyncio.sleep(self._poll_s)

    # --- what came of a batch ------------------------------------------------------------------------------------------------

    async def _read(self, batch: Mapping[str, Any], held: dict[str, _Line], lines: dict[str, _Line], *, is_earlier: bool = False) -> None:
        """Deliver what a batch says of the lines it holds, and take them out of `lines`; what failed stays, to be sent again.

        Of an earlier run's batch only answers count.
        """
        why = dict.fromkeys(held, "the batch gave no answer")
        for kind in ("output_file_id", "error_file_id"):
            async for name, result in self._file(batch.get(kind)):
                line = held.get(name)
                if line is None or name not in lines:
                    continue  # an answer to nothing that is asked, or a second one
                try:
                    self._give(lines.pop(name), self._read_line(line, result))
                except Refused as refused:
                    if is_earlier:
                        lines[name] = line
                    else:
                        self._give(line, Answer("", False, 0, 0, failed=refused.reason))
                except Unanswered as error:
                    lines[name] = line
                    why[name] = error.reason
        if is_earlier:
            return
        self._stop_if_nothing_was_run(batch)
        for name in [name for name in held if name in lines and lines[name].tries > self._patience.max_retries]:
            self._give(lines.pop(name), Answer("", False, 0, 0, failed=why[name]))

    def _read_line(self, line: _Line, result: Mapping[str, Any]) -> Answer:
        response = result.get("response") or {}
        status = response.get("status_code")
        if status == 200:
            return read_value(self._endpoint, line.ask, response.get("body"))
        if not isinstance(status, int) or status < 400:
            error = result.get("error") or {}
            code = error.get("code") if isinstance(error, dict) else None
            raise Broken("the batch expired" if code == "batch_expired" else "the batch gave no answer")
        raise refusal(self._endpoint, status, orjson.dumps(response.get("body")), {})

    def _stop_if_nothing_was_run(self, batch: Mapping[str, Any]) -> None:
        """Raise where the server refused a batch as a whole: sending it again would not help."""
        if batch.get("status") != "failed":
            return
        errors = (batch.get("errors") or {}).get("data") or [{}]
        said = self._endpoint.secrets.message(str(errors[0].get("message") or "it does not say why"))
        hint = "answers so far are stored; batches on their way are found again by the next build"
        raise StageError(f"{self._endpoint.label}: the server refused a batch: {said}", hint=hint)

    def _give(self, line: _Line, answer: Answer) -> None:
        self._deliver([(index, answer) for index in line.indexes])

    # --- calls ---------------------------------------------------------------------------------------------------------------

    async def _file(self, name: Any) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield (id, line) of each readable line of a file; nothing where there is no file."""
        if not isinstance(name, str):
            return
        raw = await self._retried("GET", f"/files/{name}/content", most_bytes=_MOST_OUTPUT_BYTES)
        for text in raw.split(b"\n"):
            try:
                value = load(text)
                yield str(value["custom_id"]), value
            except (Broken, KeyError, TypeError):
                continue

    async def _json(self, method: str, path: str, query: Mapping[str, str] | None = None, *, data: Any = None) -> dict[str, Any]:
        value = load(await self._retried(method, path, query, data=data))
        if not isinstance(value, dict):
            raise StageError(f"{self._endpoint.label}: the server's answer about a batch is not one", hint="is it really a batch API?")
        return value

    async def _retried(
        self, method: str, path: str, query: Mapping[str, str] | None = None, *, data: Any = None, most_bytes: int = MOST_BYTES
    ) -> bytes:
        """Make a call that costs nothing, again and again for as long as an outage or a rate limit may last."""
        began, times = time.monotonic(), 0
        while True:
            try:
                made = data() if data is not None else None
                return await request(self._http, self._endpoint, method, path, made, query=query, most_bytes=most_bytes)
            except (Unreachable, Broken, Limited) as error:
                is_limit = isinstance(error, Limited)
                longest = self._patience.max_rate_limit_wait_s if is_limit else self._patience.max_outage_s
                wait = error.wait_s if isinstance(error, Limited) and error.wait_s is not None else 0.0
                wait = max(wait, backoff_s(self._patience.retry_wait_s, times))
                if time.monotonic() - began + wait > longest:
                    hint = "build again later: answers so far are stored, and batches on their way are found again"
                    raise StageError(f"{self._endpoint.label} has stopped answering: {error.reason}", hint=hint) from None
            except Refused as error:
                raise StageError(f"{self._endpoint.label}: {error.reason}", hint="is there a batch API behind this endpoint?") from None
            times += 1
            await asyncio.sleep(wait)


def _as_line(name: str, line: _Line) -> bytes:
    head = orjson.dumps({"custom_id": name, "method": "POST", "url": f"/v1{CHAT}"})
    return head[:-1] + b',"body":' + line.body + b"}\n"


def _parts(lines: dict[str, _Line]) -> Iterator[dict[str, _Line]]:
    """Cut lines into batches."""
    part: dict[str, _Line] = {}
    size = 0
    for name, line in lines.items():
        if part and (len(part) >= _MOST_LINES or size + len(line.body) > _MOST_INPUT_BYTES):
            yield part
            part, size = {}, 0
        part[name] = line
        size += len(line.body)
    if part:
        yield part
