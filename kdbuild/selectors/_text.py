"""What of a row a selector compares, as text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Literal

from kdbuild.records import Message, Row

Part = Literal["prompt", "answer", "both"]
"""The turns before the first that the student learns, the turns from there on, or all."""


def normal_form(text: str) -> str:
    """Return the text with case folded, canonically composed (Unicode NFC), and every run of white space one space, none at the ends.

    Compatibility forms stay apart (NFC, not NFKC): `x²` is not `x2`.
    """
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def turns(row: Row, of: Part) -> tuple[Message, ...]:
    """Return the turns of one part of a row."""
    split = len(row.prompt)
    return {"prompt": row.messages[:split], "answer": row.messages[split:], "both": row.messages}[of]


def meaning(row: Row, of: Part) -> str:
    """Return the text of one part of a row that an embedder is to read: all turns but the system's.

    A system prompt is mostly the same in every row, and an embedder that reads only so many tokens would see nothing else. Where there is
    no other turn, it is read.
    """
    chosen = turns(row, of)
    return _joined(turn for turn in chosen if turn.role != "system") or _joined(chosen)


def _joined(messages: Iterable[Message]) -> str:
    return "\n\n".join(message.content for message in messages)
