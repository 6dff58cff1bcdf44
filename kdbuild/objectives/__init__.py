"""Objectives: what the student is trained to match."""

# Shape suffixes: T trained positions of one micro-batch (masked ones are gone), D student width, E teacher width, V vocabulary, K tokens
# that a teacher names at a position, C positions of one chunk, H width of a stored state, A attention heads.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from kdbuild.kinds import Kind
from kdbuild.teachers import Reading, Signal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Head:
    """A language-model head and what it is applied to: logits are `hidden_TD @ weight_VD.T`, and never exist as a whole."""

    hidden_TD: torch.Tensor
    """States at the positions that predict a trained token."""
    weight_VD: torch.Tensor


@dataclass(frozen=True)
class Stored:
    """What a teacher said of the trained positions when it read the rows: one of `named`, `full_CV` and `states`, as `reading` says."""

    reading: Reading
    named: Named | None = None
    """Of `top-k` and `sampled`."""
    full_CV: Callable[[slice], torch.Tensor] | None = None
    """Of `full`: takes positions, and returns their log-probabilities (float32), read when they are asked for."""
    states: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """Of `hidden`: layer to states (TH)."""
    maps: Mapping[int, Sequence[torch.Tensor]] = field(default_factory=dict)
    """Of `hidden` with attention: layer to a map a row of the micro-batch (A, positions, positions)."""


@dataclass(frozen=True)
class Named:
    """Distributions of which some tokens are named."""

    ids_TK: torch.Tensor
    """Ids of the tokens. In `top-k` they differ at each position, but for entries of no probability, which fill a position up."""
    logprobs_TK: torch.Tensor
    """Their log-probabilities, nats; of `sampled`: the logarithm of a draw's weight."""
    tail_T: torch.Tensor
    """Logarithm of the mass of all other tokens, nats; -inf where there is none."""


@dataclass(frozen=True)
class Signals:
    """What one micro-batch offers an objective."""

    student: Head
    labels_T: torch.Tensor
    """Ids of the tokens to be predicted."""
    teacher: Head | None
    """The teacher at the same positions, without gradient; None where no objective needs it."""
    stored: Stored | None = None
    """What the teacher said of these positions when it read the rows; None where the objective asks for signals `online`."""


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

    @property
    def is_online(self) -> bool:
        """Whether it asks a teacher while the student trains."""
        return bool(self.needs) and self.signal != "stored"

    @property
    def is_stored(self) -> bool:
        """Whether it reads what a teacher said before."""
        return bool(self.needs) and self.signal == "stored"

    def refuses(self, reading: Reading) -> str | None:
        """Return why stored signals of this reading are not what it matches; None where they are."""
        return f"objective `{self.kind}` reads no stored signals"

    @abstractmethod
    def term(self, signals: Signals) -> Term:
        """Return the sum of the loss over a micro-batch, unweighted."""
