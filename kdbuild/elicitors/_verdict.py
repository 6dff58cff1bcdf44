"""Verdicts of a judge: which of a few options, read from how likely each is or, where a teacher does not say, from what it writes.

A verdict is a distribution over the options. A written one has all of it on one option, so what is made of it is the same:
a preference is a probability, a rating the expected value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import create_model

from kdbuild.elicitors import Answered, Rejected, Scene, _structured
from kdbuild.elicitors._asking import Asking, Questioning
from kdbuild.teachers import Answer, Ask, Signal

Reads = Literal["auto", "choices", "text"]
"""How verdicts are read: from log-probabilities where the judge gives them (`auto`), always, or never."""
YES_NO = ("yes", "no")
FIRST_SECOND = ("A", "B")
NUM_DECIMALS = 6
"""What comes of verdicts is rounded to this: log-probabilities of a network differ in their low bits from machine to machine."""


class Judging(Asking):
    """Base of operators that ask for verdicts. Several judges with `combine: consensus` are a panel: their verdicts are averaged."""

    verdict: Reads = "auto"
    """`choices` reads how likely the judge finds each option, `text` what it writes; `auto` the former where the judge can say."""

    @property
    def combines(self) -> bool:  # type: ignore[override]
        """Whether it deals with several actors itself: a panel is part of one conversation."""
        return self.combine == "consensus"

    @property
    def needs(self) -> frozenset[Signal]:
        """Choices where the spec insists on them, else text."""
        return frozenset({Signal.CHOICES if self.verdict == "choices" else Signal.TEXT})

    def judges(self, scene: Scene) -> tuple[str, ...]:
        """Return whom each question goes to."""
        return self.actors if self.combines else (scene.actor,)

    def put(self, scene: Scene, row: str, question: str, options: Sequence[str]) -> list[Ask]:
        """Return a question for a verdict, once for each judge."""
        return [put(self, scene, row, question, options, reads=self.verdict, to=judge) for judge in self.judges(scene)]


def put(
    operator: Questioning,
    scene: Scene,
    row: str,
    question: str,
    options: Sequence[str],
    *,
    reads: Reads = "auto",
    to: str | None = None,
) -> Ask:
    """Return a question whose answer is one of `options`; `to` is the actor that answers it, else the scene's."""
    to = to or scene.actor
    if reads == "choices" or (reads == "auto" and Signal.CHOICES in scene.gives.get(to, ())):
        return operator.ask(scene, row, question, to=to, choices=tuple(options), max_new_tokens=1, temperature=0.0, top_p=1.0)
    return operator.ask(scene, row, question, to=to, schema=_structured.schema_of(_form(tuple(options))))


def read(answer: Answer, options: Sequence[str]) -> tuple[float, ...] | Rejected:
    """Return how probable each option is: `softmax` over the options' log-probabilities, or 1 for the one that was written.

    A written verdict that is not JSON of the form asked for, with one of the options in it, is rejected.
    """
    if answer.logprobs:
        if len(answer.logprobs) != len(options):
            return Rejected("another number of choices than asked for", answer.text)
        return softmax(answer.logprobs)
    said = _structured.read(_form(tuple(options)), answer)
    if isinstance(said, Rejected):
        return said
    chosen = getattr(said, "verdict", None)
    return tuple(float(option == chosen) for option in options)


def read_all(answered: Sequence[Answered], options: Sequence[str]) -> tuple[float, ...] | Rejected:
    """Return the mean verdict of a panel; the first that cannot be read rejects it."""
    found: list[tuple[float, ...]] = []
    for one in answered:
        verdict = read(one.answer, options)
        if isinstance(verdict, Rejected):
            return verdict
        found.append(verdict)
    return tuple(sum(values) / len(found) for values in zip(*found, strict=True))


def softmax(logprobs: Sequence[float]) -> tuple[float, ...]:
    """Return probabilities that sum to 1 in the ratio that log-probabilities (nats) say."""
    highest = max(logprobs)
    shares = [math.exp(value - highest) for value in logprobs]
    total = math.fsum(shares)
    return tuple(share / total for share in shares)


def preference(given: Sequence[float], swapped: Sequence[float]) -> tuple[float, bool]:
    """Return the probability that the one shown first in `given` is better, and whether both orders say the same.

    `given` and `swapped` are verdicts over (first, second) of the two orders. A judge that prefers a place, not a text, gives 0.5.
    """
    first = (given[0] + swapped[1]) / 2
    consistent = (given[0] - given[1]) * (swapped[1] - swapped[0]) > 0 or (given[0] == given[1] and swapped[0] == swapped[1])
    return first, consistent


def grades(scale: int) -> tuple[str, ...]:
    """Return the options of a rating from 1 to `scale`.

    From 10 on they end with a full stop: else `1` is also how `10` begins, and its probability holds that of `10`.
    """
    return tuple(f"{value}." if scale > 9 else f"{value}" for value in range(1, scale + 1))


def expected(verdict: Sequence[float]) -> float:
    """Return the expected value of a rating: options 1, 2, ... weighted by their probabilities."""
    return math.fsum(value * share for value, share in enumerate(verdict, 1))


@lru_cache(maxsize=256)
def _form(options: tuple[str, ...]) -> Any:
    one_of: Any = Literal[options]
    return create_model("Verdict", verdict=(one_of, ...))
