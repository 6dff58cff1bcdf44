"""What the fake teacher says: words, JSON values and log-probabilities that depend on the digest of a question alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdbuild import canonical

_WORDS = (
    *("the", "a", "one", "this", "each", "small", "large", "first", "last", "good", "plain", "open", "warm", "early", "river", "stone"),
    *("garden", "letter", "morning", "winter", "market", "table", "teacher", "student", "question", "answer", "number", "reason"),
    *("story", "window", "paper", "bread", "music", "road", "is", "has", "gives", "takes", "keeps", "finds", "makes", "shows", "opens"),
    *("needs", "and", "or", "but", "then", "because", "before", "after", "with", "from", "into", "over", "under", "near", "slowly"),
    *("often", "always", "never", "perhaps", "today"),
)
_FEWEST, _MOST = 3, 40
_FEW_WORDS = 5
"""Words of a text inside a form."""
_NUMBERS = 100
"""Numbers without bounds lie between 0 and this."""
_MOST_ITEMS = 3
_DEEPEST = 16
_SHARPNESS = 4.0
"""Nats between the likeliest and the least likely of given answers, at most."""


def text(question: str) -> str:
    """Return some words."""
    count = _FEWEST + canonical.seed_of("count", question) % (_MOST - _FEWEST + 1)
    return _sentence(question, count)


def _sentence(question: str, count: int) -> str:
    words = [_WORDS[canonical.seed_of("word", question, i) % len(_WORDS)] for i in range(count)]
    return " ".join(words).capitalize() + "."


def logprob(question: str, num_tokens: int) -> float:
    """Return the log-probability (nats) of an answer of so many tokens."""
    return round(-num_tokens * (0.25 + canonical.fraction("logprob", question)), 6)


def choice_logprobs(question: str, choices: Sequence[str]) -> tuple[float, ...]:
    """Return log-probabilities (nats) of given answers; their probabilities add up to 1, and their order does not matter."""
    scores = [_SHARPNESS * canonical.fraction("choice", question, choice) for choice in choices]
    total = math.log(sum(map(math.exp, scores)))
    return tuple(round(score - total, 6) for score in scores)


def instance(schema: Mapping[str, Any], question: str) -> Any:
    """Return a JSON value that follows a schema of types, bounds, `enum`, `const`, `anyOf` and `$ref`; `pattern` and `format` are not read.

    Raises:
        ValueError: the schema has no end, or names what is not there.
    """
    return _Inventor(schema.get("$defs", {})).value(schema, question, 0)


class _Inventor:
    def __init__(self, defs: Mapping[str, Any]) -> None:
        self._defs = defs

    def value(self, schema: Mapping[str, Any], at: str, depth: int) -> Any:
        """Return a value; `at` is the digest's part for this place."""
        if depth > _DEEPEST:
            raise ValueError(f"the schema is deeper than {_DEEPEST} levels")
        if "$ref" in schema:
            name = str(schema["$ref"]).rpartition("/")[2]
            if name not in self._defs:
                raise ValueError(f"the schema has no `{schema['$ref']}`")
            return self.value(self._defs[name], at, depth + 1)
        if "const" in schema:
            return schema["const"]
        for word in ("enum", "anyOf", "oneOf"):
            if word in schema:
                chosen = schema[word][canonical.seed_of(word, at) % len(schema[word])]
                return chosen if word == "enum" else self.value(chosen, at, depth + 1)
        return self._typed(schema, at, depth)

    def _typed(self, schema: Mapping[str, Any], at: str, depth: int) -> Any:
        kinds = schema.get("type", "object" if "properties" in schema else "string")
        kind = kinds if isinstance(kinds, str) else kinds[canonical.seed_of("type", at) % len(kinds)]
        if kind == "object":
            return {name: self.value(part, f"{at}.{name}", depth + 1) for name, part in schema.get("properties", {}).items()}
        if kind == "array":
            return self._items(schema, at, depth)
        plain = {"string": _string, "integer": _integer, "number": _number, "boolean": _boolean, "null": lambda *_: None}
        if kind not in plain:
            raise ValueError(f"the schema has a type `{kind}`")
        return plain[kind](schema, at)

    def _items(self, schema: Mapping[str, Any], at: str, depth: int) -> list[Any]:
        first = [self.value(part, f"{at}[{i}]", depth + 1) for i, part in enumerate(schema.get("prefixItems", ()))]
        least = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(least, _MOST_ITEMS)))
        count = max(least, canonical.seed_of("items", at) % (most + 1))
        part = schema.get("items", {})
        rest = [self.value(part, f"{at}[{i}]", depth + 1) for i in range(len(first), count)] if isinstance(part, dict) else []
        return first + rest


def _string(schema: Mapping[str, Any], at: str) -> str:
    least, most = int(schema.get("minLength", 1)), int(schema.get("maxLength", 10**6))
    words = _sentence(at, max(_FEW_WORDS, least))  # a word has a character at least
    fitting = words if len(words) <= most else words[:most].rpartition(" ")[0] or words[:most]
    return fitting if len(fitting) >= least else words[: max(least, most)]


def _bounds(schema: Mapping[str, Any]) -> tuple[float | None, float | None]:
    return schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))


def _integer(schema: Mapping[str, Any], at: str) -> int:
    low, high = _bounds(schema)
    least = math.ceil(low) if low is not None else (min(0, math.floor(high)) if high is not None else 0)
    most = math.floor(high) if high is not None else least + _NUMBERS
    least += int("minimum" not in schema and schema.get("exclusiveMinimum") == least)
    most -= int("maximum" not in schema and schema.get("exclusiveMaximum") == most)
    return least + canonical.seed_of("integer", at) % max(1, most - least + 1)


def _number(schema: Mapping[str, Any], at: str) -> float:
    low, high = _bounds(schema)
    least = float(low) if low is not None else (min(0.0, high - _NUMBERS) if high is not None else 0.0)
    most = float(high) if high is not None else least + _NUMBERS
    inside = 0.25 + canonical.fraction("number", at) / 2  # away from the bounds, which may be excluded
    return round(least + (most - least) * inside, 4) if most - least > 0.01 else least + (most - least) * inside


def _boolean(schema: Mapping[str, Any], at: str) -> bool:
    return canonical.fraction("boolean", at) < 0.5
