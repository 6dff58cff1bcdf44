"""What of a teacher's reply is the text asked for, and whether it is a reply to the question at all."""

from __future__ import annotations

import re

from kdbuild.elicitors import Rejected
from kdbuild.elicitors._words import words
from kdbuild.teachers import Answer

_QUOTES = (('"', '"'), ("“", "”"), ("«", "»"), ("'", "'"), ("```", "```"))
_PREAMBLE = re.compile(r"\A(?:sure|certainly|of course|okay|ok|here(?:'s| is| are))\b[^\n]{0,120}:[ \t]*\n+", re.IGNORECASE)
_LABEL = re.compile(
    r"\A[\s*#_]*(?:(?:new|rewritten|paraphrased|simplified|revised|translated|final|evolved|harder|joined)\s+)?"
    r"(?:instruction|prompt|request|question|text|version|paraphrase|translation|answer|task)s?[*_]*\s*:[\s*_]*",
    re.IGNORECASE,
)
_FENCED = re.compile(r"```[^\n`]*\n(.*?)(?:\n)?```", re.DOTALL)
_SORRY = r"(?:very |so )?(?:sorry|afraid|unable|not able)"
_UNWILLING = r"(?:cannot|can(?:'|’)?t|can not|won(?:'|’)?t|will not)"
_DEEDS = r"(?:help|assist|do|provide|fulfil|comply|create|write|rewrite|answer)"
_REFUSAL = re.compile(
    rf"\A\W*(?:i(?:'|’)?m {_SORRY}|i am {_SORRY}|sorry\b|i apologi[sz]e|as an ai\b|(?:unfortunately,? )?i {_UNWILLING} {_DEEDS})",
    re.IGNORECASE,
)


def unwrapped(text: str) -> str:
    """Return a reply without what is said around it: a line that announces it, a label such as `Rewritten prompt:`, quotes."""
    found = _LABEL.sub("", _PREAMBLE.sub("", text.strip(), count=1), count=1).strip()
    for opening, closing in _QUOTES:
        inner = found[len(opening) : -len(closing)]
        if found.startswith(opening) and found.endswith(closing) and len(found) > len(opening + closing) and opening not in inner:
            return inner.strip()
    return found


def code_in(text: str) -> str:
    """Return the first fenced block of a reply, or all of it where there is none."""
    found = _FENCED.search(text)
    return (found.group(1) if found else text).strip("\n")


def refuses(text: str) -> bool:
    """Return whether a reply begins as a refusal does."""
    return _REFUSAL.match(text) is not None


def same_words(one: str, other: str) -> bool:
    """Return whether two texts are the same but for case, spaces and punctuation."""
    of_one, of_other = words(one), words(other)
    return of_one == of_other if of_one or of_other else one.strip() == other.strip()


def unusable(answer: Answer) -> Rejected | None:
    """Return why a reply that must be whole is none: it is empty, was cut, or is a refusal."""
    if not answer.text.strip():
        return Rejected("empty answer", answer.text)
    if not answer.ended:
        return Rejected("cut at the token limit", answer.text)
    return Rejected("refusal", answer.text) if refuses(answer.text) else None
