"""One HTTP request to an OpenAI-compatible server, and what its status means."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from functools import lru_cache

import aiohttp
import orjson
from yarl import URL

from kdbuild.errors import StageError
from kdbuild.teachers._calls import Broken, Limited, Refused, Stop, Unreachable
from kdbuild.teachers._endpoints import Endpoint
from kdbuild.teachers._rate_headers import spent_s, wait_s

MOST_BYTES = 2**26
"""A longer body is no answer."""
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance")
_TRY_AGAIN = (408, 409, 425)
_ABOUT_ROW = re.compile(r"context|too long|too large|length|content.?(filter|policy|management)|moderation|flagged", re.IGNORECASE)


async def request(
    http: aiohttp.ClientSession,
    endpoint: Endpoint,
    method: str,
    path: str,
    data: bytes | aiohttp.FormData | None = None,
    *,
    query: Mapping[str, str] | None = None,
    most_bytes: int = MOST_BYTES,
) -> bytes:
    """Return the body of a successful response.

    Raises:
        Unreachable, Broken, Limited, Refused, Stop: there is none.
    """
    try:
        async with http.request(
            method,
            address(endpoint.url, path, query),
            data=data,
            headers=endpoint.json_headers if isinstance(data, bytes) else endpoint.headers,
            proxy=endpoint.proxy,
            allow_redirects=False,  # a redirect would carry the key to another host
        ) as response:
            raw = await _body(response, most_bytes)
            status, got = response.status, response.headers
    except aiohttp.ClientConnectorCertificateError:
        hint = "set SSL_CERT_FILE to the authority that signed it, or correct `endpoints`"
        raise Stop(StageError(f"{endpoint.label}: its certificate is not trusted", hint=hint)) from None
    except aiohttp.InvalidURL:
        raise Stop(StageError(f"{endpoint.label}: not a URL that can be asked", hint="correct `endpoints` in params.yaml")) from None
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Unreachable(_unreachable(error)) from None
    except TimeoutError:
        raise Broken("timed out", overloaded=True) from None
    except (aiohttp.ClientError, OSError):
        raise Broken("the connection was lost") from None
    if 200 <= status < 300:
        _note_what_is_left(endpoint, got)
        return raw
    raise refusal(endpoint, status, raw, got)


@lru_cache(maxsize=64)
def _address(url: str, path: str) -> URL:
    base = URL(url)
    return base.with_path(base.path.rstrip("/") + path, keep_query=True)


def address(url: str, path: str, query: Mapping[str, str] | None = None) -> URL:
    """Return the address of `path` below an endpoint's base URL, whose query string it keeps."""
    found = _address(url, path)
    return found.update_query(query) if query else found


async def _body(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    if response.content_length is not None and response.content_length <= most_bytes and "Content-Encoding" not in response.headers:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            raise Broken("the answer is not one: it does not end")
    return b"".join(parts)


def _unreachable(error: Exception) -> str:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection within the time allowed"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host"
    refused = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError)
    return "connection refused" if refused else "no connection"


def _note_what_is_left(endpoint: Endpoint, headers: Mapping[str, str]) -> None:
    wait = spent_s(headers, time.time())
    if wait:
        endpoint.pause(asyncio.get_running_loop().time() + wait)


def refusal(endpoint: Endpoint, status: int, raw: bytes, headers: Mapping[str, str]) -> Exception:
    """Return what a status other than success means."""
    message, code = _message(raw)
    said = f": {endpoint.secrets.message(message)}" if message else ""
    if code in _NO_CREDIT or status == 402:
        return Stop(StageError(f"{endpoint.label}: the account has no credit left ({status}{said})", hint="top it up, then build again"))
    if status == 429 or (status == 503 and "Retry-After" in headers):
        return Limited(wait_s(headers, time.time()))
    if status >= 500 or status in _TRY_AGAIN:
        return Broken(f"the server failed (HTTP {status})", overloaded=status == 503)
    if status == 401 or (status == 403 and not _ABOUT_ROW.search(message)):
        hint = "put a valid key into the environment variable that `api_key_env` of the teacher in params.yaml names"
        return Stop(StageError(f"{endpoint.label}: the key is refused (HTTP {status}{said})", hint=hint))
    if status == 404:
        hint = "correct `model`, or `endpoints` (it ends in `/v1` with most servers), in params.yaml"
        return Stop(StageError(f"{endpoint.label}: not found (HTTP 404{said})", hint=hint), is_model=True)
    if 300 <= status < 400 or status == 405:
        hint = "give the address it really has in `endpoints`; redirects are not followed, for the key would go with them"
        return Stop(StageError(f"{endpoint.label}: this is not where the server answers (HTTP {status})", hint=hint))
    return Refused(f"the server refused it (HTTP {status}{said})", about_row=status == 413 or bool(_ABOUT_ROW.search(message)))


def _message(raw: bytes) -> tuple[str, str]:
    """Return the message and the code of an error's body, in whichever of the usual places they stand."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw[:400].decode("utf-8", "replace"), ""
    found = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(found, dict):
        return str(found)[:400], ""
    message = next((found[name] for name in ("message", "detail", "error") if found.get(name)), "")
    return str(message)[:1000], str(found.get("code") or found.get("type") or "")
