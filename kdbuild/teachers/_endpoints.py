"""Where requests go, and how much an endpoint can take: learnt from how it answers.

The number of calls at a time doubles each round until the server says that it is too much, falls to three quarters then, and grows by one
a round after that (slow start, then additive increase and multiplicative decrease). A pause is the endpoint's: none of the rows that
wait for it pays for finding out that it is down.
"""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from kdbuild.teachers._secrets import Secrets

_FEWER = 0.75
"""What is left of the number of calls at a time when the server says that there are too many."""
_IN_A_ROW = 8
"""So many broken calls without an answer between them mean that the endpoint is down, not that it stumbles."""
_LONGEST_PAUSE_S = 30.0


def label_of(url: str) -> str:
    """Return an endpoint's address for people: a user's name, a password or a query string may be secret, and are left out."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else (parts.hostname or "")
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"


def secrets_of(url: str) -> list[str]:
    """Return the parts of a URL that may be secret, as they are written and as they are meant."""
    parts = urlsplit(url)
    written = [parts.password or "", parts.username or "", *(pair.partition("=")[2] for pair in parts.query.split("&"))]
    return [*written, *(unquote(text) for text in written)]


def endpoint_at(url: str, key: str | None, *, start: int, most: int, retry_wait_s: float) -> Endpoint:
    """Return the endpoint of a base URL, whose user and password, if it has them, stand for a key.

    Raises:
        ValueError: there is a key and a password, or the key cannot stand in a header.
    """
    parts = urlsplit(url)
    headers = {"User-Agent": "kdbuild", "Accept-Encoding": "identity"}
    values = [*([key] if key else []), *secrets_of(url)]
    if parts.username or parts.password:
        if key:
            raise ValueError("its address holds a user, and there is a key as well: the server takes one of them")
        basic = b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
        headers["Authorization"] = f"Basic {basic}"
        values.append(basic)
    elif key:
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise ValueError("the key has characters that no key has, such as a space or an end of line")
        headers["Authorization"] = f"Bearer {key}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    start_at = float(min(start, most))
    return Endpoint(
        label_of(url),
        bare,
        headers,
        {**headers, "Content-Type": "application/json"},
        proxy,
        Secrets(values),
        start_at,
        float(most),
        retry_wait_s,
    )


@dataclass(eq=False, slots=True)
class Endpoint:
    """One server, and the state of the conversation with it. Times are the event loop's, in seconds."""

    label: str
    """Its address for people and errors."""
    url: str = field(repr=False)
    """Base URL; may hold secrets."""
    headers: Mapping[str, str] = field(repr=False)
    json_headers: Mapping[str, str] = field(repr=False)
    """The same for a request whose body is JSON."""
    proxy: str | None = field(repr=False)
    secrets: Secrets = field(repr=False)
    limit: float
    """Calls at a time."""
    most: float
    """Most calls at a time."""
    retry_wait_s: float
    """First pause; each further one is twice as long."""
    in_flight: int = 0
    paused_until: float = 0.0
    pauses: int = 0
    """Pauses since its last answer."""
    down_since: float | None = None
    """Since when it has given nothing but failures; None where it is up."""
    has_answered: bool = False
    _threshold: float = float("inf")
    """Up to here the number of calls at a time doubles each round."""
    _cut_at: float = -1.0
    """When it last said that there are too many calls; those that were on their way then say nothing new."""
    _num_broken: int = 0
    """Broken calls since its last answer."""

    def room(self, now: float) -> int:
        """Return how many more calls it can take."""
        return 0 if now < self.paused_until else int(self.limit) - self.in_flight

    def answered(self) -> bool:
        """Take note of an answer, whose call is no longer in flight; return whether there may be room for more calls now."""
        self.has_answered = True
        self.pauses = self._num_broken = 0
        self.down_since = None
        if self.limit >= self.most or self.in_flight < int(self.limit) - 2:  # an endpoint that is not kept busy shows nothing
            return False
        self.limit = min(self.most, self.limit + (1.0 if self.limit < self._threshold else 1.0 / self.limit))
        return True

    def limited(self, started: float, now: float, wait_s: float | None) -> None:
        """Take note of a refusal for too many calls: everything waits as long as the server says, or a little longer each time."""
        is_news = self._cut(started, now)
        if wait_s is None:
            wait_s = self._backoff_s() if is_news else 0.0
        elif is_news:  # a server that says 0 again and again
            wait_s = max(wait_s, min(1.0, self.retry_wait_s * 0.1 * 2.0 ** min(self.pauses, 10)))
        self.pauses += is_news
        self.paused_until = max(self.paused_until, now + wait_s)

    def overloaded(self, started: float, now: float) -> None:
        """Take note of a call that took too long or met a busy server: fewer calls at a time, and no pause."""
        self._cut(started, now)

    def broken(self, started: float, now: float, *, is_unreachable: bool) -> None:
        """Take note of a broken call; where nothing else comes any more, wait longer each time and go on with one call at a time."""
        if started < self._cut_at and self.down_since is not None:
            return  # it set out before the endpoint was known to be down
        self._num_broken += 1
        if not is_unreachable and self.down_since is None and self._num_broken < _IN_A_ROW:
            return
        self.down_since = now if self.down_since is None else self.down_since
        self._threshold = max(self.limit, 2.0) if self.limit > 1 else self._threshold
        self.limit = 1.0
        self._cut_at = now
        self.paused_until = max(self.paused_until, now + self._backoff_s())
        self.pauses += 1

    def pause(self, until: float) -> None:
        """Wait: it said that nothing is left of a limit until then."""
        self.paused_until = max(self.paused_until, until)

    def _cut(self, started: float, now: float) -> bool:
        if started < self._cut_at:
            return False
        self._cut_at = now
        self.limit = self._threshold = max(1.0, self.limit * _FEWER)
        return True

    def _backoff_s(self) -> float:
        return backoff_s(self.retry_wait_s, self.pauses)


def backoff_s(first_s: float, times: int) -> float:
    """Return a pause in seconds that doubles each time and is never the same twice, so that callers do not come back together."""
    return min(_LONGEST_PAUSE_S, first_s * 2.0 ** min(times, 20)) * random.uniform(0.75, 1.25)
