"""A judge rates a row's answer, its steps, its candidates, or how far its student is behind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Conversation, Rejected, Scene
from kdbuild.elicitors._extent import Extent, times
from kdbuild.elicitors._rating import OVERALL, Rates, in_words, mean, overall
from kdbuild.elicitors._verdict import NUM_DECIMALS, Judging, expected, grades, read_all
from kdbuild.records import Row


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


class Score(Rates, Judging):
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
    level: Literal["answer", "steps"] = "answer"
    """`steps` rates each line of the text, or each sentence where it is one line."""
    max_steps: int = Field(32, ge=1)
    """Texts of more steps are rejected."""
    critique: bool = False
    """Whether the judge first writes what is good and bad, kept as the row's `feedback`, and rates with that before it."""
    rival: str = "student"
    """Of `gap`: who wrote the candidate (`source`) that the answer is compared with."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.of == "gap" and (self.level == "steps" or self.critique):
            raise PydanticCustomError("score_gap", "`of: gap` rates whole answers without a critique")
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
        values = self.shown(row, scene)
        critiques, keys = [""] * len(texts), []
        if self.critique:
            shown = [{**values, "answer": text, "aspects": [*map(in_words, self.aspects)]} for text in texts]
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
        made = self._written(row, {place: mean(values) for place, values in found.items()}, len(texts))
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

    def _ratings(
        self, row: Row, scene: Scene, values: Mapping[str, Any], texts: Sequence[str], critiques: Sequence[str]
    ) -> Iterator[_Rating]:
        for aspect, about in self.by_aspect(values):
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

    # --- what comes of it ------------------------------------------------------------------------------------------------------

    def _written(self, row: Row, ratings: Mapping[_Place, float], num_texts: int) -> Row:
        by_aspect = [
            {name: mean(value for (text, aspect, _), value in ratings.items() if (text, aspect) == (i, name)) for name in self.aspects}
            for i in range(num_texts)
        ]
        whole = [overall(scores) for scores in by_aspect]
        if self.of == "candidates":
            means = {name: mean(scores[name] for scores in by_aspect) for name in self.aspects}
            candidates = tuple({**one, "score": score} for one, score in zip(row.candidates, whole, strict=True))
            return replace(row, candidates=candidates, scores={**row.scores, **means, OVERALL: mean(whole)})
        steps = {f"{aspect} step {step}": value for (_, aspect, step), value in ratings.items() if step}
        made = replace(row, scores={**row.scores, **by_aspect[0], **steps, OVERALL: whole[0]})
        return self._with_gap(made, whole) if self.of == "gap" else made

    def _with_gap(self, row: Row, whole: Sequence[float]) -> Row:
        rival = self._rival(row)
        candidates = tuple({**one, "score": whole[1]} if i == rival else one for i, one in enumerate(row.candidates))
        return replace(row, candidates=candidates, scores={**row.scores, "gap": round(whole[0] - whole[1], NUM_DECIMALS)})


def steps_of(text: str) -> list[str]:
    """Return the steps of a text: its lines, or its sentences where it is one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines if len(lines) != 1 else [part.strip() for part in re.split(r"(?<=[.!?。！？])\s+", lines[0]) if part.strip()]


def _joined(critiques: Sequence[str]) -> str:
    if len(critiques) == 1:
        return critiques[0]
    return "\n\n".join(f"Candidate {i}: {critique}" for i, critique in enumerate(critiques, 1) if critique)
