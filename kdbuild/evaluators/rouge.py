"""How much of the teacher's answer a model writes by itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.errors import StageError
from kdbuild.evaluators import Evaluator, Measured, Subject
from kdbuild.records import Row

# A word is a run of letters and digits, as in the original for ASCII text. Scripts written without spaces (Thai, Lao, Khmer, Burmese,
# Japanese, Chinese) would be one word a sentence, and rouge-score's own tokenizer would drop them: there each character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


class _Words:
    """What rouge-score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


class Rouge(Evaluator):
    """ROUGE-L F1 between the model's greedy answer and the teacher's, averaged over the held-out rows.

    With m and n words and a longest common subsequence of l, P = l/m, R = l/n and F1 = 2PR/(P+R). The teacher is measured too where it
    has a network: what it writes now against what it wrote then is the most a student can reach.
    """

    kind: Literal["rouge"] = "rouge"
    max_new_tokens: int = Field(64, ge=1)
    """Tokens the model may write for a row. Take what the teacher was allowed."""

    block: ClassVar[str | None] = "eval.text"
    source: ClassVar[str | None] = "Lin 2004, equations 2 to 4, with beta 1"
    needs_packages: ClassVar[tuple[tuple[str, str], ...]] = (("rouge_score", "rouge-score>=0.1.2"),)
    directions: ClassVar[dict[str, str]] = {"rouge_l_f1": "higher"}

    def measure(self, subject: Subject, rows: Sequence[Row], teacher: Subject | None) -> Measured:
        """Return `rouge_l_f1`, and the same for each row with the text that was written.

        Raises:
            StageError: no row has a teacher's answer.
        """
        from rouge_score.rouge_scorer import RougeScorer

        from kdbuild.evaluators._writing import write

        answered = [row for row in rows if row.answer is not None]
        if not answered:
            raise StageError(f"none of the {len(rows)} held-out rows has a teacher's answer to compare with")
        texts = write(subject, answered, self.max_new_tokens)
        scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        f1 = {row.id: float(scorer.score(row.answer, texts[row.id])["rougeL"].fmeasure) for row in answered}
        return Measured(
            metrics={"rouge_l_f1": sum(f1.values()) / len(f1)},
            rows={row: {"rouge_l_f1": value} for row, value in f1.items()},
            texts=texts,
        )
