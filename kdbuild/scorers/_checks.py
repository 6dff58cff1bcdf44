"""Checks of one text by rules: what it repeats, whether it refuses, which form and which language it has."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal

from kdbuild.elicitors._words import words
from kdbuild.errors import SpecError

Format = Literal["json", "code", "list"]

_REFUSAL = re.compile(
    r"\b(?:i(?:'| a)m (?:very |so |really |truly )?sorry,? (?:but )?(?:i|as an)\b"
    r"|(?:i(?:'m| am)|sorry,?(?: but)? i(?:'m| am)) (?:not able|unable|not allowed) to\b"
    r"|(?:sorry,?(?: but)? )?i (?:cannot|can ?not|can't|won't|will not|must decline|have to decline|refuse)"
    r"(?: to)? (?:help(?! (?:but|it|myself|\w+ing)\b)|assist|answer|provide|fulfil+|comply|complete"
    r"|do (?:that|this)|discuss|generate|create|write|engage|support)\b"
    r"|(?:i(?:'m| am) (?:just |only )?|as )an? (?:large )?(?:ai|artificial intelligence|language model)\b"
    r"|i (?:do not|don't) have (?:personal (?:opinions|beliefs|feelings)|access to real[- ]time)"
    r"|(?:against|violates?) (?:my|our|openai's) (?:\w{1,20} )?(?:guidelines|polic(?:y|ies)|programming))"
)
_REFUSED_WITHIN = 200
"""A refusal stands at the beginning; further on the same words are often quoted."""
_FENCED = re.compile(r"^[ \t]*```[^\n`]*\n.*?^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)
_WHOLE_FENCE = re.compile(r"```[^\n`]*\n(.*)\n[ \t]*```", re.DOTALL)
_ITEM = re.compile(r"^[ \t]*(?:[-*+•‣·]|\(?(?:\d{1,3}|[A-Za-z])[.)])[ \t]+\S")
_LEAST_ITEMS = 2
_LONGEST_JUDGED = 4000
"""Characters that the language is told by; more change nothing but the time."""
_NO_LANGUAGE = "zxx"
_TOO_CLOSE_NATS = 3.0
"""Languages whose log-likelihoods lie closer cannot be told apart by the text."""


def repetition(text: str, size: int) -> float:
    """Return the share of a text's n-grams (of `size` words) that stand in it before: 1 - distinct / all; 0 where there are none."""
    found = words(text)
    grams = [tuple(found[i : i + size]) for i in range(len(found) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def refuses(text: str) -> bool:
    """Return whether a text begins by refusing, or by saying that it is a machine's, in English."""
    start = re.sub(r"\s+", " ", text.strip()[:_REFUSED_WITHIN].lower().replace("’", "'"))
    return _REFUSAL.search(start) is not None


def holds_any(text: str, phrases: Collection[str]) -> bool:
    """Return whether a text holds one of some phrases, word by word, whatever the case."""
    searched = f" {' '.join(words(text))} "
    return any(f" {phrase} " in searched for phrase in phrases)


def phrases_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return phrases as `holds_any` compares them; what holds no word is left out."""
    return tuple(phrase for phrase in (" ".join(words(text)) for text in texts) if phrase)


# --- form ------------------------------------------------------------------------------------------------------------------------


def has_format(text: str, wanted: Format) -> bool:
    """Return whether a text is JSON (also as its one fenced block), holds a closed fenced block, or is a list of two items or more."""
    return {"json": _is_json, "code": _has_code, "list": _is_list}[wanted](text)


def json_in(text: str) -> Any:
    """Return the JSON value that a text, or its one fenced block, is.

    Raises:
        ValueError: it is none.
    """
    bare = text.strip()
    fence = _WHOLE_FENCE.fullmatch(bare)
    try:
        return json.loads(fence[1] if fence else bare, parse_constant=_not_json)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_json(text: str) -> bool:
    try:
        json_in(text)
    except ValueError:
        return False
    return True


def _has_code(text: str) -> bool:
    return _FENCED.search(text) is not None


def _is_list(text: str) -> bool:
    """Return whether all of it are items, each of which may go on in lines that are set in."""
    lines = [line for line in text.splitlines() if line.strip()]
    items = [line for line in lines if _ITEM.match(line)]
    return len(items) >= _LEAST_ITEMS and bool(_ITEM.match(lines[0])) and all(_ITEM.match(line) or line[0] in " \t" for line in lines)


def fits_schema(text: str, schema: str) -> bool:
    """Return whether a text is JSON that a JSON schema (as text) allows."""
    try:
        value = json_in(text)
    except ValueError:
        return False
    try:
        return bool(_validator(schema).is_valid(value))
    except RecursionError:  # as deep as JSON can be read, but not as deep as it can be checked
        return False


def schema_problem(schema: dict[str, Any]) -> str | None:
    """Return why something is no JSON schema, or None where it is one; what is not in it is not looked for elsewhere."""
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        return str(error.message)
    return next((f"`$ref: {ref}` points outside the schema" for ref in _references(schema) if not ref.startswith("#")), None)


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        yield from (value for name, value in schema.items() if name in ("$ref", "$dynamicRef") and isinstance(value, str))
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from _references(part)


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    import jsonschema
    import referencing

    given = json.loads(schema)
    # A registry of its own: without one, names of schemas would be looked up on the network.
    return jsonschema.validators.validator_for(given, default=jsonschema.Draft202012Validator)(given, registry=referencing.Registry())


# --- language --------------------------------------------------------------------------------------------------------------------


def is_in(text: str, languages: Sequence[str]) -> bool:
    """Return whether a text is in one of some languages (ISO 639 codes), as far as it can be told; one without words is.

    Raises:
        SpecError: a language is not known.
    """
    identifier = _identifier()
    unknown = [code for code in languages if code not in identifier.labels]
    if unknown:
        known = ", ".join(sorted(identifier.labels))
        raise SpecError(f"there is no language `{unknown[0]}` to be told", hint=f"py3langid knows {known}")
    judged = text[:_LONGEST_JUDGED]
    if not any(char.isalpha() for char in judged):
        return True
    ranked = dict(identifier.rank(judged))
    best = max(ranked, key=lambda code: ranked[code])
    return best == _NO_LANGUAGE or any(ranked[best] - ranked[code] < _TOO_CLOSE_NATS for code in languages)


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
