"""What in a text is about a person or a machine's access: addresses, numbers and keys that must not be learned."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Literal

Sort = Literal["email", "phone", "card", "ip", "key"]

# Every repeat has an end, so that a search takes time in proportion to the text.
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b")
_PHONE = re.compile(r"(?<![\w.+-])(?:\+|\(|(?=\d))[\d().\s-]{7,24}\d(?![\w-]|\.\d)")
_INTERNATIONAL = re.compile(r"\+\d[\d().\s-]*$")
_NATIONAL = re.compile(r"(?:1[ .-])?(?:\(\d{2,5}\) ?|\d{3}[ .-])\d{3,4}[ .-]\d{3,4}$")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
_IP = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\w)|[0-9A-Fa-f:]{2,39}(?![\w:]))")
_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]{2,10} ){0,3}PRIVATE KEY-----"
    r"|(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon
    r"|AIza[\w-]{35}"  # Google
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,255}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,200}"  # Slack
    r"|sk-(?:[a-z]{2,8}-)?[\w-]{20,200}"  # OpenAI and those that write keys like it
    r"|hf_[A-Za-z]{30,40}"
    r"|eyJ[\w-]{10,2000}\.eyJ[\w-]{10,4000}\.[\w-]{10,2000}"  # a signed token
    r")(?![A-Za-z0-9])"
)
_CARD_LENGTHS = range(13, 20)
_PHONE_DIGITS = range(8, 16)  # E.164 has no more than 15


def finds(sort: Sort, text: str) -> bool:
    """Return whether a text holds such a thing."""
    return _FINDERS[sort](text)


def is_luhn(number: str) -> bool:
    """Return whether digits end in the check digit that Luhn's rule (ISO/IEC 7812-1, annex B) gives the others."""
    total = 0
    for i, digit in enumerate(reversed(number)):
        value = int(digit) * (1 + i % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _has_card(text: str) -> bool:
    numbers = (re.sub(r"[ -]", "", match.group()) for match in _CARD.finditer(text))
    return any(len(number) in _CARD_LENGTHS and len(set(number)) > 1 and is_luhn(number) for number in numbers)


def _has_phone(text: str) -> bool:
    return any(_is_phone(match.group()) for match in _PHONE.finditer(text))


def _is_phone(found: str) -> bool:
    digits = sum(char.isdigit() for char in found)
    return digits in _PHONE_DIGITS and "\n" not in found and bool(_INTERNATIONAL.match(found) or _NATIONAL.match(found))


def _has_ip(text: str) -> bool:
    return any(_is_ip(match.group()) for match in _IP.finditer(text))


def _is_ip(found: str) -> bool:
    """Return whether it is an address that may be somebody's: not this machine's own, nor none."""
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)


_FINDERS: dict[str, Callable[[str], bool]] = {
    "email": lambda text: _EMAIL.search(text) is not None,
    "phone": _has_phone,
    "card": _has_card,
    "ip": _has_ip,
    "key": lambda text: _KEY.search(text) is not None,
}
