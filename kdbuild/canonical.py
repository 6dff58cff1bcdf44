"""One way to write a value as bytes, so that equal things have equal digests everywhere."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def dumps(value: Any) -> str:
    """Return `value` as JSON with sorted keys, no spaces and no escapes; NaN and infinities raise ValueError.

    `1` and `1.0` are written differently on purpose: their digests differ.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pretty(value: Any, *, sort: bool = True) -> str:
    """Return `value` as indented JSON with a final newline, for files people read; `sort` puts keys in order."""
    return json.dumps(value, sort_keys=sort, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def digest(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`, in hex (64 digits)."""
    return hashlib.sha256(dumps(value).encode("utf-8", "surrogatepass")).hexdigest()


def fraction(*parts: str) -> float:
    """Return a number in [0, 1) that depends on `parts` alone: what stands for chance where chance must repeat."""
    return int(digest(list(parts))[:13], 16) / 16**13


def seed_of(*parts: Any) -> int:
    """Return a 63-bit seed that depends on `parts` alone."""
    return int(digest(list(parts))[:16], 16) >> 1
