"""Cuts a text into chunks where something ends: a section, a paragraph, a sentence, a word; code at functions and blank lines.

Where several boundaries of one rank are possible, the text that follows decides by its digest. So boundaries belong to the text around
them, and an edit moves the chunks near it only, not all that come after it.
"""

from __future__ import annotations

import ast
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

from kdbuild import canonical

SECTION, PARAGRAPH, SENTENCE, WORD = 3, 2, 1, 0
_NEXT_CHARS = 64
"""So much of the text after a boundary stands for it."""

Boundaries = dict[int, int]
"""Offset into a text to the rank of the boundary there."""


def chunks(text: str, max_chars: int, boundaries: Callable[[str], Boundaries]) -> Iterator[str]:
    """Yield the parts of a text in order, without overlap, each at most `max_chars` long; blank lines around them are left out."""
    found = {place: rank for place, rank in boundaries(text).items() if 0 < place < len(text)}
    places = sorted(found)
    start = 0
    while start < len(text):
        end = len(text) if len(text) - start <= max_chars else _end(text, start, max_chars, places, found)
        if part := text[start:end].rstrip():
            yield re.sub(r"\A(?:[^\S\n]*\n)+", "", part)
        start = end


def _end(text: str, start: int, max_chars: int, places: list[int], ranks: Boundaries) -> int:
    """Return where the chunk that begins at `start` ends: in its second half if something ends there, else as late as possible."""
    low, high = bisect_right(places, start + max_chars // 2 - 1), bisect_right(places, start + max_chars)
    window = places[low:high]
    if window:
        best = max(ranks[place] for place in window)
        return min((place for place in window if ranks[place] == best), key=lambda place: _digest(text, place))
    first = bisect_left(places, start + 1)
    return places[high - 1] if high > first else start + max_chars


def _digest(text: str, place: int) -> tuple[str, int]:
    return canonical.digest(text[place : place + _NEXT_CHARS]), place


# --- boundaries --------------------------------------------------------------------------------------------------------------


def in_text(text: str) -> Boundaries:
    """Return the boundaries of plain text or Markdown; inside a fenced block of code only lines end."""
    found: Boundaries = {}
    _mark(found, text, r"\s+", WORD)
    _mark(found, text, r"[.!?][\"')\]”’]*\s+|[。！？]", SENTENCE)
    _mark(found, text, r"\n[^\S\n]*\n\s*", PARAGRAPH)
    for match in re.finditer(r"^#{1,6}\s", text, re.MULTILINE):
        found[match.start()] = SECTION
    fences = [match.span() for match in re.finditer(r"^(```|~~~).*?(?:^\1[^\S\n]*$|\Z)", text, re.MULTILINE | re.DOTALL)]
    starts = [start for start, _ in fences]
    for place in list(found):
        index = bisect_left(starts, place) - 1
        if index >= 0 and place < fences[index][1]:
            del found[place]
    for start, end in fences:
        found |= dict.fromkeys(_line_starts(text, start + 1, end), WORD)
    return found


def in_code(text: str) -> Boundaries:
    """Return the boundaries of code in any language: a line without indent after a blank one, blank lines, lines."""
    found: Boundaries = dict.fromkeys(_line_starts(text, 0, len(text)), WORD)
    _mark(found, text, r"\n(?:[^\S\n]*\n)+", SENTENCE)
    _mark(found, text, r"\n(?:[^\S\n]*\n)+(?=[^\s)}\]])", PARAGRAPH)
    return found


def in_python(text: str) -> Boundaries:
    """Return the boundaries of Python: functions and classes, their methods, and those of any code."""
    found = in_code(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how the code is written is its author's business
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return found
    starts = [0, *_line_starts(text, 0, len(text))]
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        found[starts[_first_line(node) - 1]] = SECTION
        if isinstance(node, ast.ClassDef):
            for child in node.body:
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    found[starts[_first_line(child) - 1]] = PARAGRAPH
        if node.end_lineno is not None and node.end_lineno < len(starts):
            found[starts[node.end_lineno]] = max(found.get(starts[node.end_lineno], 0), PARAGRAPH)
    return found


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _mark(found: Boundaries, text: str, pattern: str, rank: int) -> None:
    for match in re.finditer(pattern, text):
        found[match.end()] = rank


def _line_starts(text: str, start: int, end: int) -> list[int]:
    return [start + match.end() for match in re.finditer("\n", text[start:end])]
