"""What scorers ask a classifier, and what they make of its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from kdbuild.elicitors import Answered, Rejected, Scene
from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.teachers import Ask

_NO_SCORES = Rejected("no scores in the answer")


def ask(scene: Scene, row: str, shown: Literal["text", "pair", "chat"], messages: Sequence[Message]) -> Ask:
    """Return the question what some messages are."""
    return Ask(row, tuple(Message(turn.role, turn.content) for turn in messages), classify=shown, to=scene.actor)


def pair(scene: Scene, row: str, first: str, second: str) -> Ask:
    """Return the question what two texts are to each other."""
    return ask(scene, row, "pair", (Message("user", first), Message("assistant", second)))


def output_of(answered: Answered) -> float | Rejected | None:
    """Return the raw output of a model that has only one; None of a model with several labels."""
    scores = answered.answer.label_scores
    return _NO_SCORES if not scores else scores[0] if len(scores) == 1 else None


def expectation(answered: Answered, worth: Mapping[str, float], who: str) -> float:
    """Return the sum over labels of probability x worth; labels not named are worth 0.

    Raises:
        StageError: the model has no such label; `who` is the scorer.
    """
    labels = answered.answer.labels
    probabilities = dict(zip(map(str.casefold, labels), map(math.exp, answered.answer.label_scores), strict=True))
    unknown = [label for label in worth if label.casefold() not in probabilities]
    if unknown:
        raise StageError(f"scorer `{who}` is about label `{unknown[0]}`, which its model has not", hint=f"its labels: {', '.join(labels)}")
    return math.fsum(probabilities[label.casefold()] * value for label, value in worth.items())


def no_label(answered: Answered, who: str, field: str) -> StageError:
    """Return what to say where a model has several labels and none is named."""
    labels = ", ".join(answered.answer.labels)
    return StageError(f"scorer `{who}` does not say which label of its model counts", hint=f"name it by `{field}`; its labels: {labels}")
