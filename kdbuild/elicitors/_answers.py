"""Reading final answers: where one stands in a text, what it says, and whether two say the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Literal

from kdbuild.elicitors._words import words

Form = Literal["text", "number", "choice"]
"""How answers are read and compared: as words, as numbers, or as the letter of an option."""

_TOLERANCE = Fraction(1, 10**6)
_LONGEST_NUMBER = 60
_LONGEST_BOX = 1000
_ARTICLES = ("a", "an", "the")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\(?:boxed|text|mathrm)\s*\{([^{}]*)\}")
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)])[-−]\s?)?[$€£¥]?\s?(?P<inner>(?<=[$€£¥])-)?(?<![\w.])"
    r"(?:(?P<mixed>\d+)\s+(?=\d+\s?/\s?\d))?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<power>[eE][+-]?\d{1,2}(?!\w))?"
    r"(?:\s?/\s?(?P<below>\d+(?:\.\d+)?))?"
)
_LEADING = r"\b(?:(?:so|thus|therefore|hence),? )?(?:the )?(?:final )?"
_LETTER_FIRST = re.compile(r"[\W_]*(?:option|choice)?[\W_]*([A-Za-z])(?=[).:\]\s*,;]|$)", re.IGNORECASE)
_LETTER_NAMED = re.compile(r"\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*[(\[*\"']*([A-Z])(?![\w'])")
_LETTER_ALONE = re.compile(r"[(\[]([A-Z])[)\]]")
_OPTION = re.compile(r"^[ \t]*[(\[]?([A-Z])[).:\]][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Final:
    """A final answer and what led to it."""

    rationale: str
    """The text before the marker."""
    written: str
    """The answer as it stands after the marker."""
    whole: bool
    """Whether something follows the answer, so that a cut came after it."""


def split(text: str, marker: str, form: Form) -> Final | None:
    """Return the final answer after the last `marker`, or None where there is no marker.

    It stands at the start of a line, else anywhere, else as a sentence: for `Answer:` also "the answer is ...". A number or a letter is one
    line; a text goes on to the next empty line.
    """
    word, colon = marker.rstrip().removesuffix(":"), ":" if marker.rstrip().endswith(":") else ""
    exact = rf"(?<!\w){re.escape(word)}[*_]*[ \t]*{colon}[*_]*"
    at_start = re.finditer(rf"^[ \t*_#>-]*{exact}", text, re.MULTILINE | re.IGNORECASE)
    places = [*at_start] or [*re.finditer(exact, text, re.IGNORECASE)]
    if not places and colon:
        places = [*re.finditer(rf"{_LEADING}{re.escape(word)} is:?(?!\w)", text, re.IGNORECASE)]
    if not places:
        return None
    after = text[places[-1].end() :].lstrip()
    written, end, _ = after.partition("\n\n" if form == "text" else "\n")
    return Final(text[: places[-1].start()].strip(), written.strip().strip("*_").strip(), bool(end))


def value_of(written: str, form: Form, options: Mapping[str, str] | None = None) -> str | None:
    """Return what an answer says, in one way of writing it: a plain number, a capital letter, a text; None where it says nothing.

    `options` (letter to text) are those of the question, for choices.
    """
    if form == "number":
        number = number_in(written)
        return None if number is None else plain(number)
    if form == "choice":
        return _letter(written, options or {})
    return written.strip() or None


def said_in(text: str, form: Form, marker: str, options: Mapping[str, str] | None = None) -> str | None:
    """Return what a whole answer comes to: after the marker, else in its last LaTeX box, else all of it (of numbers, the last).

    None where it comes to nothing.
    """
    written = written_in(text, marker, form)
    if written is not None:
        return value_of(written, form, options)
    if form != "number":
        return value_of(text, form, options)
    number = number_in(text, last=True)
    return None if number is None else plain(number)


def written_in(text: str, marker: str, form: Form) -> str | None:
    """Return the final answer as it stands after the marker, else in the last LaTeX box; None where there is neither."""
    final = split(text, marker, form)
    return boxed_in(text) if final is None else final.written


def boxed_in(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` of a text holds, braces inside it included; None where there is none."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 1, start + len("\\boxed{")
    for i in range(first, min(len(text), first + _LONGEST_BOX)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if not depth:
            return text[first:i].strip()
    return None


def gold_of(gold: str, form: Form, marker: str, options: Mapping[str, str] | None = None) -> str | None:
    """Return what a given right answer says: after `####` or the marker where it has one, else all of it (of numbers, the last)."""
    for mark in ("####", marker):
        found = split(gold, mark, form)
        if found is not None:
            return value_of(found.written, form, options)
    if form != "number":
        return value_of(gold, form, options)
    number = number_in(gold, last=True)
    return None if number is None else plain(number)


def same(one: str, other: str, form: Form) -> bool:
    """Return whether two values (of `value_of`) are one answer: numbers within a millionth, letters, or the same words."""
    if form == "number":
        of_one, of_other = number_in(one), number_in(other)
        if of_one is None or of_other is None:
            return False
        return abs(of_one - of_other) <= _TOLERANCE * max(abs(of_one), abs(of_other), Fraction(1))
    return one == other if form == "choice" else normal(one) == normal(other)


def normal(text: str) -> str:
    """Return a text as answers are compared: lower case, no punctuation, no articles (as SQuAD does); signs alone stay as they are."""
    return " ".join(word for word in words(text) if word not in _ARTICLES) or text.strip().lower()


# --- numbers -----------------------------------------------------------------------------------------------------------------


def number_in(text: str, *, last: bool = False) -> Fraction | None:
    r"""Return the first (or the last) number of a text, after the last `=` where there is one; None where there is no number.

    Knows thousands separators, currencies, percent signs (left out: 50% is 50), fractions, mixed numbers, powers and LaTeX's `\frac`.
    """
    clean = _BOXED.sub(r"\1", _FRACTION.sub(r"\1/\2", text)).replace("\\$", "$").replace("\\,", "").replace("{,}", ",")
    found = [*_NUMBER.finditer(clean.rpartition("=")[2])] or [*_NUMBER.finditer(clean)]
    return _fraction(found[-1 if last else 0]) if found else None


def _fraction(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > _LONGEST_NUMBER:
        return None
    value = Fraction(match["digits"].replace(",", "") + (match["power"] or ""))
    if match["below"]:
        below = Fraction(match["below"])
        if not below:
            return None
        value = value / below + Fraction(match["mixed"] or 0)
    return -value if match["sign"] or match["inner"] else value


def plain(number: Fraction) -> str:
    """Return a number as a whole number or a decimal fraction; as `1/3` where it has no end."""
    below = number.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    if below != 1:
        return f"{number.numerator}/{number.denominator}"
    exact = Context(prec=400)
    return f"{exact.divide(Decimal(number.numerator), Decimal(number.denominator)):f}"


# --- choices -----------------------------------------------------------------------------------------------------------------


def options_in(question: str) -> dict[str, str]:
    """Return the options that a question lists, one a line as `A) text`, `(A) text`, `A. text` or `A: text`: letter to text."""
    return dict(_OPTION.findall(question))


def _letter(written: str, options: Mapping[str, str]) -> str | None:
    """Return the option that is meant: by its letter, else by its text."""
    by_text = [letter for letter, text in options.items() if normal(text) == normal(written)]
    if by_text:
        return by_text[0]
    letter = _first_letter(written)
    if letter is None:
        named = _LETTER_NAMED.findall(written) or _LETTER_ALONE.findall(written)
        letter = named[0] if named else None
    return letter if letter is not None and (not options or letter in options) else None


def _first_letter(written: str) -> str | None:
    found = _LETTER_FIRST.match(written)
    if found is None:
        return None
    # "A dog" and "I think" begin with a word, not with a letter.
    word = found.group(1).upper() in "AI" and re.match(r"[ \t]+\w", written[found.end() :])
    return None if word else found.group(1).upper()
