"""Supervised fine-tuning: the student learns the teacher's answers token by token."""

from __future__ import annotations

from typing import ClassVar, Literal

from kdbuild.objectives import Objective, Signals, Term


class Sft(Objective):
    """Cross-entropy of the trained tokens: mean over tokens of -log q(token)."""

    source: ClassVar[str | None] = "Kim and Rush 2016, Sequence-Level Knowledge Distillation, arXiv:1606.07947, equation 5"
    block: ClassVar[str | None] = "loss.sft"

    kind: Literal["sft"] = "sft"

    def term(self, signals: Signals) -> Term:
        """Return the sum of -log q(token) over the trained tokens, in nats."""
        from kdbuild.objectives._chunked import cross_entropy

        return Term(cross_entropy(signals.student, signals.labels_T), len(signals.labels_T))
