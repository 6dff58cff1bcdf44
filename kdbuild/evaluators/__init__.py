"""Evaluators: how a model is scored on held-out rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdbuild.kinds import Kind
from kdbuild.records import Row
from kdbuild.teachers import Signal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Subject:
    """A loaded model on trial."""

    name: str
    """`init`, a phase's name, or `teacher`."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class Evaluator(Kind):
    """Base of every evaluator. Lower or higher is better, as `directions` says for each metric."""

    family: ClassVar[str] = "evaluators"
    needs: ClassVar[frozenset[Signal]] = frozenset()
    """What the teacher must give; then `teacher` is loaded beside the subject."""
    directions: ClassVar[dict[str, str]]
    """Metric name (with its unit) to `lower` or `higher`: which is better."""

    @abstractmethod
    def measure(self, subject: Subject, rows: Sequence[Row], teacher: Subject | None) -> dict[str, float]:
        """Return the metrics named in `directions` over the held-out rows. `teacher` is None where not needed or where there is none."""
