"""Put rows alike into clusters, and keep some of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdbuild import canonical
from kdbuild.errors import StageError
from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._coverage import NOTHING_TO_COMPARE
from kdbuild.selectors._order import order_of, score_of
from kdbuild.selectors._text import Part, meaning, turns


class Cluster(Selector):
    """Groups rows by k-means over their embeddings, or by a field of `meta`, and keeps some of each group.

    A clustered row gets `meta.cluster`, the id of the row nearest the centre of its cluster. Without `num_rows` and `num_each` all rows
    are kept. k-means is spherical (cosines), starts as k-means++ does with draws by the rows' ids, and gives the same on every machine.
    """

    source: ClassVar[str | None] = (
        "Arthur and Vassilvitskii 2007, k-means++; Li et al. 2023, Cherry LLM, arXiv 2308.12032, section 2.1 (some of each cluster)"
    )
    block: ClassVar[str | None] = "select.cluster"
    needs_embedder: ClassVar[bool] = True

    kind: Literal["cluster"] = "cluster"
    num_clusters: int | None = Field(None, ge=1, examples=[5])
    """How many clusters; fewer come out where fewer rows differ."""
    per: str | None = Field(None, min_length=1)
    """Field of `meta` whose values are the groups, in place of clusters."""
    of: Part = "both"
    """What the clusters are made by: the `prompt`, the `answer`, or `both`, each without system turns. Rows without it are dropped."""
    num_each: int | None = Field(None, ge=1, examples=[4])
    """How many rows of each group are kept at most."""
    num_rows: int | None = Field(None, ge=1)
    """How many rows are kept in all, shared out over the groups."""
    share: Literal["equal", "proportional"] = "equal"
    """How `num_rows` are shared out: equally many of each group as far as it has them, or as many as goes with its size."""
    by_score: str | None = None
    """Score by which the best of a group are kept; absent: rows drawn by their ids."""
    num_steps: int = Field(25, ge=1)
    """How often k-means moves its centres at most."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.num_clusters is None) == (self.per is None):
            raise ValueError("give `num_clusters` or `per`: rows are grouped in one way")
        if self.num_each is not None and self.num_rows is not None:
            raise ValueError("give `num_each` or `num_rows`, not both")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The score by which the best are kept."""
        return () if self.by_score is None else (self.by_score,)

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row.

        Raises:
            StageError: a row lacks the score or the field.
        """
        groups = self._by_field(rows) if self.per is not None else self._clusters(rows, scene)
        grouped = {i for members in groups.values() for i in members}
        verdicts = [KEEP if i in grouped else drop(NOTHING_TO_COMPARE) for i in range(len(rows))]
        kept = self._kept(rows, groups)
        reason = "more rows than wanted of its " + ("cluster" if self.per is None else f"`{self.per}`")
        for name, members in groups.items():
            for i in members:
                if i not in kept:
                    verdicts[i] = drop(reason, score=score_of(rows[i], self.by_score) if self.by_score else None)
                elif self.per is None:
                    verdicts[i] = replace(KEEP, row=replace(rows[i], meta={**rows[i].meta, "cluster": name}))
        return verdicts

    # --- groups ----------------------------------------------------------------------------------------------------------

    def _by_field(self, rows: Sequence[Row]) -> dict[str, list[int]]:
        groups: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            if self.per not in row.meta:
                has = ", ".join(sorted(row.meta)) or "none"
                raise StageError(f"row {row.id} has no `meta.{self.per}`; its fields: {has}", hint="`per` is a field of every row")
            groups[row.meta[self.per]].append(i)
        return groups

    def _clusters(self, rows: Sequence[Row], scene: Scene) -> dict[str, list[int]]:
        """Return the members of each cluster, by the id of the row nearest its centre."""
        import numpy as np

        from kdbuild.selectors._cells import refine
        from kdbuild.selectors._farthest import spread
        from kdbuild.selectors._similarity import cosines, threads, unit

        compared = sorted((i for i, row in enumerate(rows) if turns(row, self.of)), key=lambda i: rows[i].id)
        if not compared:
            return {}
        vectors_ND = unit(scene.embedder.embed([meaning(rows[i], self.of) for i in compared]))
        seeds_N = np.array([canonical.seed_of("cluster", rows[i].id) for i in compared], np.uint64)
        first_CD = vectors_ND[spread(vectors_ND, self.num_clusters or 1, seeds_N)]
        with threads() as pool:
            centres_CD, home_N = refine(pool, vectors_ND, first_CD, self.num_steps)
        groups = {}
        for cell in np.unique(home_N).tolist():
            members = np.flatnonzero(home_N == cell)
            middle = members[int(cosines(centres_CD[cell], vectors_ND[members]).argmax())]
            groups[rows[compared[middle]].id] = [compared[i] for i in members.tolist()]
        return groups

    # --- shares ----------------------------------------------------------------------------------------------------------

    def _kept(self, rows: Sequence[Row], groups: Mapping[str, Sequence[int]]) -> set[int]:
        shares = self._shares({name: len(members) for name, members in groups.items()})
        return {members[at] for name, members in groups.items() for at in self._ranked([rows[i] for i in members])[: shares[name]]}

    def _ranked(self, rows: Sequence[Row]) -> list[int]:
        if self.by_score is not None:
            return order_of(rows, self.by_score)
        return sorted(range(len(rows)), key=lambda i: (canonical.fraction("cluster", rows[i].id), rows[i].id))

    def _shares(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return how many of each group are kept."""
        if self.num_rows is None:
            return {name: size if self.num_each is None else min(size, self.num_each) for name, size in sizes.items()}
        total = min(self.num_rows, sum(sizes.values()))
        return _proportional(sizes, total) if self.share == "proportional" else _equal(sizes, total)


def _proportional(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Share out by the largest remainders; of equal ones the first name gets one more."""
    num_rows = sum(sizes.values())
    shares = {name: total * size // num_rows for name, size in sizes.items()}
    left = total - sum(shares.values())
    for name in sorted(sizes, key=lambda name: (-(total * sizes[name] % num_rows), name))[:left]:
        shares[name] += 1
    return shares


def _equal(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Share out equally; what small groups lack goes to the others, and what is left over to the first names."""
    shares = dict.fromkeys(sizes, 0)
    open_names = sorted(sizes)
    while total:
        each, names = max(total // len(open_names), 1), open_names
        for name in names[: total if each == 1 else None]:
            more = min(each, sizes[name] - shares[name], total)
            shares[name] += more
            total -= more
        open_names = [name for name in names if shares[name] < sizes[name]]
    return shares
