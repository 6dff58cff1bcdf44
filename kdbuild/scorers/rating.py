"""A teacher's rating of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from kdbuild import elicitors
from kdbuild.elicitors import Rejected, Scene, _verdict
from kdbuild.elicitors._rating import Rates, mean, overall
from kdbuild.records import Row
from kdbuild.scorers import Judging, Scoring, _likelihood
from kdbuild.teachers import Signal


class Rating(Rates, Judging):
    """Rate answers from 1 to `scale`, overall or by aspects, as the operator `score` does: the expected rating where the teacher says
    how likely each is, else the one it writes. Several teachers are a panel, whose ratings are averaged.

    Its value is the overall rating: the aspect `overall`, else the mean of the aspects, each of which is then a value of its own.
    """

    kind: Literal["rating"] = "rating"
    source: ClassVar[str | None] = (
        "Chen et al. 2023 (2307.08701), section 3: keep what the teacher rates high; "
        "Liu et al. 2023 (2303.16634), equation 1: the expected rating"
    )
    block: ClassVar[str | None] = "gen.score"
    prompts: ClassVar[tuple[str, ...]] = ("rate",)
    asks_once: ClassVar[bool] = True

    verdict: _verdict.Reads = "auto"
    """`choices` reads how likely the teacher finds each rating, `text` what it writes; `auto` the former where the teacher can say."""

    @property
    def needs(self) -> frozenset[Signal]:
        """Choices where the spec insists on them, else text."""
        return frozenset({Signal.CHOICES if self.verdict == "choices" else Signal.TEXT})

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what the teacher is shown."""
        return ("prompt", "answer|candidates", *(["gold"] if self.reference else []))

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return its own value and, of several aspects, theirs."""
        return ("", *(self.aspects if len(self.aspects) > 1 else ()))

    @property
    def asks_each(self) -> int:  # type: ignore[override]
        """A question for each aspect, to each teacher."""
        return len(self.aspects) * len(self.actors)

    def _packaged(self, name: str) -> Path:
        return Path(elicitors.__file__).parent / "_score" / f"{name}.j2"

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Ask for every aspect at once."""
        if self.reference and row.gold is None:
            return Rejected("no gold answer to show")
        if _likelihood.answer_of(row) is None:
            return Rejected("no answer to rate")
        options = _verdict.grades(self.scale)
        values = {**self.shown(row, scene), "critique": ""}
        questions = {aspect: self.render(scene, row.id, about, "rate") for aspect, about in self.by_aspect(values)}
        answered = yield [
            _verdict.put(self, scene, row.id, question, options, reads=self.verdict, to=judge)
            for question in questions.values()
            for judge in self.actors
        ]
        ratings: dict[str, float] = {}
        for i, aspect in enumerate(questions):
            verdict = _verdict.read_all(answered[i * len(self.actors) : (i + 1) * len(self.actors)], options)
            if isinstance(verdict, Rejected):
                return verdict
            ratings[aspect] = mean([_verdict.expected(verdict)])
        return {"": overall(ratings), **(ratings if len(ratings) > 1 else {})}
