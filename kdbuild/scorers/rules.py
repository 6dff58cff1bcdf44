"""Rules about one text: its length, language, form, and what must not stand in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import _bank, _patterns
from kdbuild.elicitors._words import words
from kdbuild.records import Row
from kdbuild.scorers import Scene, Scorer, Scoring, _checks, _likelihood, _pii

_FIELDS = {
    "words": ("min_words", "max_words"),
    "chars": ("min_chars", "max_chars"),
    "ended": ("ended",),
    "language": ("languages",),
    "repetition": ("max_repetition",),
    "refusal": ("no_refusal",),
    "format": ("format",),
    "schema": ("json_schema",),
    "pattern": ("pattern",),
    "blocklist": ("blocklist",),
    "pii": ("no_pii",),
}
"""Rule to the fields that switch it on."""


class Rules(Scorer):
    """1 where a text passes every rule that is switched on, else 0; each rule is also a value of its own (`rules.words`)."""

    kind: Literal["rules"] = "rules"
    source: ClassVar[str | None] = (
        "Wang et al. 2022 (2212.10560), section 2.2: filtering; Rae et al. 2021 (2112.11446), appendix A.1: repetition by n-grams; "
        "ISO/IEC 7812-1, annex B: card numbers"
    )
    block: ClassVar[str | None] = "score.rules"

    of: Literal["answer", "prompt"] = "answer"
    """The text: the answer, or what the user says first."""
    min_words: int | None = Field(1, ge=0)
    """Fewest words; where a script has no spaces, each character is a word."""
    max_words: int | None = Field(None, ge=1)
    """Most words."""
    min_chars: int | None = Field(None, ge=0)
    """Fewest characters, without white space at the ends."""
    max_chars: int | None = Field(None, ge=1)
    """Most characters."""
    ended: bool = False
    """The answer was not cut at the token limit."""
    languages: list[str] | None = Field(None, min_length=1, max_length=32)
    """It is in one of these languages (ISO 639 codes: `en`, `zh`), as far as can be told; a text without words is in all."""
    max_repetition: float | None = Field(None, ge=0, le=1)
    """At most this share of its n-grams stand in it before."""
    repetition_words: int = Field(4, ge=1, le=32)
    """Words of one n-gram."""
    no_refusal: bool = False
    """It does not begin by refusing, or by saying that a language model wrote it (in English; other phrases: `blocklist`)."""
    format: _checks.Format | None = None
    """It is `json`, holds closed fenced `code`, or is a `list` of two items or more."""
    json_schema: dict[str, Any] | None = None
    """It is JSON that this schema allows."""
    pattern: str | None = None
    """A regular expression is found in it (of the `regex` package; `^` and `$` match at lines, `\\A` and `\\Z` at the ends)."""
    blocklist: list[str] | str | None = None
    """It holds none of these phrases, whatever the case: texts, or a file of the project, one phrase a line."""
    no_pii: list[_pii.Sort] | None = Field(None, min_length=1)
    """It holds no e-mail address, phone number, payment card number (with a right check digit), IP address, or secret key."""

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        if not self.parts[1:]:
            raise PydanticCustomError("rules_none", "no rule is switched on", {"hint": "for instance `min_words: 3`"})
        for least, most in ((self.min_words, self.max_words), (self.min_chars, self.max_chars)):
            if least is not None and most is not None and least > most:
                raise PydanticCustomError("rules_bounds", "the least length is above the greatest")
        if self.ended and self.of == "prompt":
            raise PydanticCustomError("rules_ended", "`ended` is about answers; a prompt is never cut")
        problem = _patterns.problem(self.pattern) if self.pattern is not None else None
        if problem is not None:
            raise PydanticCustomError("rules_pattern", "`pattern` is no regular expression: {problem}", {"problem": problem})
        problem = _checks.schema_problem(self.json_schema) if self.json_schema is not None else None
        if problem is not None:
            raise PydanticCustomError("rules_schema", "`json_schema` is no JSON schema: {problem}", {"problem": problem})
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the text that is read."""
        return ("answer|candidates",) if self.of == "answer" else ("prompt",)

    @property
    def by_candidate(self) -> bool:  # type: ignore[override]
        """Whether there may be several texts."""
        return self.of == "answer"

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return its own value, and that of each rule which is switched on."""
        return ("", *(rule for rule, fields in _FIELDS.items() if any(getattr(self, name) not in (None, False) for name in fields)))

    def files(self) -> tuple[str, ...]:
        """Return the file of phrases."""
        return (self.blocklist,) if isinstance(self.blocklist, str) else ()

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Return 1 or 0 by rule."""
        text = _likelihood.answer_of(row) if self.of == "answer" else _likelihood.prompt_of(row)
        if text is None:
            return _likelihood.NO_ANSWER if self.of == "answer" else _likelihood.NO_PROMPT
        checks = self._by_rule(row, scene)
        passed = {rule: float(checks[rule](text)) for rule in self.parts[1:]}
        return {"": min(passed.values()), **passed}
        yield  # asks nobody

    def _by_rule(self, row: Row, scene: Scene) -> dict[str, Callable[[str], bool]]:
        """Return how each rule is checked."""
        return {
            "words": lambda text: _within(len(words(text)), self.min_words, self.max_words),
            "chars": lambda text: _within(len(text.strip()), self.min_chars, self.max_chars),
            "ended": lambda text: [turn.ended for turn in row.messages if turn.train][-1],
            "language": lambda text: _checks.is_in(text, self.languages or ()),
            "repetition": lambda text: _checks.repetition(text, self.repetition_words) <= (self.max_repetition or 0.0),
            "refusal": lambda text: not _checks.refuses(text),
            "format": lambda text: self.format is not None and _checks.has_format(text, self.format),
            "schema": lambda text: _checks.fits_schema(text, json.dumps(self.json_schema)),
            "pattern": lambda text: next(self._found(text), None) is not None,
            "blocklist": lambda text: not _checks.holds_any(text, self._blocked(scene)),
            "pii": lambda text: not any(_pii.finds(sort, text) for sort in self.no_pii or ()),
        }

    def _found(self, text: str) -> Iterator[dict[str, str]]:
        return _patterns.search(self.pattern or "", text)

    def _blocked(self, scene: Scene) -> tuple[str, ...]:
        given = self.blocklist or []
        return _checks.phrases_of(_bank.of_project(scene.root, given).values() if isinstance(given, str) else given)


def _within(length: int, least: int | None, most: int | None) -> bool:
    return (least is None or length >= least) and (most is None or length <= most)
