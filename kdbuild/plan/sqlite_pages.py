"""Records out of a damaged SQLite file: every leaf page that is whole is read by itself, without the tree above it.

Source: https://www.sqlite.org/fileformat2.html, sections 1.6 (b-tree pages), 2.1 (record format), 4.1 (write-ahead log).
Numbers of pages and sizes are the file's own and may be nonsense: a page that does not add up is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

Value = int | float | bytes | None
"""Text stays bytes: it may not be text any more."""

_TABLE_LEAF = 0x0D
_PAGE_SIZE = 4096
_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}
_MAX_PAYLOAD = 64 * 2**20


def records(path: Path) -> Iterator[tuple[Value, ...]]:
    """Yield the records of every readable leaf page of a store and of its write-ahead log; one may come twice."""
    pages = _pages(path)
    for number, page in pages.items():
        for start in _cells(page, 100 if number == 1 else 0):
            record = _record(_payload(page, start, pages))
            if record is not None:
                yield record


def _pages(path: Path) -> dict[int, bytes]:
    content = path.read_bytes()
    pages = {start // _PAGE_SIZE + 1: content[start : start + _PAGE_SIZE] for start in range(0, len(content), _PAGE_SIZE)}
    log = path.with_name(path.name + "-wal")
    if log.exists():
        _add_log(pages, log.read_bytes())
    return pages


def _add_log(pages: dict[int, bytes], log: bytes) -> None:
    """Add the pages of a write-ahead log; what it replaces, and what an earlier log left, is kept under numbers of no page."""
    size = 24 + _PAGE_SIZE
    for start in range(32, len(log) - size + 1, size):
        number, page = struct.unpack(">I", log[start : start + 4])[0], log[start + 24 : start + size]
        is_current = log[start + 8 : start + 16] == log[16:24]
        if is_current and number in pages:
            pages[-start] = pages[number]
        pages[number if is_current else -start] = page


def _cells(page: bytes, head: int) -> list[int]:
    """Return where the cells of a leaf page start; empty for any other page."""
    if len(page) < head + 8 or page[head] != _TABLE_LEAF:
        return []
    count = struct.unpack(">H", page[head + 3 : head + 5])[0]
    places = page[head + 8 : head + 8 + 2 * count]
    return [place for (place,) in struct.iter_unpack(">H", places[: len(places) // 2 * 2]) if head + 8 <= place < len(page)]


def _payload(page: bytes, start: int, pages: dict[int, bytes]) -> bytes:
    """Return the payload of a cell, as far as it can be followed through its overflow pages."""
    size, start = _varint(page, start)
    _, start = _varint(page, start)
    if size > _MAX_PAYLOAD:
        return b""
    if size <= _PAGE_SIZE - 35:
        return page[start : start + size]
    least = (_PAGE_SIZE - 12) * 32 // 255 - 23
    local = least + (size - least) % (_PAGE_SIZE - 4)
    local = local if local <= _PAGE_SIZE - 35 else least
    found = page[start : start + local]
    following = page[start + local : start + local + 4]
    for _ in range(size // (_PAGE_SIZE - 4) + 1):
        if len(found) >= size or len(following) < 4:
            break
        more = pages.get(struct.unpack(">I", following)[0], b"")
        found, following = found + more[4:], more[:4]
    return found[:size]


def _record(payload: bytes) -> tuple[Value, ...] | None:
    head_size, place = _varint(payload, 0)
    if not 1 < head_size <= len(payload):
        return None
    kinds = []
    while place < head_size:
        kind, place = _varint(payload, place)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        size = _SIZES.get(kind, (kind - 12) // 2 if kind >= 12 else -1)
        if size < 0 or place + size > len(payload):
            return None
        values.append(_value(kind, payload[place : place + size]))
        place += size
    return tuple(values)


def _value(kind: int, content: bytes) -> Value:
    if kind == 0:
        return None
    if kind == 7:
        return float(struct.unpack(">d", content)[0])
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(content, "big", signed=True) if kind < 8 else content


def _varint(content: bytes, place: int) -> tuple[int, int]:
    """Return the number at `place`, and where the next one starts."""
    value = 0
    for i in range(9):
        if place + i >= len(content):
            return 0, len(content)
        byte = content[place + i]
        if i == 8:
            return (value << 8) | byte, place + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, place + i + 1
    raise AssertionError("unreachable")
