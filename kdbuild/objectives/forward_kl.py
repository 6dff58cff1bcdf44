"""Forward KL: the student's whole distribution is pulled over the teacher's at every trained token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdbuild.objectives import Objective, Signals, Stored, Term
from kdbuild.teachers import Reading, Signal

if TYPE_CHECKING:
    import torch


class ForwardKl(Objective):
    """Mean over tokens of temperature^2 * KL(teacher || student), both at the temperature; 0 where they are equal.

    Of stored `top-k` signals, and with `top_k`, both are reduced to the teacher's likeliest tokens and the mass of all others, and the
    temperature softens what is left. Of `sampled` ones it is the cross-entropy of teacher and student: not 0 where they are equal.
    """

    source: ClassVar[str | None] = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, section 2"
    block: ClassVar[str | None] = "loss.fkl"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LOGITS})

    kind: Literal["forward-kl"] = "forward-kl"
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions; the factor temperature^2 keeps the size of the gradient."""
    top_k: int | None = Field(None, ge=1)
    """Reduces both distributions to the teacher's likeliest tokens and the mass of all others; stored signals must hold as many."""

    def refuses(self, reading: Reading) -> str | None:
        """Return why stored signals of this reading are not what it matches."""
        if reading.form == "hidden":
            return "objective `forward-kl` matches distributions, and these are hidden states"
        if self.top_k is not None and (reading.form, reading.k) != ("top-k", self.top_k):
            return f"objective `forward-kl` has `top_k: {self.top_k}`, and these are {_words(reading)}"
        if reading.form == "sampled" and self.temperature != 1:
            return (
                f"objective `forward-kl` has `temperature: {self.temperature:g}`, and drawn tokens say nothing of other temperatures than 1"
            )
        return None

    def term(self, signals: Signals) -> Term:
        """Return the sum of the divergence over the trained tokens, in nats."""
        if signals.stored is not None:
            return Term(self._stored(signals, signals.stored), len(signals.labels_T))
        from kdbuild.objectives import _chunked, _reduced

        if signals.teacher is None:
            raise TypeError("forward-kl declares that it needs the teacher's logits and was given none")
        if self.top_k is not None:
            total = _reduced.online_top_k_kl(signals.student, signals.teacher, self.top_k, self.temperature)
        else:
            total = _chunked.forward_kl(signals.student, signals.teacher, self.temperature)
        return Term(total, len(signals.labels_T))

    def _stored(self, signals: Signals, stored: Stored) -> torch.Tensor:
        from kdbuild.objectives import _reduced

        if stored.full_CV is not None:
            return _reduced.full_kl(signals.student, stored.full_CV, self.temperature)
        if stored.named is None:
            raise TypeError("forward-kl was given stored signals that are no distributions")
        if stored.reading.form == "sampled":
            return _reduced.sampled_cross_entropy(signals.student, stored.named)
        return _reduced.top_k_kl(signals.student, stored.named, self.temperature)


def _words(reading: Reading) -> str:
    return "whole distributions" if reading.form == "full" else f"{reading.form} with k = {reading.k}"
