"""Calls of tools inside a text, as Toolformer writes them: `[name(arguments) -> result]`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdbuild import canonical
from kdbuild.elicitors._steps import Step
from kdbuild.elicitors._tools import Tool

NONE = Tool("none", "No tool helps here.", '{"properties":{}}', "", None, None)
"""What is called where no tool helps."""
_WORD_BEGINS = re.compile(r"(?<=\s)\S")


@dataclass(frozen=True)
class Place:
    """A call at a place of a text."""

    offset: int
    """Characters before it."""
    step: Step
    key: str
    """Key of the answer that it was."""

    @property
    def call(self) -> tuple[str, str]:
        """The call itself: name and arguments."""
        return self.step.action, self.step.args


def offsets(text: str, row: str, count: int) -> list[int]:
    """Return `count` beginnings of words of a text (all, where there are no more), in order; never the text's own beginning.

    They are drawn by the digest of the row's id and the place, so that another count keeps those that it shares.
    """
    there = [match.start() for match in _WORD_BEGINS.finditer(text)]
    return sorted(sorted(there, key=lambda offset: canonical.fraction("place", row, str(offset)))[:count])


def call_text(step: Step, result: str) -> str:
    """Return a call as a text shows it."""
    arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in step.arguments.items())
    return f"[{step.action}({arguments})" + (f" -> {' '.join(result.split())}]" if result else "]")


def inserted(text: str, places: Sequence[Place]) -> str:
    """Return a text with calls in it; `places` are in order."""
    parts, done = [], 0
    for one in places:
        parts += [text[done : one.offset], call_text(one.step, one.step.observation), " "]
        done = one.offset
    return "".join([*parts, text[done:]])
