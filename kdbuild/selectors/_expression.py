"""Expressions over scores, as a spec writes them: `ifd < 1 and rating >= quantile(rating, 0.8)`.

The text is parsed by Python's own parser; what is not on the list below is refused, and nothing of it is ever run as Python. A name is a
score, with its dots and hyphens (`rules.length`, `teacher-rating`), so a minus stands between spaces; any other score is named in quotes.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NoReturn

Scores = Mapping[str, float]
Evaluate = Callable[[Scores, Sequence[float]], Any]
"""Returns a value, of one row's scores and of the values that were taken over all rows."""

MAX_CHARS, _MAX_DEPTH = 1000, 40

# A quoted name and a number are matched first, so that nothing inside them is taken for a name.
_TOKEN = re.compile(r"\"[^\"]*\"|'[^']*'|\d[\w.]*(?:(?<=[eE])[+-]\d+)?|(?P<name>[^\W\d]\w*(?:-\w+)*(?:\.\w+(?:-\w+)*)*)")
# Python would read these as operators; the letters that stand for them leave every position where it was.
_HIDDEN = str.maketrans({"-": "\u01c3", ".": "\u01c2"})
_SHOWN = str.maketrans({"\u01c3": "-", "\u01c2": "."})

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_OF_ONE: dict[str, Callable[[float], float]] = {"abs": abs, "log": math.log, "exp": math.exp, "sqrt": math.sqrt}
_OF_SEVERAL: dict[str, Callable[..., float]] = {"min": min, "max": max}
_OF_ALL = ("mean", "std", "quantile")
FUNCTIONS = (*_OF_ONE, *_OF_SEVERAL, *_OF_ALL)


class ExpressionError(ValueError):
    """What is wrong with an expression, and where."""

    def __init__(self, message: str, at: int) -> None:
        """`at` counts characters of the expression, from 1."""
        super().__init__(message)
        self.message = message
        self.at = at


@dataclass(frozen=True)
class Clause:
    """One part of an expression that must hold, or its value."""

    names: tuple[str, ...]
    """The scores it reads, in the order of the text."""
    evaluate: Evaluate


@dataclass(frozen=True)
class Expression:
    """A parsed expression."""

    clauses: list[Clause]
    """The conditions that `and` joins at the top, or the one number."""
    is_condition: bool
    over_all: list[Callable[[Sequence[Scores], Sequence[float]], float]]
    """What is taken over all rows; each may use those before it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The scores it reads."""
        return tuple(dict.fromkeys(name for clause in self.clauses for name in clause.names))

    def taken(self, rows: Sequence[Scores]) -> list[float]:
        """Return the values that are taken over all rows.

        Raises:
            ArithmeticError, ValueError: a value cannot be computed.
        """
        taken: list[float] = []
        for take in self.over_all if rows else ():
            taken.append(take(rows, taken))
        return taken


@lru_cache(maxsize=64)
def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ExpressionError: it is none, or does what an expression over scores may not do.
    """
    if len(text) > MAX_CHARS:
        raise ExpressionError(f"it is longer than {MAX_CHARS} characters", MAX_CHARS)
    if not text.strip():
        raise ExpressionError("it is empty", 1)
    if odd := re.search("[\u01c2\u01c3#\\\\;]", text):
        raise ExpressionError(f"`{odd.group()}` cannot stand here", odd.start() + 1)
    blanks = len(text) - len(text.lstrip())  # Python would take them for an indent
    one_line = re.sub(r"\s", " ", text.strip())
    plain = _TOKEN.sub(lambda found: found.group().translate(_HIDDEN) if found["name"] else found.group(), one_line)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(plain, mode="eval")
    except SyntaxError as error:
        at = min(error.offset or len(plain), len(plain))  # 0 where it ends too early
        raise ExpressionError("this cannot be read", blanks + at) from None
    except (ValueError, RecursionError, MemoryError):
        raise ExpressionError("this cannot be read", 1) from None
    return _Reader(plain, blanks).read(tree.body)


@dataclass
class _Reader:
    """Turns a syntax tree into functions."""

    text: str
    blanks: int
    """Characters that stood before it."""
    over_all: list[Callable[[Sequence[Scores], Sequence[float]], float]] = field(default_factory=list)
    names: dict[str, None] = field(default_factory=dict)
    """Of the clause being read."""
    depth: int = 0

    def read(self, tree: ast.expr) -> Expression:
        is_condition = _is_condition(tree)
        parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
        clauses = []
        for part in parts:
            self.names = {}
            evaluate = self.condition(part) if is_condition else self.number(part)
            if not self.names:
                self.refuse(part, "this reads no score")
            clauses.append(Clause(tuple(self.names), evaluate))
        return Expression(clauses, is_condition, self.over_all)

    def refuse(self, node: ast.AST, message: str) -> NoReturn:
        # The parser counts bytes of UTF-8.
        before = self.text.encode()[: getattr(node, "col_offset", 0)].decode(errors="replace")
        raise ExpressionError(message, self.blanks + len(before) + 1)

    def deeper(self, node: ast.AST) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.refuse(node, "this is nested too deeply")

    # --- conditions ----------------------------------------------------------------------------------------------------------

    def condition(self, node: ast.expr) -> Evaluate:
        """Return what decides a condition."""
        if not _is_condition(node):
            self.refuse(node, "a number stands where a condition must: compare it, as in `rating >= 4`")
        self.deeper(node)
        try:
            if isinstance(node, ast.BoolOp):
                return self._joined(node)
            if isinstance(node, ast.UnaryOp):
                inner = self.condition(node.operand)
                return lambda scores, taken: not inner(scores, taken)
            assert isinstance(node, ast.Compare)
            return self._compared(node)
        finally:
            self.depth -= 1

    def _joined(self, node: ast.BoolOp) -> Evaluate:
        parts = [self.condition(value) for value in node.values]
        if isinstance(node.op, ast.And):
            return lambda scores, taken: all(part(scores, taken) for part in parts)
        return lambda scores, taken: any(part(scores, taken) for part in parts)

    def _compared(self, node: ast.Compare) -> Evaluate:
        values = [self.number(value) for value in (node.left, *node.comparators)]
        for op, value in zip(node.ops, node.comparators, strict=True):
            if type(op) not in _COMPARE:
                self.refuse(value, "`in` and `is` compare no numbers; there are < <= > >= == !=")
        compare = [_COMPARE[type(op)] for op in node.ops]

        def evaluate(scores: Scores, taken: Sequence[float]) -> bool:
            found = [value(scores, taken) for value in values]
            return all(one(a, b) for one, a, b in zip(compare, found, found[1:], strict=False))

        return evaluate

    # --- numbers -------------------------------------------------------------------------------------------------------------

    def number(self, node: ast.expr) -> Evaluate:
        """Return what computes a number."""
        if _is_condition(node):
            self.refuse(node, "a condition stands where a number must")
        self.deeper(node)
        try:
            if isinstance(node, ast.Constant):
                return self._constant(node)
            if isinstance(node, ast.Name):
                return self._score(node.id.translate(_SHOWN))
            if isinstance(node, ast.Call):
                return self._call(node)
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
                inner, sign = self.number(node.operand), -1.0 if isinstance(node.op, ast.USub) else 1.0
                return lambda scores, taken: sign * inner(scores, taken)
            if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
                left, right, op = self.number(node.left), self.number(node.right), _BINARY[type(node.op)]
                return lambda scores, taken: op(left(scores, taken), right(scores, taken))
            self.refuse(node, "this is no part of an expression over scores: there are numbers, scores, + - * /, comparisons, and or not")
        finally:
            self.depth -= 1

    def _constant(self, node: ast.Constant) -> Evaluate:
        value = node.value
        if isinstance(value, str):
            return self._score(value)
        if type(value) not in (int, float) or not math.isfinite(_real(value)):
            self.refuse(node, f"`{str(value).lower()}` is no number")
        real = float(value)  # type: ignore[arg-type]
        return lambda scores, taken: real

    def _score(self, name: str) -> Evaluate:
        self.names[name] = None
        return lambda scores, taken: scores[name]

    def _call(self, node: ast.Call) -> Evaluate:
        name = node.func.id.translate(_SHOWN) if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            self.refuse(node, f"there is no such function; there are {', '.join(FUNCTIONS)}")
        num_given = {"quantile": (2, 2), **dict.fromkeys(_OF_SEVERAL, (2, 20))}.get(name, (1, 1))
        if node.keywords or not num_given[0] <= len(node.args) <= num_given[1]:
            wants = "two numbers or more" if name in _OF_SEVERAL else "a number and a share" if name == "quantile" else "one number"
            self.refuse(node, f"`{name}` takes {wants}")
        if name in _OF_ALL:
            return self._over_all(name, node)
        values = [self.number(value) for value in node.args]
        function = _OF_ONE.get(name) or _OF_SEVERAL[name]
        return lambda scores, taken: function(*(value(scores, taken) for value in values))

    def _over_all(self, name: str, node: ast.Call) -> Evaluate:
        inner, share = self.number(node.args[0]), 0.0
        if name == "quantile":
            given = node.args[1]
            if not isinstance(given, ast.Constant) or type(given.value) not in (int, float) or not 0 <= given.value <= 1:  # type: ignore[operator]
                self.refuse(given, "the share of a quantile is a number from 0 to 1")
            share = float(given.value)  # type: ignore[arg-type]
        statistic: Callable[[list[float]], float] = {"mean": mean, "std": std}.get(name) or (lambda values: quantile(values, share))
        self.over_all.append(lambda rows, taken: statistic([float(inner(scores, taken)) for scores in rows]))
        index = len(self.over_all) - 1
        return lambda scores, taken: taken[index]


def _is_condition(node: ast.expr) -> bool:
    return isinstance(node, (ast.Compare, ast.BoolOp)) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))


def _real(value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, TypeError):
        return math.inf


# --- statistics --------------------------------------------------------------------------------------------------------------


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value, whatever their order."""
    return statistics.mean(values)  # exact: equal values have their own value as the mean


def std(values: Sequence[float]) -> float:
    """Return the standard deviation of the values themselves (divided by their number)."""
    return statistics.pstdev(values)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which about this share lies, between two neighbours on the line between them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
