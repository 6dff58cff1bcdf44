"""The teacher reads the answer, and what it would have said at each token is kept."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.elicitors._reading import ReadsAnswers
from kdbuild.teachers import Reading


class Logits(ReadsAnswers):
    """Store the next-token distributions of each row's answer, for objectives that match them without the teacher.

    Rows are keyed by id and by the token ids of the answer, so they may be trained with another prompt. A teacher with another tokenizer
    is aligned with the student's when the student is trained (`training/alignment.py`), where both tokenizers are there.
    """

    kind: Literal["logits"] = "logits"
    source: ClassVar[str | None] = (
        "Xu et al. 2024 (2402.13116), Eq. 6; sampled: Anshumann et al. 2025, Sparse Logit Sampling, ACL 2025 long.885; "
        "several teachers: Wan et al. 2024, FuseLLM, arXiv:2401.10491"
    )
    block: ClassVar[str | None] = "gen.logits"

    form: Literal["full", "top-k", "sampled"] = "top-k"
    """`top-k`: the likeliest tokens, and the mass of all others; `sampled`: tokens drawn from the distribution, an unbiased estimate of
    it; `full`: all of it, in float16, which is large."""
    k: int = Field(64, ge=1, le=4096)
    """Tokens kept at each position (`top-k`), or drawn (`sampled`, where 12 do)."""
    fuse: Literal["average", "min-cross-entropy"] = "average"
    """What several teachers (`by: [a, b]`) are to a student: for each row, `min-cross-entropy` takes the one to whom the answer is
    likeliest, and `average` weighs each by exp(-cross-entropy of the answer)."""

    @property
    def reading(self) -> Reading:
        """The distributions asked for."""
        return Reading(self.form, 0 if self.form == "full" else self.k)

    @property
    def fusion(self) -> str | None:
        """How several teachers become one."""
        return self.fuse if len(self.actors) > 1 else None
