"""A text file with one entry a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdbuild.errors import RowError
from kdbuild.seeds._files import Place, check_file, shorten


def read_lines(path: Path, name: str) -> Iterator[tuple[Place, str]]:
    """Yield (place, text) of every line that is not blank, without the space around it.

    Raises:
        SourceError: the file is not there.
        RowError: a line is not UTF-8; names file:line.
    """
    check_file(path, name)
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            place = f"{name}:{number}"
            try:
                text = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).decode("utf-8").strip()
            except UnicodeDecodeError:
                raise RowError(f"{place} is not UTF-8: {shorten(raw.decode('utf-8', 'backslashreplace'))}") from None
            if text:
                yield place, text
