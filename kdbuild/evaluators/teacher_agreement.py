"""How near a model's next-token distribution is to the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.errors import StageError
from kdbuild.evaluators import Evaluator, Measured, Subject
from kdbuild.records import Row
from kdbuild.teachers import Signal


class TeacherAgreement(Evaluator):
    """KL(teacher || model) and the share of tokens where both find the same word likeliest, over the trained tokens of the held-out rows.

    KL is sum_v p_T(v) (ln p_T(v) - ln p_S(v)) over the whole vocabulary at temperature 1, given the same text so far. The teacher against
    itself gives 0 and 1.
    """

    kind: Literal["teacher-agreement"] = "teacher-agreement"
    max_tokens: int = Field(1024, ge=8)
    """Longest row that is scored, in tokens; a longer one is cut at its end."""

    block: ClassVar[str | None] = "eval.kl"
    source: ClassVar[str | None] = "Liu et al. 2023a (LLM-QAT); Kullback and Leibler 1951"
    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.LOGITS})
    directions: ClassVar[dict[str, str]] = {"kl_to_teacher_nats_per_token": "lower", "top1_agreement_frac": "higher"}

    def measure(self, subject: Subject, rows: Sequence[Row], teacher: Subject | None) -> Measured:
        """Return `kl_to_teacher_nats_per_token` and `top1_agreement_frac`, and the same for each row.

        Raises:
            StageError: there is no teacher, or its tokenizer cuts a row into other tokens.
        """
        from kdbuild.evaluators._losses import divergence_sums

        if teacher is None:
            raise StageError(
                "teacher-agreement needs the teacher's logits, and this teacher gives none",
                hint="take a teacher of a kind with weights here (`transformers`), or leave teacher-agreement out",
            )
        sums = divergence_sums(subject, teacher, rows, self.max_tokens)
        count = sum(row.count for row in sums.values())
        return Measured(
            metrics={
                "kl_to_teacher_nats_per_token": sum(row.kl for row in sums.values()) / count,
                "top1_agreement_frac": sum(row.agreed for row in sums.values()) / count,
            },
            rows={
                id: {"kl_to_teacher_nats_per_token": row.kl / row.count, "top1_agreement_frac": row.agreed / row.count}
                for id, row in sums.items()
            },
        )
