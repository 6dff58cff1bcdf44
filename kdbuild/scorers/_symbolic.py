r"""Whether two formulas are equal, for answers to questions of mathematics: `\frac{x^2-1}{x-1}` is `x + 1`.

Both are read as expressions, in LaTeX or as a program writes them, and evaluated at the same points, which the digest of each variable's
name gives: two that differ agree there with no noticeable probability (Schwartz 1980, for polynomials). Nothing of a text is executed, and
all of it takes time in proportion to its length; a system of computer algebra would do both otherwise.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kdbuild import canonical

_NUM_POINTS = 4
_TOLERANCE = 1e-8
_LONGEST = 400
_DEEPEST = 40
_Value = complex | tuple["_Value", ...]

_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    **{name: getattr(cmath, name) for name in ("sqrt", "exp", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{
        "log": cmath.log,
        "ln": cmath.log,
        "arcsin": cmath.asin,
        "arccos": cmath.acos,
        "arctan": cmath.atan,
        "abs": lambda z: complex(abs(z)),
    },
    "abs": lambda z: complex(abs(z)),
    **{"asin": cmath.asin, "acos": cmath.acos, "atan": cmath.atan},
    **{"sec": lambda z: 1 / cmath.cos(z), "csc": lambda z: 1 / cmath.sin(z), "cot": lambda z: 1 / cmath.tan(z)},
}
_CONSTANTS = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}
_GREEK = ["alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "nu", "rho", "sigma", "tau", "phi", "omega"]
_WORDS = sorted([*_FUNCTIONS, *_CONSTANTS, *_GREEK], key=len, reverse=True)
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|,|;|!|:|quad|big[lr]?|Big[lr]?)(?![A-Za-z])|\\ |\^\s*\{?\\circ\}?|\\?%|\\?\$|~")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}")
_OPERATORS = {"\\cdot": "*", "\\times": "*", "\\div": "/", "·": "*", "×": "*", "÷": "/", "−": "-", "π": "\\pi ", "**": "^"}
_MIXED = re.compile(r"(?<![\\\w.])(?:(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w.])|(\d+)\s*\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\})")
"""A whole number and a fraction side by side: their sum, not their product."""
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    rf"|\\?(?P<word>frac|dfrac|tfrac|{'|'.join(_WORDS)})|(?P<letter>[A-Za-z])|(?P<sign>\\?[{{}}]|[-+*/^(),|\[\]]|!))"
)


def are_equal(one: str, other: str) -> bool:
    """Return whether two formulas say the same; False where one of them cannot be read as a formula."""
    if _bare(one) == _bare(other):
        return bool(_bare(one))
    of_one, of_other = read(one), read(other)
    if of_one is None or of_other is None:
        return False
    names = sorted(_variables(of_one) | _variables(of_other))
    return all(_same_at(of_one, of_other, point) for point in _points(names))


def is_readable(text: str) -> bool:
    """Return whether a text can be read as a formula."""
    return read(text) is not None


def _bare(text: str) -> str:
    """Return a formula without what does not count in it."""
    return "".join(_clean(text).split())


def _clean(text: str) -> str:
    clean = _DROPPED.sub(" ", _TEXT.sub(" ", text.strip().strip("$").rstrip(".")))
    for written, operator in _OPERATORS.items():
        clean = clean.replace(written, operator)
    clean = _MIXED.sub(lambda m: f"({m[1] or m[4]}+{m[2] or m[5]}/{m[3] or m[6]})", clean)
    return clean.rpartition("=")[2]


# --- reading ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A part of a formula: a number, a variable, a function or an operator, with what it is of."""

    name: str
    parts: tuple[Node, ...] = ()


def read(text: str) -> Node | None:
    """Return a formula as a tree, or None where it is none."""
    if len(text) > _LONGEST:
        return None
    tokens = list(_tokens(_clean(text)))
    if not tokens or "" in tokens:
        return None
    try:
        return _Reader(tokens).whole()
    except _Unreadable:
        return None


def _tokens(text: str) -> Iterator[str]:
    """Yield the parts of a formula; an empty one where something is none."""
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        if match is None:
            yield ""
            return
        yield match["number"].replace(",", "") if match["number"] else (match["word"] or match["letter"] or match["sign"])
        at = match.end()


class _Unreadable(Exception):
    pass


class _Reader:
    """Reads tokens from left to right, one operator's rank in each function: sums, products, signs, powers, and what they are of."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        parts = self._list()
        if self._at < len(self._tokens):
            raise _Unreadable
        return parts[0] if len(parts) == 1 else Node("tuple", tuple(parts))

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, *wanted: str) -> str:
        found = self._next
        if not found or (wanted and found not in wanted):
            raise _Unreadable
        self._at += 1
        return found

    def _list(self) -> list[Node]:
        parts = [self._sum()]
        while self._next == ",":
            self._take()
            parts.append(self._sum())
        return parts

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Unreadable
        left = self._product()
        while self._next in ("+", "-"):
            left = Node(self._take(), (left, self._product()))
        self._depth -= 1
        return left

    def _product(self) -> Node:
        left = self._signed()
        while self._next and self._next not in "+-),|]}!" and self._next != "\\}":
            operator = self._take() if self._next in ("*", "/") else "*"  # what stands side by side is multiplied
            left = Node(operator, (left, self._signed()))
        return left

    def _signed(self) -> Node:
        num_minus = 0
        while self._next in ("-", "+"):
            num_minus += self._take() == "-"
        power = self._power()
        return Node("neg", (power,)) if num_minus % 2 else power

    def _power(self) -> Node:
        base = self._atom()
        if self._next != "^":
            return base
        self._take()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Unreadable
        # In LaTeX `x^23` is x squared times 3; people mean x to the 23rd.
        power = Node("^", (base, self._signed()))
        self._depth -= 1
        return power

    def _atom(self) -> Node:
        token = self._take()
        if token in ("frac", "dfrac", "tfrac"):
            return Node("/", (self._argument(), self._argument()))
        if token in _FUNCTIONS:
            return self._function(token)
        if token in ("(", "[", "{", "\\{"):
            parts = self._list()
            self._take({"(": ")", "[": "]", "{": "}", "\\{": "\\}"}[token])
            kind = "set" if token == "\\{" else "tuple"
            return parts[0] if len(parts) == 1 and kind == "tuple" else Node(kind, tuple(parts))
        if token == "|":
            inside = self._sum()
            self._take("|")
            return Node("abs", (inside,))
        if token[0].isalnum() or token[0] == ".":
            return Node(token)
        raise _Unreadable

    def _argument(self) -> Node:
        r"""Return what a LaTeX command is of: in braces, or one sign (`\frac12`)."""
        if self._next == "{":
            return self._atom()
        token = self._take()
        if not (len(token) == 1 and token.isalnum()):
            if not token.isdigit():
                raise _Unreadable
            # `\\frac12`: the digits came as one number.
            self._tokens = [*self._tokens[: self._at - 1], token[0], token[1:], *self._tokens[self._at :]]
            token = token[0]
        return Node(token)

    def _function(self, name: str) -> Node:
        power = None
        if self._next == "^":  # sin^2 x
            self._take()
            power = self._argument()
        if name == "sqrt" and self._next == "[":
            self._take()
            root = self._sum()
            self._take("]")
            return Node("^", (self._argument(), Node("/", (Node("1"), root))))
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _Unreadable
        # `sin(x)^2` is a square, `sin x^2` the sine of one.
        applied = Node(name, (self._atom() if self._next in ("(", "{", "[") else self._power(),))
        self._depth -= 1
        return applied if power is None else Node("^", (applied, power))


# --- values ----------------------------------------------------------------------------------------------------------------------


def _variables(node: Node) -> set[str]:
    if not node.parts:
        is_name = node.name.isalpha() and node.name not in _CONSTANTS
        return {node.name} if is_name else set()
    return set().union(*(_variables(part) for part in node.parts))


def _points(names: Sequence[str]) -> Iterator[dict[str, complex]]:
    """Yield values of the variables: positive, so that roots and logarithms have one meaning."""
    for i in range(_NUM_POINTS if names else 1):
        yield {name: complex(0.5 + 2 * canonical.fraction("symbolic", name, str(i))) for name in names}


def _same_at(one: Node, other: Node, point: dict[str, complex]) -> bool:
    try:
        return _close(_value(one, point), _value(other, point))
    except (ArithmeticError, ValueError, TypeError):
        return False


def _close(one: _Value, other: _Value) -> bool:
    if isinstance(one, tuple) or isinstance(other, tuple):
        both = isinstance(one, tuple) and isinstance(other, tuple)
        return both and len(one) == len(other) and all(_close(a, b) for a, b in zip(one, other, strict=True))  # type: ignore[arg-type]
    if not (cmath.isfinite(one) and cmath.isfinite(other)):
        return False
    return abs(one - other) <= _TOLERANCE * max(1.0, abs(one), abs(other))


def _value(node: Node, point: dict[str, complex]) -> _Value:
    if not node.parts:
        return point.get(node.name) or _CONSTANTS.get(node.name) or complex(float(node.name))
    if node.name in ("tuple", "set"):
        parts = tuple(_value(part, point) for part in node.parts)
        return tuple(sorted(parts, key=_order)) if node.name == "set" else parts
    values = [_number(_value(part, point)) for part in node.parts]
    if node.name in _FUNCTIONS:
        return _FUNCTIONS[node.name](values[0])
    return _BINARY[node.name](*values)


def _number(value: _Value) -> complex:
    if isinstance(value, tuple):
        raise TypeError
    return value


def _order(value: _Value) -> tuple[float, float]:
    number = _number(value)
    return round(number.real, 6), round(number.imag, 6)


_BINARY: dict[str, Callable[..., complex]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: a**b,
    "neg": lambda a: -a,
}
