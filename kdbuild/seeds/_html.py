"""The text of an HTML page: what a reader sees, a blank line between blocks."""

from __future__ import annotations

import re
from html.parser import HTMLParser

# fmt: off
_HIDDEN = frozenset((
    "script", "style", "template", "noscript", "svg", "math", "head", "nav", "footer", "form", "button", "select", "iframe",
))
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "div", "dl", "dt", "figcaption", "figure",
    "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p", "pre", "section", "summary", "table", "td", "th", "tr",
    "ul",
))
# fmt: on
_LINES = frozenset(("br", "li", "tr", "td", "th", "dt", "dd"))
"""Blocks that only begin a new line."""


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: list[str] = []
        self._in_pre = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden or tag in _HIDDEN:
            if tag in _HIDDEN:
                self._hidden.append(tag)
            return
        self._block(tag)
        self._in_pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
            return
        if not self._hidden:
            self._in_pre -= tag == "pre" and self._in_pre > 0
            self._block(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._hidden:
            self._block(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._in_pre else re.sub(r"\s+", " ", data))

    def _block(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.parts.append("\n" if tag in _LINES else "\n\n")


def text_of(page: str) -> str:
    """Return the text of a page; `head`, scripts, navigation and forms are left out, `pre` keeps its lines."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    lines = [line.rstrip() if line.startswith("    ") else line.strip() for line in "".join(reader.parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
