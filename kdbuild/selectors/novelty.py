"""Drop rows whose words are mostly another's, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.elicitors._novelty import Pool
from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Verdict, drop
from kdbuild.selectors._greedy import Greedy
from kdbuild.selectors._text import Part, meaning, turns

_REASONS: dict[Part, str] = {
    "prompt": "prompt worded like a kept row's",
    "answer": "answer worded like a kept row's",
    "both": "worded like a kept row",
}


class Novelty(Greedy):
    """Keeps a row if its ROUGE-L F-measure with every row kept before it, and with every row of the pools, is below `max_rouge_l`.

    Values and decisions are those of the package rouge-score, without a stemmer, for texts in ASCII. That package drops all other letters;
    here words of any script count, and of scripts without spaces each character. A dropped row names the most similar of the kept ones.
    """

    source: ClassVar[str | None] = "Wang et al. 2022, Self-Instruct (2212.10560), section 2.2; Lin 2004, ROUGE-L, Eq. 2 to 4"
    block: ClassVar[str | None] = "select.novelty"

    kind: Literal["novelty"] = "novelty"
    max_rouge_l: float = Field(0.7, gt=0, le=1)
    """F-measure at and above which a row is dropped."""
    of: Part = "prompt"
    """What is compared: the `prompt`, the `answer`, or `both`, each without system turns."""

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; a dropped row names the kept one most like it, with their F-measure to four decimals."""
        verdicts = [KEEP] * len(rows)
        taken = [(i, row.id, meaning(row, self.of)) for i, row in self.taken(rows, scene) if turns(row, self.of)]
        pool = Pool(self.max_rouge_l, (text for _, _, text in taken))
        for i, name, text in taken:
            near = pool.nearest(text) if i >= 0 else None
            if near is None:
                pool.add(name, text)
            else:
                verdicts[i] = drop(_REASONS[self.of], because_of=near[0], score=round(near[1], 4))
        return verdicts
