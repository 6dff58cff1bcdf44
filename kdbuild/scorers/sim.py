"""How near a row is in meaning to a goal, to what an earlier phase selected, or to the other rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Rejected, Scene
from kdbuild.records import Row
from kdbuild.scorers import Scores
from kdbuild.scorers._likelihood import passages
from kdbuild.scorers._pooled import Pooled
from kdbuild.selectors._text import meaning


class Sim(Pooled):
    """The mean cosine with the `k` nearest texts of a set: `goal`, the rows of `pool`, or the other rows that are scored.

    The comparison is exact, each row with the whole set. A row is not compared with itself, nor with a row of the pool that has its id.
    """

    kind: Literal["sim"] = "sim"
    source: ClassVar[str | None] = (
        "Du et al. 2023, ELLM (2302.06692): the highest cosine with a goal; "
        "Cao et al. 2023 (2307.06290), table 1: distance to the nearest neighbours (`k: 6, measure: distance`)"
    )
    block: ClassVar[str | None] = "score.sim"
    needs_embedder: ClassVar[bool] = True

    of: Literal["prompt", "answer", "both", "context"] = "both"
    """What is compared, of the rows and of the pool's: the `prompt`, the `answer`, `both` (each without system turns), or the passages."""
    goal: str | list[str] | None = Field(None, min_length=1)
    """A text that rows are compared with, or several."""
    pool: str | None = None
    """Data set of an earlier phase, `<phase>` or `<spec>/<phase>`, whose rows they are compared with. Without it and `goal`, rows are
    compared with each other."""
    k: int = Field(1, ge=1)
    """How many of the nearest texts count."""
    measure: Literal["cosine", "distance"] = "cosine"
    """`cosine` is higher for what is alike; `distance` is 1 minus it."""

    @model_validator(mode="after")
    def _has_one_set(self) -> Self:
        if self.goal is not None and self.pool is not None:
            raise PydanticCustomError("sim_set", "rows are compared with `goal` or with `pool`, not with both")
        if not all(text.strip() for text in self._goals):
            raise PydanticCustomError("sim_goal", "a `goal` is a text that is not blank")
        return self

    @property
    def _goals(self) -> list[str]:
        return [self.goal] if isinstance(self.goal, str) else self.goal or []

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what is compared."""
        return {"answer": ("answer|candidates",), "context": ("context",)}.get(self.of, ("prompt",))

    @property
    def by_candidate(self) -> bool:  # type: ignore[override]
        """Whether there may be several texts."""
        return self.of in ("answer", "both")

    @property
    def pools(self) -> tuple[str, ...]:
        """Return what rows are compared with, where it is a data set."""
        return () if self.pool is None else (self.pool,)

    def values(self, rows: Sequence[Row], scene: Scene) -> list[Scores | Rejected]:
        """Return the value of each row."""
        from kdbuild.scorers._nearest import mean_cosines

        texts = [self._text(row) for row in rows]
        found: list[Scores | Rejected] = [Rejected(f"no {'text' if self.of == 'both' else self.of} to compare")] * len(rows)
        at = [i for i, text in enumerate(texts) if text.strip()]
        base, own = self._set(rows, texts, scene)
        if not base and at:
            return [Rejected("nothing to compare with") if i in set(at) else one for i, one in enumerate(found)]
        if at:
            vectors = scene.embedder.embed([*(texts[i] for i in at), *base])
            means = mean_cosines(vectors[: len(at)], vectors[len(at) :], [own[rows[i].id] for i in at], self.k).tolist()
            for i, mean in zip(at, means, strict=True):
                found[i] = Rejected("nothing to compare with") if math.isnan(mean) else {"": self._measured(mean)}
        return found

    def _measured(self, cosine: float) -> float:
        return cosine if self.measure == "cosine" else 1 - cosine

    def _text(self, row: Row) -> str:
        return passages(row) if self.of == "context" else meaning(row, self.of)

    def _set(self, rows: Sequence[Row], texts: Sequence[str], scene: Scene) -> tuple[list[str], dict[str, list[int]]]:
        """Return the texts that rows are compared with, and which of them are a row's own, by its id."""
        own: dict[str, list[int]] = defaultdict(list)
        if self._goals:
            return self._goals, own
        if self.pool is not None:
            rows = scene.pools[self.pool]
            texts = [self._text(row) for row in rows]
        base = [(row.id, text) for row, text in zip(rows, texts, strict=True) if text.strip()]
        for i, (id, _) in enumerate(base):
            own[id].append(i)
        return [text for _, text in base], own
