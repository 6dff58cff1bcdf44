"""Keys and passwords: what a server writes about them must not reach a log, a file or an error."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HIDDEN = "[key]"
_SHORTEST = 6
"""Shorter texts are words, not secrets: hiding them would make messages unreadable."""
_LOOKS_LIKE_A_KEY = re.compile(r"\b(?:(?:sk|pk|rk|gsk|xai|hf|key)[-_]|(?:Bearer|Basic) )[\w*.=+/-]{8,}")


class Secrets:
    """The secrets of an endpoint. Its repr does not show them."""

    def __init__(self, values: Iterable[str]) -> None:
        self._values = sorted({value for value in values if len(value) >= _SHORTEST}, key=len, reverse=True)
        # Servers echo a key with its middle masked: whatever starts like one is hidden to its end.
        starts = "|".join(re.escape(value[:_SHORTEST]) + r"\S*" for value in self._values)
        self._echo = re.compile(starts) if starts else None

    def __repr__(self) -> str:
        return f"Secrets({len(self._values)})"

    def hide_in(self, text: str) -> str:
        """Return an answer's text without the secrets: it is stored, so only what is exactly a secret is hidden."""
        for value in self._values:
            if value in text:
                text = text.replace(value, _HIDDEN)
        return text

    def message(self, text: str, most: int = 200) -> str:
        """Return a server's message for people: one line, at most `most` characters, without anything like a key."""
        for value in self._values:
            text = text.replace(value, _HIDDEN)
        if self._echo is not None:
            text = self._echo.sub(_HIDDEN, text)
        text = " ".join(_LOOKS_LIKE_A_KEY.sub(_HIDDEN, text).split())
        text = "".join(c if c.isprintable() else "?" for c in text)
        return text if len(text) <= most else text[: most - 1] + "…"
