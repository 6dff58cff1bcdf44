"""Regular expressions of a spec: a slow one ends the stage with a sentence instead of running for ever."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from kdbuild.errors import SpecError

LONGEST_SEARCH_S = 5.0
"""Seconds that one search may take. Passing it ends the stage and never a row: what comes out must not depend on a machine's speed."""
_LONGEST_PATTERN = 2000


def problem(pattern: str) -> str | None:
    """Return why a text is no regular expression (of the `regex` package, a superset of `re`), or None where it is one."""
    if len(pattern) > _LONGEST_PATTERN:
        return f"longer than {_LONGEST_PATTERN} characters"
    import regex

    try:
        _compiled(pattern)
    except (regex.error, OverflowError, RecursionError) as error:
        return str(error)
    return None


def search(pattern: str, text: str) -> Iterator[dict[str, str]]:
    """Yield what each match holds: the first group (or all of it, where there are none) as `value`, and named groups by their names.

    Raises:
        SpecError: one search takes longer than `LONGEST_SEARCH_S`.
    """
    try:
        for match in _compiled(pattern).finditer(text, timeout=LONGEST_SEARCH_S):
            named = {name: value or "" for name, value in match.groupdict().items()}
            yield {"value": (match[1] if match.re.groups else match[0]) or "", **named}
    except TimeoutError:
        raise SpecError(
            f"the pattern `{pattern}` takes longer than {LONGEST_SEARCH_S:g} s on one text",
            hint="nested repeats such as `(a+)+` try every way to split a text: make them one, or possessive (`a++`)",
        ) from None


def names(pattern: str) -> tuple[str, ...]:
    """Return the names of a pattern's named groups, in its order."""
    return tuple(_compiled(pattern).groupindex)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern, regex.MULTILINE)
