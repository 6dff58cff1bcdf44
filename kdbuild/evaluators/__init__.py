"""Evaluators: how a model is scored on held-out rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
    """In evaluation mode, on the device it runs on."""
    tokenizer: PreTrainedTokenizerBase
    encode: Callable[[Row, int], tuple[list[int], list[bool]]]
    """A row and the most tokens it may have to (token ids, whether each is trained), as training cuts it."""
    batch_tokens: int = 4096
    """Tokens of one forward pass, padding included; a longer row is a batch of its own. A knob: it may move low bits only."""


@dataclass(frozen=True)
class Measured:
    """What an evaluator found out about one subject."""

    metrics: dict[str, float]
    """The metrics named in `directions`, over all rows."""
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    """Row id to what was measured on that row alone; a row that could not be measured is absent."""
    texts: dict[str, str] = field(default_factory=dict)
    """Row id to what the subject wrote, where the evaluator let it write."""


class Evaluator(Kind):
    """Base of every evaluator. Lower or higher is better, as `directions` says for each metric."""

    family: ClassVar[str] = "evaluators"
    needs: ClassVar[frozenset[Signal]] = frozenset()
    """What the teacher must give; then `teacher` is loaded beside the subject."""
    directions: ClassVar[dict[str, str]]
    """Metric name (with its unit) to `lower` or `higher`: which is better."""

    @abstractmethod
    def measure(self, subject: Subject, rows: Sequence[Row], teacher: Subject | None) -> Measured:
        """Measure `subject` on the held-out rows, of which there is at least one. `teacher` is None where not needed.

        Raises:
            StageError: the rows or the two models cannot be compared.
        """
