"""An OpenAI-compatible server as a teacher's session: an event loop in a thread of its own, so that no slot waits for the caller."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import aiohttp
import uvloop

from kdbuild.teachers import Answer, Ask, Session

_KEEP_ALIVE_S = 4.0
"""uvicorn, and with it `vllm serve`, closes an idle connection after 5 s: a request must not meet it closing."""
Done = tuple[int, Answer] | BaseException
Deliver = Callable[[list[Done]], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Timeouts:
    """How long a call may take, in seconds."""

    connect_s: float
    whole_s: float


class WoundDown(Exception):
    """Delivered in the end by what was told to wind down: nothing more comes."""


class Sending(Protocol):
    """What takes questions and delivers answers. It lives on the event loop."""

    def add(self, asks: list[tuple[int, Ask]]) -> None:
        """Take up questions, each with its index."""

    def cancel(self) -> None:
        """Give up on everything that is on its way."""

    def wind_down(self) -> None:
        """Begin no further call, and deliver `WoundDown` after what is on its way."""


class Remote(Session):
    """A session whose work is done on an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start: Callable[[Deliver], Sending]) -> None:
        """`start` makes what sends the questions of one `generate`; it is called on the loop."""
        self._loop = loop
        self._start = start
        self._sending: Sending | None = None

    def stop(self) -> bool:
        """Begin no further call; what is on its way is paid for and still comes."""
        if self._sending is not None:
            self._loop.call_soon_threadsafe(self._sending.wind_down)
        return self._sending is not None

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) as answers come.

        Raises:
            StageError: the server will not answer any question as it is asked; answers that came before it are given first.
        """
        done: queue.SimpleQueue[list[Done]] = queue.SimpleQueue()
        sending = self._sending = _run(self._loop, _called(lambda: self._start(done.put)))
        num_taken = num_given = 0
        try:
            while True:
                num_taken = self._take(sending, asks, num_taken)
                if num_given == num_taken:
                    return
                for item in done.get():
                    if isinstance(item, WoundDown):
                        return
                    if isinstance(item, BaseException):
                        raise item
                    yield item
                    num_given += 1
                    num_taken = self._take(sending, asks, num_taken)
        finally:
            self._sending = None
            _run(self._loop, _called(sending.cancel))

    def _take(self, sending: Sending, asks: Sequence[Ask], num_taken: int) -> int:
        if len(asks) > num_taken:
            more = list(enumerate(asks[num_taken:], start=num_taken))
            self._loop.call_soon_threadsafe(sending.add, more)
        return len(asks)


@contextmanager
def opened(timeouts: Timeouts, start: Callable[[aiohttp.ClientSession, Deliver], Sending]) -> Iterator[Remote]:
    """Run an event loop in a thread, with an HTTP client, as long as the session is open."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="kdbuild-http", daemon=True)
    thread.start()
    try:
        http = _run(loop, _client(timeouts))
        try:
            yield Remote(loop, lambda deliver: start(http, deliver))
        finally:
            _run(loop, _closed(http))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result()


async def _called(work: Callable[[], T]) -> T:
    return work()


async def _client(timeouts: Timeouts) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),  # the endpoints' own limits bound it
        timeout=aiohttp.ClientTimeout(total=timeouts.whole_s, sock_connect=timeouts.connect_s),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _closed(http: aiohttp.ClientSession) -> None:
    await http.close()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()
