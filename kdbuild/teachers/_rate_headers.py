"""What response headers say about when to ask again.

`Retry-After` (seconds or an HTTP date), `retry-after-ms`, and the `x-ratelimit-reset-*` family, whose values providers write as `1s`,
`6m0s`, `17ms`, plain seconds, seconds or milliseconds since the epoch, or a date and time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_EPOCH_MS, _EPOCH_S = 1e11, 1e9
"""Numbers beyond these are times, not durations."""


def wait_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds to wait after a refusal for too many requests, None where the server does not say. `now` is Unix time."""
    asked = _number(headers.get("retry-after-ms"))
    if asked is not None:
        return asked / 1000
    asked = duration_s(headers.get("retry-after"), now)
    return asked if asked is not None else spent_s(headers, now)


def spent_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds until every limit of which nothing remains is reset; None where something remains of each."""
    waits = []
    for name, value in headers.items():
        lower = name.lower()
        if "ratelimit" in lower and "remaining" in lower and _number(value) == 0:
            reset = next((headers[n] for n in headers if n.lower() == lower.replace("remaining", "reset")), None)
            wait = duration_s(reset, now)
            waits += [wait] if wait is not None else []
    return max(waits, default=None)


def duration_s(text: str | None, now: float) -> float | None:
    """Return the seconds from `now` that a header's value means, at least 0; None where it cannot be read."""
    if text is None:
        return None
    text = text.strip()
    number = _number(text)
    if number is not None:
        seconds = number / 1000 - now if number > _EPOCH_MS else number - now if number > _EPOCH_S else number
        return max(seconds, 0.0)
    if _WHOLE.fullmatch(text):
        return sum(float(n) * _UNITS_S[unit] for n, unit in _PARTS.findall(text))
    when = _date(text)
    return None if when is None else max(when.timestamp() - now, 0.0)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


def _date(text: str) -> datetime | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            found = read(text)
        except (ValueError, TypeError, IndexError):
            continue
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return None
