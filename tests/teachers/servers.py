"""A local server that speaks the chat-completions and the batch protocol, with latencies, slots, and faults that a test injects.

Hand-written on asyncio's protocols so that it is not what a benchmark measures. In a test: `with serve(...) as server`. As a process:
`python tests/teachers/servers.py --slots 256 --median-s 0.5 --sigma 0.6` prints its URL and serves until its standard input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import re
import statistics
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

try:
    from orjson import dumps, loads
except ImportError:  # in a peer's environment
    loads = json.loads

    def dumps(value):
        return json.dumps(value).encode()


MODEL = "small-model"
WORDS = ["river", "stone", "winter", "garden", "letter", "music", "window", "paper", "bread", "road", "story", "answer", "reason", "number"]
_HEAD_END = b"\r\n\r\n"


def written(messages: list[dict[str, Any]], seed: int = 0) -> str:
    """Return what the server's model writes: words by the digest of the question, 3 to 20 of them."""
    digest = hashlib.sha256(json.dumps([[m["role"], m["content"]] for m in messages] + [seed]).encode()).digest()
    return " ".join(WORDS[digest[i] % len(WORDS)] for i in range(3 + digest[31] % 18))


def latency_of(text: str, median_s: float, sigma: float) -> float:
    """Return the lognormal latency of a question, in seconds, drawn by its text."""
    uniform = (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") + 0.5) / 2**56
    return median_s * math.exp(sigma * statistics.NormalDist().inv_cdf(uniform))


@dataclass(frozen=True)
class Fault:
    """What happens to a call instead of an answer."""

    kind: str
    """`hang`, `reset`, `reset-in-body`, `status`, `raw` (any body), or `answer` (a change to the answer)."""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    change: Callable[[dict[str, Any]], None] | None = None
    served: bool = True
    """False where the server turns the call away for there being too many."""


Choose = Callable[["Call"], Fault | None]


@dataclass
class Call:
    """One call of the chat endpoint, as the server saw it."""

    number: int
    """From 0, over all calls."""
    attempt: int
    """From 0, over the calls with this body."""
    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    at: float


@dataclass
class Server:
    """The state of a server; its methods run on its event loop, but for those a test calls."""

    faults: Choose = lambda call: None
    models: tuple[str, ...] = (MODEL,)
    key: str | None = None
    """The bearer key it wants."""
    median_s: float = 0.0
    sigma: float = 0.0
    slots: int = 10**9
    """Calls that it works on at a time; the others wait."""
    most: int = 10**9
    """Calls at a time beyond which it answers 429."""
    top_logprobs: Callable[[dict[str, Any]], list[tuple[str, float]]] | None = None
    echo: Callable[[str], list[tuple[str, float | None]]] | None = None
    """Prompt of `/completions` to its tokens and their log-probabilities; without it there is no such endpoint."""
    batch_s: float = 0.05
    """Seconds a batch takes."""
    line_faults: Callable[[str, int], str | None] = lambda name, attempt: None
    """What happens to a line of a batch: `missing`, `twice`, `500`, `400`, `malformed`, `unknown`."""
    batch_ends: Callable[[int], str] = lambda number: "completed"
    """How the n-th batch ends: `completed`, `expired`, `failed`."""
    drop_created: int = 0
    """So many batches are started without the caller being told: the connection is reset."""
    with_batches: bool = True
    paths_failing: dict[str, int] = field(default_factory=dict)
    """Path to the number of its next calls that fail with 500."""

    calls: list[Call] = field(default_factory=list)
    num_served: int = 0
    num_turned_away: int = 0
    busy_s: float = 0.0
    keep_calls: bool = True
    running: int = 0
    peak: int = 0
    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    line_attempts: Counter[str] = field(default_factory=Counter)
    num_lines: int = 0
    """Lines of batches that were run."""
    others: Counter[str] = field(default_factory=Counter)
    """Calls of other endpoints by method and path."""

    def __post_init__(self) -> None:
        self._seen: Counter[bytes] = Counter()
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()
        self._connections: set[_Connection] = set()
        self._listening: asyncio.Server | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.started = time.monotonic()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    # --- life, called from a test's thread -----------------------------------------------------------------------------------

    def go_down(self) -> None:
        """Close every connection and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result()

    def come_up(self) -> None:
        """Listen again, on the same port."""
        asyncio.run_coroutine_threadsafe(self.listen(), self.loop).result()

    async def listen(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._listening = await self.loop.create_server(lambda: _Connection(self), "127.0.0.1", self.port, backlog=2048)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        # asyncio forgets a connection that it has accepted and not yet attached when the server closes: let it finish these first.
        for one in self._listening.sockets:
            self.loop.remove_reader(one.fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        self._listening.close()
        for connection in list(self._connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    # --- slots ---------------------------------------------------------------------------------------------------------------

    def work(self, seconds: float, then: Callable[[], None]) -> None:
        """Take a slot for so long, when one is free."""
        if self.running >= self.slots:
            self._queue.append((seconds, then))
            return
        self.running += 1
        self.peak = max(self.peak, self.running)
        self.loop.call_later(seconds, self._worked, seconds, then)

    def _worked(self, seconds: float, then: Callable[[], None]) -> None:
        self.running -= 1
        self.busy_s += seconds
        if self._queue:
            self.work(*self._queue.popleft())
        then()

    # --- requests ------------------------------------------------------------------------------------------------------------

    def handle(self, connection: _Connection, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        path = target.partition("?")[0]
        if path == "/v1/chat/completions":
            self._chat(connection, target, headers, body)
            return
        self.others[f"{method} {path}"] += 1
        if self.paths_failing.get(path, 0) > 0:
            self.paths_failing[path] -= 1
            connection.reply(500, b'{"error": {"message": "no"}}')
        elif self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            connection.reply(401, _wrong_key(headers))
        elif path == "/v1/completions" and self.echo is not None:
            connection.reply(200, dumps(self._echoed(loads(body))))
        elif path == "/v1/models":
            connection.reply(200, dumps({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}))
        elif path == "/stats":
            connection.reply(200, dumps({"calls": len(self.calls), "served": self.num_served, "busy_s": self.busy_s, "peak": self.peak}))
        elif self.with_batches and path.startswith(("/v1/files", "/v1/batches")):
            self._batch_request(connection, method, target, path, body)
        else:
            connection.reply(404, b'{"error": {"message": "no such path"}}')

    def _echoed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return what the server says of the tokens of prompts, last prompt first."""
        assert body["echo"] is True
        assert body["max_tokens"] == 0
        choices = []
        for i, prompt in enumerate(body["prompt"]):
            tokens = self.echo(prompt)
            logprobs = {"tokens": [token for token, _ in tokens], "token_logprobs": [logprob for _, logprob in tokens]}
            choices.append({"index": i, "text": prompt, "finish_reason": "length", "logprobs": logprobs if tokens else None})
        return {"object": "text_completion", "model": body["model"], "choices": choices[::-1], "usage": {}}

    def _chat(self, connection: _Connection, target: str, headers: dict[str, str], raw: bytes) -> None:
        body = loads(raw)
        seen, self._seen[raw] = self._seen[raw], self._seen[raw] + 1
        call = Call(self.num_served + self.num_turned_away, seen, body, headers, target, time.monotonic() - self.started)
        if self.keep_calls:
            self.calls.append(call)
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            self.num_turned_away += 1
            connection.reply(401, _wrong_key(headers))
            return
        fault = self.faults(call)
        if fault is None and self.running >= self.most:
            fault = Fault("status", 429, body=b'{"error": {"message": "slow down"}}', served=False)
        self.num_served += fault is None or fault.served
        self.num_turned_away += fault is not None and not fault.served
        if not body["messages"]:
            connection.reply(400, b'{"error": {"message": "there are no messages"}}')
        elif body["model"] not in self.models:
            message = f"The model `{body['model']}` does not exist."
            connection.reply(404, dumps({"error": {"message": message, "code": "model_not_found"}}))
        elif fault is None or fault.kind == "answer":
            self.work(self._latency(body), lambda: self._reply(connection, body, fault))
        else:
            self._do(fault, connection, body)

    def _latency(self, body: dict[str, Any]) -> float:
        return latency_of(body["messages"][-1]["content"], self.median_s, self.sigma) if self.median_s else 0.0

    def _reply(self, connection: _Connection, body: dict[str, Any], fault: Fault | None) -> None:
        value = self.answer(body)
        if fault is not None and fault.change is not None:
            fault.change(value)
        connection.reply(200, fault.body if fault is not None and fault.body else dumps(value))

    def _do(self, fault: Fault, connection: _Connection, body: dict[str, Any]) -> None:
        if fault.kind == "hang":
            return
        if fault.kind == "reset":
            connection.transport.abort()
        elif fault.kind == "reset-in-body":
            whole = dumps(self.answer(body))
            connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(whole))
            connection.transport.write(whole[: len(whole) // 2])
            self.loop.call_later(0.005, connection.transport.abort)
        else:
            connection.reply(fault.status, fault.body, fault.headers)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body of a good response."""
        limit = body.get("max_tokens", body.get("max_completion_tokens", 4096))
        words = written(body["messages"], body.get("seed", 0)).split()
        ended = len(words) < limit
        message: dict[str, Any] = {"role": "assistant", "content": " ".join(words[:limit])}
        if "response_format" in body:
            message["content"], ended = dumps({"answer": words[0]}).decode(), True
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop" if ended else "length"}
        if body.get("logprobs"):
            tops = self.top_logprobs(body) if self.top_logprobs and "top_logprobs" in body else []
            given = [{"token": token, "logprob": logprob} for token, logprob in tops]
            choice["logprobs"] = {"content": [{"token": word, "logprob": -0.5, "top_logprobs": given} for word in words[:limit]]}
        num_prompt_tokens = sum(len(m["content"].split()) for m in body["messages"])
        num_new_tokens = min(limit, len(words) + 1)
        usage = {"prompt_tokens": num_prompt_tokens, "completion_tokens": num_new_tokens}
        usage["total_tokens"] = sum(usage.values())
        return {"id": "chat-1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice], "usage": usage}

    # --- batches -------------------------------------------------------------------------------------------------------------

    def _batch_request(self, connection: _Connection, method: str, target: str, path: str, body: bytes) -> None:
        if method == "POST" and path == "/v1/files":
            name = f"file-{len(self.files)}"
            self.files[name] = _part(body)
            connection.reply(200, dumps({"id": name, "object": "file", "purpose": "batch"}))
        elif path.endswith("/content"):
            connection.reply(200, self.files[path.split("/")[3]])
        elif method == "POST":
            batch = self._start_batch(loads(body))
            if self.drop_created > 0:
                self.drop_created -= 1
                connection.transport.abort()
            else:
                connection.reply(200, dumps(batch))
        elif path == "/v1/batches":
            connection.reply(200, dumps(self._page(target)))
        else:
            connection.reply(200, dumps(self.batches[path.rpartition("/")[2]]))

    def _page(self, target: str) -> dict[str, Any]:
        after = re.search(r"after=([\w-]+)", target)
        newest = list(reversed(self.batches.values()))
        at = next((i + 1 for i, batch in enumerate(newest) if after and batch["id"] == after[1]), 0)
        return {"object": "list", "data": newest[at : at + 2], "has_more": at + 2 < len(newest)}

    def _start_batch(self, order: dict[str, Any]) -> dict[str, Any]:
        number = len(self.batches)
        batch = {"id": f"batch-{number}", "object": "batch", "status": "in_progress", "created_at": int(time.time()), **order}
        self.batches[batch["id"]] = batch
        self.loop.call_later(self.batch_s, self._end_batch, batch, self.batch_ends(number))
        return batch

    def _end_batch(self, batch: dict[str, Any], status: str) -> None:
        if status == "failed":
            batch |= {"status": "failed", "errors": {"data": [{"code": "bad", "message": "the file is not liked"}]}}
            return
        out: list[bytes] = []
        errors: list[bytes] = []
        lines = [loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        for i, line in enumerate(lines):
            if status == "expired" and i % 2:
                errors.append(dumps({"custom_id": line["custom_id"], "response": None, "error": {"code": "batch_expired"}}))
            else:
                self._run_line(line, out, errors)
        for kind, found in (("output_file_id", out), ("error_file_id", errors)):
            name = f"file-{len(self.files)}"
            self.files[name] = b"\n".join(found)
            batch[kind] = name
        batch["status"] = status

    def _run_line(self, line: dict[str, Any], out: list[bytes], errors: list[bytes]) -> None:
        name = line["custom_id"]
        fault = self.line_faults(line["body"]["messages"][-1]["content"], self.line_attempts[name])
        self.line_attempts[name] += 1
        self.num_lines += 1
        good = dumps({"custom_id": name, "response": {"status_code": 200, "body": self.answer(line["body"])}, "error": None})
        if fault in ("500", "400"):
            body = {"error": {"message": "this row is not liked"}}
            errors.append(dumps({"custom_id": name, "response": {"status_code": int(fault), "body": body}, "error": None}))
        elif fault == "malformed":
            out.append(good[: len(good) // 2])
        elif fault == "unknown":
            out += [good, dumps({"custom_id": "nobody", "response": {"status_code": 200, "body": {}}, "error": None})]
        elif fault != "missing":
            out += [good, good] if fault == "twice" else [good]


def _wrong_key(headers: dict[str, str]) -> bytes:
    given = headers.get("authorization", "")
    return dumps({"error": {"message": f"Incorrect API key provided: {given}. Half of it: {given[7:19]}****.", "code": "invalid_api_key"}})


def _part(body: bytes) -> bytes:
    """Return the content of the part named `file` of a multipart body."""
    border = body.partition(b"\r\n")[0]
    part = next(part for part in body.split(border) if b'name="file"' in part)
    return part.partition(_HEAD_END)[2].rstrip(b"\r\n")


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = bytearray()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.server._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.server._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(_HEAD_END)) >= 0:
            first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            start, size = end + 4, int(headers.get("content-length", 0))
            if headers.get("transfer-encoding") == "chunked":
                body, used = _chunks(self.buffer[start:])
                if body is None:
                    return
                size = used
            elif len(self.buffer) < start + size:
                return
            else:
                body = bytes(self.buffer[start : start + size])
            del self.buffer[: start + size]
            method, target, _ = first.split(" ")
            self.server.handle(self, method, target, headers, body)

    def reply(self, status: int, body: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)


def _chunks(raw: bytes) -> tuple[bytes | None, int]:
    out, at = b"", 0
    while (end := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:end], 16)
        if len(raw) < end + 4 + size:
            break
        out += raw[end + 2 : end + 2 + size]
        at = end + 4 + size
        if size == 0:
            return bytes(out), at
    return None, 0


@contextmanager
def serve(**settings: Any) -> Iterator[Server]:
    """Run a server in a thread."""
    server = Server(**settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.listen(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server._close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


# --- faults -----------------------------------------------------------------------------------------------------------------


def status(code: int, *, served: bool = True, body: bytes = b'{"error": {"message": "no"}}', **headers: str) -> Fault:
    """Return a response with another status."""
    return Fault("status", code, tuple((name.replace("_", "-"), value) for name, value in headers.items()), body, served=served)


def content(text: Any) -> Fault:
    """Return an answer with another content."""
    return Fault("answer", change=lambda value: value["choices"][0]["message"].update(content=text))


def http_date(seconds_from_now: float) -> str:
    """Return a time as `Retry-After` may hold it."""
    return formatdate(time.time() + seconds_from_now, usegmt=True)


def at_random(seed: int, share: float, fault: Callable[[], Fault], most_a_body: int = 2) -> Choose:
    """Return a choice of faults that hits a share of the calls, each body at most so often."""
    chance, hits = random.Random(seed), Counter()

    def choose(call: Call) -> Fault | None:
        name = json.dumps(call.body, sort_keys=True)
        if chance.random() < share and hits[name] < most_a_body:
            hits[name] += 1
            return fault()
        return None

    return choose


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slots", type=int, default=10**9)
    parser.add_argument("--median-s", type=float, default=0.0)
    parser.add_argument("--sigma", type=float, default=0.0)
    given = parser.parse_args()

    async def forever() -> None:
        server = Server(slots=given.slots, median_s=given.median_s, sigma=given.sigma, keep_calls=False)
        await server.listen()
        print(server.url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    try:
        import uvloop

        uvloop.run(forever())
    except ImportError:
        asyncio.run(forever())


if __name__ == "__main__":
    main()
