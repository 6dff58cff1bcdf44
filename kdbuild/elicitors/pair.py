"""A preferred and a less preferred answer, out of a row's candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.elicitors import Conversation, Elicitor, Rejected, Scene
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._replies import same_words
from kdbuild.elicitors._rows import text_of
from kdbuild.records import Row
from kdbuild.teachers import Signal

_NUM_DECIMALS = 6


class _Item:
    """An answer that can be on a side of the pair."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.text = str(values.get("text") or "")
        self.score: float | None = values.get("score")
        self.ended = values.get("ended") is not False

    @property
    def known_score(self) -> float:
        """The score of one that is known to have one."""
        return 0.0 if self.score is None else self.score


class Pair(Elicitor):
    """Make a pair of answers, and the better one the turn that the student learns. Asks nobody.

    Best by score and worst by score is the usual pair; worst at random is UltraFeedback's; gold against a sample of the student is SPIN's.
    What does not tell two answers apart (the same words, the same score) is rejected.
    """

    kind: Literal["pair"] = "pair"
    source: ClassVar[str | None] = (
        "Tunstall et al. 2023, Zephyr (2310.16944), section 3.2: best against random; Yuan et al. 2024 (2401.10020), section 2.3: highest "
        "against lowest; Chen et al. 2024, SPIN (2401.01335), algorithm 1: gold against the student"
    )
    block: ClassVar[str | None] = "op.pair"
    asks_once: ClassVar[bool] = True

    best: Literal["max-score", "ranking", "gold"] = "max-score"
    """The chosen one: the highest `score` (the first of equals), the first of `ranking`, or the row's right answer."""
    worst: Literal["min-score", "ranking", "random"] = "min-score"
    """The rejected one: the lowest `score`, the last of `ranking`, or one drawn from those that are not as good as the best."""
    min_gap: float = Field(0.0, ge=0)
    """Least difference of the two scores; above 0 both need one."""
    weigh: Literal["none", "gap"] = "none"
    """Whether the row's weight becomes the difference of the scores."""
    lists: bool = False
    """Whether the row also gets `ranking`: its candidates from best to worst, by score where there is no ranking yet."""

    @model_validator(mode="after")
    def _has_scores(self) -> Self:
        if self.best == "gold" and (self.min_gap > 0 or self.weigh == "gap"):
            raise PydanticCustomError("pair_gold", "the right answer has no score: `min_gap` and `weigh` go with another `best`")
        return self

    @property
    def needs(self) -> frozenset[Signal]:
        """Nothing: it asks nobody."""
        return frozenset()

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what the pair is made of."""
        sides = {"ranking": "ranking", "gold": "gold|answer"}
        return ("prompt", "candidates", *(name for side, name in sides.items() if side in (self.best, self.worst)))

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the pair, and what comes with it."""
        more = [*(["ranking"] if self.lists else []), *(["weight"] if self.weigh == "gap" else [])]
        return ("answer", "chosen", "rejected", *more)

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=0)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask nothing; return the row with its pair."""
        yield from ()
        made = self._made(row)
        return Rejected(made, text_of(row.prompt)) if isinstance(made, str) else [made]

    def _made(self, row: Row) -> Row | str:
        """Return the row with its pair, or why there is none."""
        items = [_Item(one) for one in row.candidates]
        scored = sorted((i for i, item in enumerate(items) if item.score is not None), key=lambda i: (-items[i].known_score, i))
        ranked = [i for i in row.ranking if 0 <= i < len(items)]
        orders = {"score": scored, "ranking": ranked}
        chosen = self._best(row, items, orders)
        if isinstance(chosen, str):
            return chosen
        rejected = self._worst(row, items, orders, chosen)
        if isinstance(rejected, str):
            return rejected
        problem = self._alike(chosen, rejected)
        return problem or self._row(row, ranked or scored, chosen, rejected)

    # --- the two sides -------------------------------------------------------------------------------------------------------

    def _best(self, row: Row, items: Sequence[_Item], orders: Mapping[str, list[int]]) -> _Item | str:
        if self.best == "gold":
            gold = row.gold if row.gold is not None else row.answer
            return _Item({"text": gold}) if gold and gold.strip() else "no right answer"
        order = orders[self.best.removeprefix("max-")]
        return items[order[0]] if order else _lacking(self.best)

    def _worst(self, row: Row, items: Sequence[_Item], orders: Mapping[str, list[int]], chosen: _Item) -> _Item | str:
        if self.worst != "random":
            order = orders[self.worst.removeprefix("min-")]
            return items[order[-1]] if order else _lacking(self.worst)
        # Against the right answer every other one is worse; else what stands below the best in the order that the best comes from.
        below = items if self.best == "gold" else [items[i] for i in orders[self.best.removeprefix("max-")]]
        worse = [item for item in below if self._alike(chosen, item) is None]
        return max(worse, key=lambda item: canonical.fraction("pair", row.id, item.text)) if worse else "no candidate that is worse"

    def _alike(self, chosen: _Item, rejected: _Item) -> str | None:
        """Return why two answers are no pair, or None where they are."""
        if same_words(chosen.text, rejected.text):
            return "both answers are the same"
        by_gap = self.min_gap > 0 or self.weigh == "gap"
        if chosen.score is None or rejected.score is None:
            return "no score to tell the gap by" if by_gap else None
        gap = chosen.score - rejected.score
        if self.best == "max-score" and gap <= 0:
            return "both answers have the same score"
        return "the gap between the scores is too small" if by_gap and (gap <= 0 or gap < self.min_gap) else None

    def _row(self, row: Row, order: Sequence[int], chosen: _Item, rejected: _Item) -> Row:
        made = replace(row, messages=row.prompt, chosen=chosen.text, rejected=rejected.text)
        if self.weigh == "gap":
            made = replace(made, weight=round(chosen.known_score - rejected.known_score, _NUM_DECIMALS))
        if self.lists:
            made = replace(made, ranking=tuple(order))
        return made.with_answer(chosen.text, ended=chosen.ended, keys=[])


def _lacking(side: str) -> str:
    return "no ranking of the candidates" if side == "ranking" else "no candidate with a score"
