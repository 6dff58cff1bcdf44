"""Drop rows that give away what the student is to be examined on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.errors import SourceError, StageError
from kdbuild.kinds import OneOf
from kdbuild.records import Row
from kdbuild.seeds import Seeds
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._overlap import Item, Overlap, item_of
from kdbuild.selectors._text import meaning

SHARED, CLOSE = "shares a passage with an evaluation set", "prompt close in meaning to an item of an evaluation set"
_NUM_SHOWN, _MAX_CHARS = 5, 60


def check_inside(seeds: Seeds) -> Seeds:
    """Return a seeds kind whose rows lie in the project."""
    try:
        outside = seeds.outside()
    except SourceError:
        outside = {}
    if outside is not None:
        hint = "copy it into the project, and name the file: `{kind: dataset, path: ...}`"
        raise PydanticCustomError("set_outside", "an evaluation set lies in the project, and this one lies outside", {"hint": hint})
    return seeds


SetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Decontaminate(Selector):
    """Drops rows that share a run of words with an item of an evaluation set, or whose prompt is close in meaning to an item's.

    Words are compared over the whole row; an item's prompt that has fewer words than a run counts as a whole, from four words on, and a
    shorter one where it is the whole prompt of a row. A dropped row names the item as `<set>/<id>`, with the share of the item's runs
    that it holds, or the cosine. Held-out rows are not looked at.
    """

    source: ClassVar[str | None] = (
        "Brown et al. 2020, GPT-3 (2005.14165), appendix C: 13-grams; Gunasekar et al. 2023 (2306.11644), section 5"
    )
    block: ClassVar[str | None] = "select.dedup"

    kind: Literal["decontaminate"] = "decontaminate"
    sets: dict[SetName, Annotated[Seeds, OneOf("seeds"), AfterValidator(check_inside)]] = Field(
        min_length=1, examples=[{"everyday": {"kind": "dataset", "path": "specs/seeds/everyday.jsonl"}}]
    )
    """The evaluation sets by name, each a seeds block whose rows lie in the project: `{ifeval: {kind: dataset, path: ...}}`."""
    ngram_words: int | None = Field(13, ge=2)
    """Words of a run; null: words are not compared."""
    min_ngram_frac: float | None = Field(None, gt=0, le=1)
    """Share of an item's runs that a row must hold to be dropped; absent: one run is enough."""
    max_cosine: float | None = Field(None, ge=-1, le=1)
    """Cosine similarity of the prompts at and above which a row is dropped; absent: meanings are not compared."""
    fail: bool = False
    """Whether the stage fails where rows are contaminated, instead of dropping them."""
    max_contaminated_frac: float = Field(0.0, ge=0, lt=1)
    """With `fail`: the share of the rows that may be; they are dropped."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        wrong = None
        if self.ngram_words is None and self.max_cosine is None:
            wrong = "nothing is compared: give `ngram_words` or `max_cosine`"
        elif self.ngram_words is None and self.min_ngram_frac is not None:
            wrong = "`min_ngram_frac` goes with `ngram_words`"
        elif self.max_contaminated_frac and not self.fail:
            wrong = "`max_contaminated_frac` goes with `fail: true`"
        if wrong:
            raise PydanticCustomError("decontaminate_rule", "{wrong}", {"wrong": wrong})
        return self

    @property
    def needs_embedder(self) -> bool:  # type: ignore[override]
        """Whether it compares meanings."""
        return self.max_cosine is not None

    def files(self) -> tuple[str, ...]:
        """Return the files of the sets."""
        return tuple(dict.fromkeys(path for seeds in self.sets.values() for path in seeds.files()))

    def require_packages(self) -> None:
        """Raise MissingPackage for the first package that a set needs and is not there."""
        for seeds in self.sets.values():
            seeds.require_packages()

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row; a dropped row names an item of a set, and shows it.

        Raises:
            StageError: with `fail`, too many rows are contaminated; or a set is empty.
            RowError: a row of a set is not what it should be.
        """
        items = self._items(scene)
        verdicts = self._by_words(rows, items)
        if self.max_cosine is not None:
            clean = [i for i, verdict in enumerate(verdicts) if verdict.reason is None]
            for i, verdict in zip(clean, self._by_meaning([rows[i] for i in clean], items, scene, self.max_cosine), strict=True):
                verdicts[i] = verdict
        num_found = sum(verdict.reason is not None for verdict in verdicts)
        if self.fail and num_found > self.max_contaminated_frac * len(rows):
            raise self._refusal(rows, verdicts, num_found)
        return verdicts

    def _items(self, scene: Scene) -> list[Item]:
        items: list[Item] = []
        for name, seeds in sorted(self.sets.items()):
            found = [item_of(name, row) for row in sorted(seeds.rows(scene.root), key=lambda row: row.id)]
            if not found:
                raise StageError(f"evaluation set `{name}` holds no rows", hint="name a file that does, or leave the set out")
            items += found
        return items

    def _by_words(self, rows: Sequence[Row], items: Sequence[Item]) -> list[Verdict]:
        if self.ngram_words is None:
            return [KEEP] * len(rows)
        overlap = Overlap(self.ngram_words)
        for item in items:
            overlap.add(item)
        found = [overlap.nearest(row, self.min_ngram_frac) for row in rows]
        return [KEEP if one is None else _told(SHARED, items[one[0]], one[1]) for one in found]

    def _by_meaning(self, rows: Sequence[Row], items: Sequence[Item], scene: Scene, limit: float) -> list[Verdict]:
        from kdbuild.selectors._similarity import best_matches, unit

        asked = [i for i, row in enumerate(rows) if meaning(row, "prompt").strip()]
        known = [item for item in items if item.prompt.strip()]
        verdicts = [KEEP] * len(rows)
        if asked and known:
            base = unit(scene.embedder.embed([item.prompt for item in known]))
            match = best_matches(unit(scene.embedder.embed([meaning(rows[i], "prompt") for i in asked])), base, at_least=limit)
            for i, item, cosine in zip(asked, match.index_Q.tolist(), match.cosine_Q.tolist(), strict=True):
                if item >= 0:
                    verdicts[i] = _told(CLOSE, known[item], cosine)
        return verdicts

    def _refusal(self, rows: Sequence[Row], verdicts: Sequence[Verdict], num_found: int) -> StageError:
        pairs = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True) if verdict.reason is not None]
        shown = "".join(
            f"\n  row {row.id}: {_short(meaning(row, 'prompt'))}\n    {verdict.because_of}: {_short(verdict.matched or '')}"
            for row, verdict in pairs[:_NUM_SHOWN]
        )
        first = "" if num_found <= _NUM_SHOWN else f"; the first {_NUM_SHOWN}"
        return StageError(
            f"{num_found} of {len(rows)} rows are contaminated by evaluation sets{first}:{shown}",
            hint="`fail: false` drops them and goes on; `max_contaminated_frac` says how many may be",
        )


def _told(reason: str, item: Item, score: float) -> Verdict:
    return drop(reason, because_of=item.name, score=round(score, 4), matched=item.text)


def _short(text: Any) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _MAX_CHARS else line[: _MAX_CHARS - 3] + "..."
