"""A judge puts a row's candidates, or its passages, in order."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Answered, Conversation, Rejected, Scene, _structured, _tournament
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._verdict import FIRST_SECOND, NUM_DECIMALS, Judging, preference, read_all
from kdbuild.records import Row
from kdbuild.teachers import Ask

_NOUNS = {"candidates": "Answer", "context": "Passage"}
_CRITERIA = {"candidates": "is more helpful, correct and clear", "context": "answers the question better"}


@dataclass(frozen=True)
class _Ranked:
    scores: list[float]
    ranking: tuple[int, ...]
    facts: dict[str, float]
    keys: list[str]


class Rank(Judging):
    """Compare candidates two at a time, each pair in both orders, or put them in order as a list.

    Writes `ranking` (indices, best first), each candidate's `score` (how probably it beats another) and, of pairs, the scores
    `order_consistency` (share of pairs whose two orders agree) and `pref_prob` (how probably the first of the ranking beats the last, where
    they were compared); of a list, `named_frac` (share of the places that the judge filled itself).
    Templates: `pair` (of `first`, `second`, `noun`, `criteria`) and `list` (of `items`, `noun`, `criteria`).
    """

    kind: Literal["rank"] = "rank"
    source: ClassVar[str | None] = (
        "Bai et al. 2022 (2212.08073), section 4.1, and Lee et al. 2023 (2309.00267), section 3.1: P(A > B), both orders averaged; "
        "Sun et al. 2023 (2304.09542), section 3: permutations, sliding windows"
    )
    block: ClassVar[str | None] = "gen.rank"
    prompts: ClassVar[tuple[str, ...]] = ("pair", "list")
    writes: ClassVar[tuple[str, ...]] = ("ranking", "scores")

    mode: Literal["pairwise", "listwise"] = "pairwise"
    """`pairwise` asks about two at a time, `listwise` for the order of many."""
    of: Literal["candidates", "context"] = "candidates"
    """What is ranked: alternative answers, or passages."""
    criteria: str | None = None
    """What makes one the better one, as the end of the question "Which answer ...?"; absent: "is more helpful, correct and clear", of
    passages "answers the question better"."""
    max_rivals: int = Field(7, ge=2)
    """Most others that each is compared with, pairwise; where there are no more, every pair is compared."""
    fit: Literal["win-rate", "bradley-terry"] = "win-rate"
    """How pairs make a score: the mean over an item's own pairs, or strengths that also say how strong its rivals were."""
    window: int = Field(10, ge=2, le=50)
    """Most items in a list."""
    step: int = Field(5, ge=1)
    """By how many items the window slides from the last towards the first."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.step > self.window:
            raise PydanticCustomError(
                "rank_step", "step {step} skips items: a window holds {window}", {"step": self.step, "window": self.window}
            )
        if self.mode == "listwise" and self.verdict == "choices":
            raise PydanticCustomError("rank_verdict", "`mode: listwise` is written by the judge; `verdict: choices` goes with `pairwise`")
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `prompt`, and what it ranks."""
        return ("prompt", self.of)

    @property
    def asks_once(self) -> bool:  # type: ignore[override]
        """Whether it is pairwise: a list may need several windows."""
        return self.mode == "pairwise"

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        if self.of == "context" or given.candidates is None:
            return given.each(asks=None)
        counts = [self._num_asked(count) for count in range(2, given.candidates + 1)]
        return given.each(asks=max(counts, default=0) * (len(self.actors) if self.combines else 1))

    def _num_asked(self, num_items: int) -> int:
        if self.mode == "pairwise":
            return 2 * len(_tournament.pairs(num_items, self.max_rivals))
        return len(_tournament.windows(num_items, self.window, self.step))

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for every comparison at once, or for one window after another."""
        items = self._items(row)
        if len(items) < 2:
            return Rejected(f"fewer than two {self.of} to compare")
        values = {**values_of(row), "noun": _NOUNS[self.of], "criteria": self.criteria or _CRITERIA[self.of]}
        ranked = yield from (self._by_pairs if self.mode == "pairwise" else self._by_lists)(row, scene, values, items)
        return ranked if isinstance(ranked, Rejected) else [self._written(row, ranked)]

    def _items(self, row: Row) -> list[str]:
        return [str(item.get("text") or "") for item in getattr(row, self.of)]

    def _written(self, row: Row, ranked: _Ranked) -> Row:
        items = tuple({**item, "score": score} for item, score in zip(getattr(row, self.of), ranked.scores, strict=True))
        made = replace(row, ranking=ranked.ranking, scores={**row.scores, **ranked.facts}, keys=(*row.keys, *ranked.keys))
        return replace(made, candidates=items) if self.of == "candidates" else replace(made, context=items)

    # --- pairs ---------------------------------------------------------------------------------------------------------------

    def _by_pairs(
        self, row: Row, scene: Scene, values: dict[str, Any], items: Sequence[str]
    ) -> Generator[Sequence[Ask], Sequence[Answered], _Ranked | Rejected]:
        pairs = _tournament.pairs(len(items), self.max_rivals)
        shown = [order for i, j in pairs for order in ((i, j), (j, i))]
        questions = [self.render(scene, row.id, {**values, "first": items[a], "second": items[b]}, "pair") for a, b in shown]
        answered = yield [ask for question in questions for ask in self.put(scene, row.id, question, FIRST_SECOND)]
        num_judges = len(self.judges(scene))
        verdicts = [read_all(answered[at : at + num_judges], FIRST_SECOND) for at in range(0, len(answered), num_judges)]
        usable = [verdict for verdict in verdicts if not isinstance(verdict, Rejected)]
        if len(usable) < len(verdicts):
            return next(verdict for verdict in verdicts if isinstance(verdict, Rejected))
        both = [preference(given, swapped) for given, swapped in zip(usable[::2], usable[1::2], strict=True)]
        wins = {pair: round(first, NUM_DECIMALS) for pair, (first, _) in zip(pairs, both, strict=True)}
        return self._ranked(len(items), wins, sum(agree for _, agree in both) / len(both), [one.key for one in answered])

    def _ranked(self, num_items: int, wins: dict[tuple[int, int], float], consistency: float, keys: list[str]) -> _Ranked:
        fit = _tournament.win_rates if self.fit == "win-rate" else _tournament.bradley_terry
        scores = fit(num_items, wins)
        ranking = _tournament.ordered(scores)
        facts = {"order_consistency": round(consistency, NUM_DECIMALS)}
        best, last = ranking[0], ranking[-1]
        if (min(best, last), max(best, last)) in wins:
            facts["pref_prob"] = wins[best, last] if best < last else round(1 - wins[last, best], NUM_DECIMALS)
        return _Ranked(scores, ranking, facts, keys)

    # --- lists ---------------------------------------------------------------------------------------------------------------

    def _by_lists(
        self, row: Row, scene: Scene, values: dict[str, Any], items: Sequence[str]
    ) -> Generator[Sequence[Ask], Sequence[Answered], _Ranked | Rejected]:
        places: list[list[float]] = []
        named_fracs: list[float] = []
        keys: list[str] = []
        for judge in self.judges(scene):
            order = list(range(len(items)))
            for start, end in _tournament.windows(len(items), self.window, self.step):
                shown = order[start:end]
                question = self.render(scene, row.id, {**values, "items": [items[i] for i in shown]}, "list")
                form = _form(len(shown))
                (answered,) = yield [self.ask(scene, row.id, question, to=judge, schema=_structured.schema_of(form))]
                said = _structured.read(form, answered.answer)
                if isinstance(said, Rejected):
                    return said
                order[start:end], num_named = _tournament.permuted(shown, getattr(said, "order", ()))
                named_fracs.append(num_named / len(shown))
                keys.append(answered.key)
            places.append(_tournament.places(order))
        scores = [_mean(of_item) for of_item in zip(*places, strict=True)]
        return _Ranked(scores, _tournament.ordered(scores), {"named_frac": _mean(named_fracs)}, keys)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), NUM_DECIMALS)


@lru_cache(maxsize=64)
def _form(num_items: int) -> type[BaseModel]:
    number: Any = Literal[tuple(range(1, num_items + 1))]
    numbers: Any = Annotated[list[number], Field(min_length=num_items, max_length=num_items)]
    return create_model("Order", order=(numbers, ...))
