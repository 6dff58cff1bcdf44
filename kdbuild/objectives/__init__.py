"""Objectives: what the student is trained to match."""

# Shape suffixes: T trained positions of one micro-batch (masked ones are gone), D student width, E teacher width, V vocabulary.

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from kdbuild.kinds import Kind
from kdbuild.teachers import Signal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Head:
    """A language-model head and what it is applied to: logits are `hidden_TD @ weight_VD.T`, and never exist as a whole."""

    hidden_TD: torch.Tensor
    """States at the positions that predict a trained token."""
    weight_VD: torch.Tensor


@dataclass(frozen=True)
class Signals:
    """What one micro-batch offers an objective."""

    student: Head
    labels_T: torch.Tensor
    """Ids of the tokens to be predicted."""
    teacher: Head | None
    """The teacher at the same positions, without gradient; None where no objective needs it."""


@dataclass(frozen=True)
class Term:
    """A sum over a micro-batch and how many things were summed; the loop divides by the global count of the optimiser step."""

    total: torch.Tensor
    """Scalar, in nats, differentiable."""
    count: int
    """Number of tokens (or sequences, pairs, lists) summed over."""


class Objective(Kind):
    """Base of every objective."""

    family: ClassVar[str] = "objectives"
    needs: ClassVar[frozenset[Signal]] = frozenset()
    """What the teacher must give while the student trains."""

    weight: float = 1.0
    """Share of this term in the loss, applied after each term was divided by its global count."""
    teacher: str | None = None
    """Name of the teacher to match, from params.yaml; absent: the spec's."""
    signal: Literal["online", "stored"] | None = None
    """Where the teacher's signals come from: `online`, while the student trains, or `stored` by a `logits` or `hidden` operator of a phase
    so far; absent: stored if there is one."""

    @abstractmethod
    def term(self, signals: Signals) -> Term:
        """Return the sum of the loss over a micro-batch, unweighted."""
