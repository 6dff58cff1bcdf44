"""Ratings of an answer: what is rated about it, on which scale, by which rubric, and what the judge is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Scene
from kdbuild.elicitors._asking import Questioning, values_of
from kdbuild.elicitors._verdict import NUM_DECIMALS
from kdbuild.errors import SpecError
from kdbuild.inside import inside
from kdbuild.records import Row

OVERALL = "overall"


class Rates(Questioning):
    """Base of what has a judge rate answers."""

    aspects: list[str] | dict[str, str] = Field([OVERALL], min_length=1)
    """What is rated about it; a mapping says what each means."""
    scale: int = Field(5, ge=2, le=10)
    """The best rating; the worst is 1."""
    rubric: str | None = None
    """What the ratings mean."""
    rubric_file: str | None = None
    """Text file of the project that holds the rubric."""
    reference: Literal["gold"] | None = None
    """Whether the judge sees the gold answer."""

    @model_validator(mode="after")
    def _says_it_once(self) -> Self:
        if self.rubric is not None and self.rubric_file is not None:
            raise PydanticCustomError("score_rubric", "`rubric` and `rubric_file` say the same thing twice")
        names = list(self.aspects)
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise PydanticCustomError("score_aspects", "an aspect is named once, by a word")
        return self

    def files(self) -> tuple[str, ...]:
        """Return the project's templates and the rubric."""
        return (*super().files(), *([self.rubric_file] if self.rubric_file else []))

    def shown(self, row: Row, scene: Scene) -> dict[str, Any]:
        """Return what a template may use of a row and of the rating, the aspect aside.

        Raises:
            SpecError: the rubric's file cannot be read.
        """
        rubric = _text_of(scene.root, self.rubric_file) if self.rubric_file else self.rubric or ""
        return {**values_of(row), "reference": row.gold if self.reference else "", "rubric": rubric, "scale": self.scale}

    def by_aspect(self, values: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each aspect, and `values` with what a template may use of it."""
        for aspect in self.aspects:
            meaning = self.aspects.get(aspect, "") if isinstance(self.aspects, dict) else ""
            yield aspect, {**values, "aspect": in_words(aspect), "meaning": meaning}


def in_words(aspect: str) -> str:
    """Return an aspect as a sentence names it."""
    return "overall quality" if aspect == OVERALL else aspect


def overall(ratings: Mapping[str, float]) -> float:
    """Return the overall rating of several aspects: `overall` itself, else their mean."""
    return ratings[OVERALL] if OVERALL in ratings else mean(ratings.values())


def mean(values: Iterable[float]) -> float:
    """Return the mean of ratings, rounded."""
    found = list(values)
    return round(sum(found) / len(found), NUM_DECIMALS)


def _text_of(root: Path, path: str) -> str:
    try:
        return inside(root, path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"rubric {path} cannot be read: {error}", hint="a rubric is a UTF-8 text file") from error
