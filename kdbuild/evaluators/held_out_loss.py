"""How surprised a model is by the teacher's answers to prompts nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.evaluators import Evaluator, Measured, Subject
from kdbuild.records import Row


class HeldOutLoss(Evaluator):
    """Mean of -ln p(token | what comes before it) over every trained token of the held-out rows.

    Each token counts the same, so a long answer weighs more than a short one. exp() of it is the perplexity.
    """

    kind: Literal["held-out-loss"] = "held-out-loss"
    max_tokens: int = Field(1024, ge=8)
    """Longest row that is scored, in tokens; a longer one is cut at its end."""

    block: ClassVar[str | None] = "eval.loss"
    source: ClassVar[str | None] = "Timiryasov and Tastet 2023 (validation loss)"
    directions: ClassVar[dict[str, str]] = {"held_out_loss_nats_per_token": "lower"}

    def measure(self, subject: Subject, rows: Sequence[Row], teacher: Subject | None) -> Measured:
        """Return `held_out_loss_nats_per_token`, and each row's own mean as `nll_nats_per_token`."""
        from kdbuild.evaluators._losses import nll_sums

        sums = nll_sums(subject, rows, self.max_tokens)
        mean = sum(total for total, _ in sums.values()) / sum(count for _, count in sums.values())
        return Measured(
            metrics={"held_out_loss_nats_per_token": mean},
            rows={row: {"nll_nats_per_token": total / count, "num_trained_tokens": count} for row, (total, count) in sums.items()},
        )
