"""Drop rows that share most of their wording with another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Verdict, drop
from kdbuild.selectors._greedy import Greedy
from kdbuild.selectors._text import Part, meaning, turns

_REASONS: dict[Part, str] = {
    "prompt": "prompt shares most of its wording with a kept row's",
    "answer": "answer shares most of its wording with a kept row's",
    "both": "shares most of its wording with a kept row",
}


class MinhashDedup(Greedy):
    """Keeps a row if its runs of words have a Jaccard similarity below `max_jaccard` with those of every row kept before it.

    Which pairs are compared is found by MinHash in bands, and each is decided by the sets themselves: what is dropped is as similar as
    stated, and a pair at the limit escapes once in 10,000 times, a more similar one less. A dropped row names the most similar kept one.
    """

    source: ClassVar[str | None] = "Broder 1997; Lee et al. 2021 (2107.06499), NearDup, section 4.2; hashing by rensa"
    block: ClassVar[str | None] = "select.dedup"

    kind: Literal["minhash-dedup"] = "minhash-dedup"
    max_jaccard: float = Field(gt=0, le=1, examples=[0.7])
    """Jaccard similarity at and above which a row is dropped; 0.7 to 0.8 is usual."""
    num_words: int = Field(3, ge=1)
    """Words of a run; 5 is usual for long texts."""
    of: Part = "both"
    """What is compared: the `prompt`, the `answer`, or `both`, each without system turns."""

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; a dropped row names the kept one most like it, with their similarity to four decimals.

        Beside the rows it holds 8 bytes for each word of theirs, and about a kilobyte a row. Texts that all share a large part, such as a
        template, are compared each with each: leave that part out of what is compared (`of`).
        """
        from kdbuild.selectors._shingles import Index, jaccard, runs_of, sets_of

        verdicts = [KEEP] * len(rows)
        taken = list(self.taken(rows, scene))
        runs = runs_of((_text(row, self.of) for _, row in taken), self.num_words)
        index, set_of = Index(runs, self.max_jaccard), sets_of(runs)
        for at, signature in index.signed(index.like_any()):
            i = taken[at][0]
            possible = index.possible(signature) if i >= 0 else ()
            alike = [(-jaccard(set_of(at), set_of(one)), taken[one][1].id) for one in possible]
            nearest = min(alike, default=(0.0, ""))
            if -nearest[0] >= self.max_jaccard:
                verdicts[i] = drop(_REASONS[self.of], because_of=nearest[1], score=round(-nearest[0], 4))
            else:
                index.add(at, signature)
        return verdicts


def _text(row: Row, of: Part) -> str:
    return meaning(row, of) if turns(row, of) else ""
