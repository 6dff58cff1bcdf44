"""Keeps every endpoint as full as it can take: a sliding window over the questions, longest first, never a barrier.

Runs on the event loop's thread; its methods are called there.
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass

import aiohttp

from kdbuild.errors import StageError
from kdbuild.teachers import Answer, Ask
from kdbuild.teachers._calls import Broken, Limited, Refused, Stop, Unanswered, Unreachable
from kdbuild.teachers._chat import Dialect
from kdbuild.teachers._endpoints import Endpoint, backoff_s
from kdbuild.teachers._remote import Deliver, Done, WoundDown
from kdbuild.teachers._wire import request

_HAND_OVER_S = 0.005
_REFUSED_IN_A_ROW = 20
"""So many questions refused without an answer between them mean that it is not the questions."""


@dataclass(frozen=True)
class Patience:
    """How long and how often a call is made again: the teacher's knobs of the same names."""

    max_retries: int
    retry_wait_s: float
    max_rate_limit_wait_s: float
    max_outage_s: float


@dataclass(eq=False, slots=True)
class Job:
    """One question on its way. Times are the event loop's, in seconds."""

    index: int
    ask: Ask
    tries: int = 0
    """Calls that the server saw and that it did not turn away for there being too many."""
    limited_s: float = 0.0
    """How long it has waited at rate limits in all."""
    limited_at: float | None = None
    """Since when it waits now."""
    first_limited_at: float | None = None
    broken_at: float | None = None
    """When its call first failed."""
    last: Endpoint | None = None
    """Where it was tried last without success."""

    @property
    def priority(self) -> tuple[int, int]:
        """Longest expected first: by the limit of the answer, then by the length of the prompt."""
        return -self.ask.max_new_tokens, -sum(len(message.content) for message in self.ask.messages)


class Sender:
    """The calls of one `generate`."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        endpoints: list[Endpoint],
        dialect: Dialect,
        patience: Patience,
        deliver: Deliver,
    ) -> None:
        """`deliver` is given what is done, in groups; an exception ends everything."""
        self._http = http
        self._endpoints = endpoints
        self._dialect = dialect
        self._patience = patience
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[tuple[int, int], int, Job]] = []
        self._calls: dict[Job, tuple[Endpoint, asyncio.Task[None]]] = {}
        """Those on their way."""
        self._done: list[Done] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped: StageError | WoundDown | None = None
        self._answered_at = -1.0
        self._has_grown = False
        """Whether an answer made room for more calls than the one it ended."""
        self._refused_in_a_row = 0

    def add(self, asks: list[tuple[int, Ask]]) -> None:
        """Take up questions, each with its index."""
        for index, ask in asks:
            job = Job(index, ask)
            heapq.heappush(self._waiting, (job.priority, index, job))
        self._fill()

    def cancel(self) -> None:
        """Give up on everything that is on its way."""
        self._waiting.clear()
        self._stopped = self._stopped or StageError("cancelled")
        if self._alarm is not None:
            self._alarm.cancel()
        for job, (_, task) in list(self._calls.items()):
            task.cancel()
            self._release(job)

    def wind_down(self) -> None:
        """Begin no further call, and deliver `WoundDown` after what is on its way."""
        self._stop(WoundDown())
        if not self._calls:
            self._finish(WoundDown())

    # --- the window ------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Send as many questions as there is room for."""
        while (found := self._next()) is not None:
            job, endpoint = found
            self._calls[job] = endpoint, self._loop.create_task(self._work(job, endpoint))

    def _next(self) -> tuple[Job, Endpoint] | None:
        """Take the next question and a place for it; None where there is none of either."""
        if self._stopped is not None or not self._waiting:
            return None
        now = self._loop.time()
        endpoint = self._roomiest(self._waiting[0][2].last, now)
        if endpoint is None:
            self._wake_when_a_pause_ends(now)
            return None
        job = heapq.heappop(self._waiting)[2]
        endpoint.in_flight += 1
        if job.limited_at is not None:
            job.limited_s += now - job.limited_at
            job.limited_at = None
        return job, endpoint

    def _roomiest(self, avoid: Endpoint | None, now: float) -> Endpoint | None:
        """Return the endpoint with the most room, another than `avoid` where there is one; None where there is no room."""
        if len(self._endpoints) == 1:
            return self._endpoints[0] if self._endpoints[0].room(now) > 0 else None
        best, most = None, (False, 0)
        for endpoint in self._endpoints:
            room = endpoint.room(now)
            if room > 0 and (endpoint is not avoid, room) > most:
                best, most = endpoint, (endpoint is not avoid, room)
        return best

    def _wake_when_a_pause_ends(self, now: float) -> None:
        ends = [endpoint.paused_until for endpoint in self._endpoints if endpoint.paused_until > now]
        if not ends:
            return  # the endpoints are full: the next call that ends makes room
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(min(ends), self._fill)

    def _again(self, job: Job) -> None:
        if self._stopped is None:
            heapq.heappush(self._waiting, (job.priority, job.index, job))
            self._fill()

    # --- one call --------------------------------------------------------------------------------------------------------

    async def _work(self, job: Job, endpoint: Endpoint) -> None:
        """Make a call, then the next in the place that it leaves: a task of its own for each would cost a tenth of it."""
        task = self._calls[job][1]
        while True:
            await self._call(job, endpoint)
            found = self._next()
            if found is None:
                break
            job, endpoint = found
            self._calls[job] = endpoint, task
            if self._has_grown:
                self._has_grown = False
                self._fill()
        if self._stopped is not None and not self._calls:  # only now: what was on its way is paid for
            self._finish(self._stopped)

    async def _call(self, job: Job, endpoint: Endpoint) -> None:
        started = self._loop.time()
        found: Answer | BaseException
        try:
            path, body = self._dialect.path(job.ask), self._dialect.body(job.ask)
            found = self._dialect.read(endpoint, job.ask, await request(self._http, endpoint, "POST", path, body))
        except asyncio.CancelledError:
            raise
        except Stop as stop:
            found = await named(self._http, endpoint, self._dialect.model, stop)
        except BaseException as error:
            found = error
        finally:
            self._release(job)
        # Its place is free by now: what comes of it may begin the same question's next call.
        self._ended(job, endpoint, started, found)

    def _ended(self, job: Job, endpoint: Endpoint, started: float, found: Answer | BaseException) -> None:
        if isinstance(found, Answer):
            self._has_grown |= endpoint.answered()
            self._answered_at = self._loop.time()
            self._refused_in_a_row = 0
            self._finish((job.index, found))
        elif isinstance(found, Unanswered):
            self._unanswered(job, endpoint, started, found)
        elif isinstance(found, StageError):
            self._stop(found)
        else:  # a defect
            self._finish(found)

    def _release(self, job: Job) -> None:
        """Give a call's place free; a call that is cancelled before it begins does not come to that itself."""
        if job in self._calls:
            self._calls.pop(job)[0].in_flight -= 1

    def _unanswered(self, job: Job, endpoint: Endpoint, started: float, error: Unanswered) -> None:
        now = self._loop.time()
        job.last = endpoint
        if isinstance(error, Limited):
            endpoint.limited(started, now, error.wait_s)
            self._wait_at_limit(job, now)
        elif isinstance(error, Refused):
            self._refused(job, endpoint, error)
        else:
            if isinstance(error, Broken) and error.overloaded:
                endpoint.overloaded(started, now)
            self._blame(job, endpoint, started, now, error)
            self._retry(job, error)
            self._stop_if_nobody_answers(endpoint, error, now)

    def _blame(self, job: Job, endpoint: Endpoint, started: float, now: float, error: Unanswered) -> None:
        """Hold a failure against the endpoint, unless it has answered others since this question first failed: then it is the question."""
        is_unreachable = isinstance(error, Unreachable)
        if is_unreachable or job.broken_at is None or self._answered_at <= job.broken_at:
            endpoint.broken(started, now, is_unreachable=is_unreachable)
        if job.broken_at is None and not is_unreachable:
            job.broken_at = now

    def _wait_at_limit(self, job: Job, now: float) -> None:
        job.limited_at = now
        job.first_limited_at = now if job.first_limited_at is None else job.first_limited_at
        soonest = max(0.0, min(endpoint.paused_until for endpoint in self._endpoints) - now)
        if job.limited_s + soonest <= self._patience.max_rate_limit_wait_s:
            self._again(job)
        elif self._answered_at >= job.first_limited_at:
            self._fail(job, "rate limited for longer than max_rate_limit_wait_s")
        else:
            hint = "build again later (answers so far are stored), or raise the teacher's `max_rate_limit_wait_s` in params.yaml"
            self._stop(StageError(f"{self._names()}: nothing but rate limits for longer than max_rate_limit_wait_s", hint=hint))

    def _refused(self, job: Job, endpoint: Endpoint, error: Refused) -> None:
        self._refused_in_a_row += not error.about_row
        self._fail(job, error.reason)
        if self._refused_in_a_row >= _REFUSED_IN_A_ROW:
            hint = "a field of the request that the server does not take goes into the teacher's `omit`, in params.yaml; see `extra`, too"
            message = f"{endpoint.label}: {_REFUSED_IN_A_ROW} questions in a row were refused, the last: {error.reason}"
            self._stop(StageError(message, hint=hint))

    def _retry(self, job: Job, error: Unanswered) -> None:
        if isinstance(error, Unreachable):
            self._again(job)  # it cost nothing: the endpoint's pause is the wait, and its outage the limit
            return
        job.tries += 1
        if job.tries > self._patience.max_retries:
            self._fail(job, error.reason)
        else:
            self._loop.call_later(backoff_s(self._patience.retry_wait_s, job.tries - 1), self._again, job)

    def _stop_if_nobody_answers(self, endpoint: Endpoint, error: Unanswered, now: float) -> None:
        if any(one.down_since is None for one in self._endpoints):
            return
        never = not any(one.has_answered for one in self._endpoints) and endpoint.pauses > self._patience.max_retries
        longest = self._patience.max_outage_s
        if never or all(now - (one.down_since or now) > longest for one in self._endpoints):
            since = "has not answered yet" if never else "has stopped answering"
            hint = "start the server or correct `endpoints`, then build again: answers so far are stored"
            self._stop(StageError(f"{self._names()} {since}: {error.reason}", hint=hint))

    def _names(self) -> str:
        return ", ".join(endpoint.label for endpoint in self._endpoints)

    # --- ends ------------------------------------------------------------------------------------------------------------

    def _fail(self, job: Job, reason: str) -> None:
        self._finish((job.index, Answer("", False, 0, 0, failed=reason)))

    def _stop(self, error: StageError | WoundDown) -> None:
        self._stopped = self._stopped or error
        self._waiting.clear()

    def _finish(self, done: Done) -> None:
        """Hand over what is done, a few milliseconds' answers at once: waking the other thread for each costs more than reading it."""
        if not self._done:
            self._loop.call_later(_HAND_OVER_S, self._hand_over)
        self._done.append(done)

    def _hand_over(self) -> None:
        done, self._done = self._done, []
        self._deliver(done)


async def named(http: aiohttp.ClientSession, endpoint: Endpoint, model: str, stop: Stop) -> StageError:
    """Return the error of a stop, which tells the server's models where the model's name may be wrong."""
    if not stop.is_model:
        return stop.error
    models = await _models(http, endpoint)
    if not models or model in models:
        return stop.error
    from kdbuild.kinds import nearest

    close = nearest(model, models)
    hint = f"`model: {close}`?" if close else f"it has {', '.join(models[:5])}{' and more' if len(models) > 5 else ''}"
    return StageError(f"{endpoint.label}: the server has no model `{model}`", hint=f"correct `model` in params.yaml: {hint}")


async def _models(http: aiohttp.ClientSession, endpoint: Endpoint) -> list[str]:
    import orjson

    try:
        found = orjson.loads(await request(http, endpoint, "GET", "/models"))
        return [endpoint.secrets.message(str(model["id"])) for model in found["data"]]
    except (Unanswered, Stop, orjson.JSONDecodeError, KeyError, TypeError):
        return []
