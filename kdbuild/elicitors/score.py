"""A judge rates a row's answer, its steps, its candidates, or how far its student is behind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Conversation, Rejected, Scene
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._extent import Extent, times
from kdbuild.elicitors._verdict import NUM_DECIMALS, Judging, expected, grades, read_all
from kdbuild.errors import SpecError
from kdbuild.inside import inside
from kdbuild.records import Row

OVERALL = "overall"


@dataclass(frozen=True)
class _Rating:
    """One question for a rating; those of the same text, aspect and step are averaged."""

    text: int
    """Index of the text that is rated."""
    aspect: str
    step: int
    """From 1; 0 for the whole text."""
    question: str


_Place = tuple[int, str, int]
"""Text, aspect and step of a rating."""


class Score(Judging):
    """Rate answers by themselves: overall or by aspects, whole or step by step, with or without a critique first.

    Writes the row's `scores`: one an aspect, `overall` (their mean, where it is no aspect itself), `<aspect> step <n>` of steps, of
    which the aspect is the mean, and `gap`. Candidates get their overall as `score`; the row's scores are then means over them.
    Templates: `rate`, `step`, `referee` (of `first`, `second`, `rated`) and `critique`.
    """

    kind: Literal["score"] = "score"
    source: ClassVar[str | None] = (
        "Cui et al. 2023 (2310.01377), section 2.3: aspects; Luo et al. 2023 (2308.09583), section 2.2: steps; "
        "Kim et al. 2023 (2310.08491), section 3: rubric and reference; Jiang et al. 2023 (2305.12870), section 3.2: the referee's gap; "
        "Liu et al. 2023 (2303.16634), equation 1: the expected rating"
    )
    block: ClassVar[str | None] = "gen.score"
    prompts: ClassVar[tuple[str, ...]] = ("rate", "step", "referee", "critique")

    of: Literal["answer", "candidates", "gap"] = "answer"
    """What is rated: the answer, each candidate, or the answer beside the candidate of `rival`, the two shown in both orders."""
    aspects: list[str] | dict[str, str] = Field([OVERALL], min_length=1)
    """What is rated about it; a mapping says what each means."""
    scale: int = Field(5, ge=2, le=10)
    """The best rating; the worst is 1."""
    rubric: str | None = None
    """What the ratings mean."""
    rubric_file: str | None = None
    """Text file of the project that holds the rubric."""
    level: Literal["answer", "steps"] = "answer"
    """`steps` rates each line of the text, or each sentence where it is one line."""
    max_steps: int = Field(32, ge=1)
    """Texts of more steps are rejected."""
    critique: bool = False
    """Whether the judge first writes what is good and bad, kept as the row's `feedback`, and rates with that before it."""
    reference: Literal["gold"] | None = None
    """Whether the judge sees the gold answer."""
    rival: str = "student"
    """Of `gap`: who wrote the candidate (`source`) that the answer is compared with."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.of == "gap" and (self.level == "steps" or self.critique):
            raise PydanticCustomError("score_gap", "`of: gap` rates whole answers without a critique")
        if self.rubric is not None and self.rubric_file is not None:
            raise PydanticCustomError("score_rubric", "`rubric` and `rubric_file` say the same thing twice")
        names = list(self.aspects)
        if len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise PydanticCustomError("score_aspects", "an aspect is named once, by a word")
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what the judge is shown."""
        shown = {"answer": ("answer",), "candidates": ("candidates",), "gap": ("answer", "candidates")}[self.of]
        return ("prompt", *shown, *(["gold"] if self.reference else []))

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `scores`, and `feedback` where there is a critique."""
        return ("scores", "feedback") if self.critique else ("scores",)

    @property
    def asks_once(self) -> bool:  # type: ignore[override]
        """Whether there is no critique before the ratings."""
        return not self.critique

    def files(self) -> tuple[str, ...]:
        """Return the project's templates and the rubric."""
        return (*super().files(), *([self.rubric_file] if self.rubric_file else []))

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        num_texts = {"answer": 1, "gap": 4}.get(self.of, given.candidates)
        num_ratings = len(self.aspects) * (self.max_steps if self.level == "steps" else 1) * (len(self.actors) if self.combines else 1)
        return given.each(asks=times(num_texts, num_ratings + self.critique))

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for critiques, then for every rating at once."""
        texts = self._texts(row)
        if isinstance(texts, Rejected):
            return texts
        values = self._values(row, scene)
        critiques, keys = [""] * len(texts), []
        if self.critique:
            shown = [{**values, "answer": text, "aspects": [_shown(aspect) for aspect in self.aspects]} for text in texts]
            said = yield [self.ask(scene, row.id, self.render(scene, row.id, one, "critique")) for one in shown]
            critiques, keys = [one.answer.text.strip() for one in said], [one.key for one in said]
            if not all(critiques):
                return Rejected("empty critique")
        ratings = [*self._ratings(row, scene, values, texts, critiques)]
        options = grades(self.scale)
        answered = yield [ask for rating in ratings for ask in self.put(scene, row.id, rating.question, options)]
        num_judges = len(self.judges(scene))
        found: dict[_Place, list[float]] = defaultdict(list)
        for i, rating in enumerate(ratings):
            verdict = read_all(answered[i * num_judges : (i + 1) * num_judges], options)
            if isinstance(verdict, Rejected):
                return verdict
            found[rating.text, rating.aspect, rating.step].append(expected(verdict))
        keys += [one.key for one in answered]
        made = self._written(row, {place: _mean(values) for place, values in found.items()}, len(texts))
        return [replace(made, feedback=_joined(critiques) or row.feedback, keys=(*row.keys, *keys))]

    # --- what is rated ---------------------------------------------------------------------------------------------------------

    def _texts(self, row: Row) -> list[str] | Rejected:
        if self.reference and row.gold is None:
            return Rejected("no gold answer to show")
        if self.of != "candidates" and not (row.answer or "").strip():
            return Rejected("no answer to rate")
        texts = {"answer": [row.answer or ""], "candidates": [str(one.get("text") or "") for one in row.candidates]}.get(self.of)
        if texts is None:
            rival = self._rival(row)
            if rival is None:
                return Rejected("no candidate of the rival to compare with")
            texts = [row.answer or "", str(row.candidates[rival].get("text") or "")]
        if not texts:
            return Rejected("no candidates to rate")
        if self.level == "steps" and any(len(steps_of(text)) > self.max_steps for text in texts):
            return Rejected("more steps than `max_steps`")
        if self.level == "steps" and not all(map(steps_of, texts)):
            return Rejected("no steps to rate")
        return texts

    def _rival(self, row: Row) -> int | None:
        return next((i for i, candidate in enumerate(row.candidates) if candidate.get("source") == self.rival), None)

    def _values(self, row: Row, scene: Scene) -> dict[str, Any]:
        rubric = _text_of(scene.root, self.rubric_file) if self.rubric_file else self.rubric or ""
        return {**values_of(row), "reference": row.gold if self.reference else "", "rubric": rubric, "scale": self.scale}

    def _ratings(
        self, row: Row, scene: Scene, values: Mapping[str, Any], texts: Sequence[str], critiques: Sequence[str]
    ) -> Iterator[_Rating]:
        for aspect in self.aspects:
            about = {**values, "aspect": _shown(aspect), "meaning": self._meaning(aspect)}
            if self.of == "gap":
                yield from self._compared(row, scene, about, aspect, texts)
                continue
            for i, (text, critique) in enumerate(zip(texts, critiques, strict=True)):
                one = {**about, "answer": text, "critique": critique}
                if self.level == "answer":
                    yield _Rating(i, aspect, 0, self.render(scene, row.id, one, "rate"))
                    continue
                steps = steps_of(text)
                for n, step in enumerate(steps, 1):
                    shown = {**one, "before": "\n".join(steps[: n - 1]), "step": step}
                    yield _Rating(i, aspect, n, self.render(scene, row.id, shown, "step"))

    def _compared(self, row: Row, scene: Scene, about: Mapping[str, Any], aspect: str, texts: Sequence[str]) -> Iterator[_Rating]:
        for first, second in ((0, 1), (1, 0)):
            for rated, text in (("A", first), ("B", second)):
                shown = {**about, "first": texts[first], "second": texts[second], "rated": rated}
                yield _Rating(text, aspect, 0, self.render(scene, row.id, shown, "referee"))

    def _meaning(self, aspect: str) -> str:
        return self.aspects.get(aspect, "") if isinstance(self.aspects, dict) else ""

    # --- what comes of it ------------------------------------------------------------------------------------------------------

    def _written(self, row: Row, ratings: Mapping[_Place, float], num_texts: int) -> Row:
        by_aspect = [
            {name: _mean(value for (text, aspect, _), value in ratings.items() if (text, aspect) == (i, name)) for name in self.aspects}
            for i in range(num_texts)
        ]
        overall = [scores.get(OVERALL, _mean(scores.values())) for scores in by_aspect]
        if self.of == "candidates":
            means = {name: _mean(scores[name] for scores in by_aspect) for name in self.aspects}
            candidates = tuple({**one, "score": score} for one, score in zip(row.candidates, overall, strict=True))
            return replace(row, candidates=candidates, scores={**row.scores, **means, OVERALL: _mean(overall)})
        steps = {f"{aspect} step {step}": value for (_, aspect, step), value in ratings.items() if step}
        made = replace(row, scores={**row.scores, **by_aspect[0], **steps, OVERALL: overall[0]})
        return self._with_gap(made, overall) if self.of == "gap" else made

    def _with_gap(self, row: Row, overall: Sequence[float]) -> Row:
        rival = self._rival(row)
        candidates = tuple({**one, "score": overall[1]} if i == rival else one for i, one in enumerate(row.candidates))
        return replace(row, candidates=candidates, scores={**row.scores, "gap": round(overall[0] - overall[1], NUM_DECIMALS)})


def steps_of(text: str) -> list[str]:
    """Return the steps of a text: its lines, or its sentences where it is one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) != 1 else [part.strip() for part in re.split(r"(?<=[.!?。！？])\s+", lines[0]) if part.strip()]


def _text_of(root: Path, path: str) -> str:
    try:
        return inside(root, path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"rubric {path} cannot be read: {error}", hint="a rubric is a UTF-8 text file") from error


def _joined(critiques: Sequence[str]) -> str:
    if len(critiques) == 1:
        return critiques[0]
    return "\n\n".join(f"Candidate {i}: {critique}" for i, critique in enumerate(critiques, 1) if critique)


def _shown(aspect: str) -> str:
    return "overall quality" if aspect == OVERALL else aspect


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return round(sum(found) / len(found), NUM_DECIMALS)
