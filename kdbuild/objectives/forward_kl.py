"""Forward KL: the student's whole distribution is pulled over the teacher's at every trained token."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.objectives import Objective, Signals, Term
from kdbuild.teachers import Signal


class ForwardKl(Objective):
    """Mean over tokens of temperature^2 * KL(teacher || student), both at the temperature; 0 where they are equal."""

    source: ClassVar[str | None] = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2"
    block: ClassVar[str | None] = "loss.fkl"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LOGITS})

    kind: Literal["forward-kl"] = "forward-kl"
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions; the factor temperature^2 keeps the size of the gradient."""

    def term(self, signals: Signals) -> Term:
        """Return the sum of the divergence over the trained tokens, in nats."""
        from kdbuild.objectives._chunked import forward_kl

        if signals.teacher is None:
            raise TypeError("forward-kl declares that it needs the teacher's logits and was given none")
        return Term(forward_kl(signals.student, signals.teacher, self.temperature), len(signals.labels_T))
