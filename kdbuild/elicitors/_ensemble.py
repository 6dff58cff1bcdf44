"""Several actors behind one operator: a row of each, one of them for each row, or the one that agrees most with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

from kdbuild import canonical
from kdbuild.elicitors import Conversation, Conversing, Elicitor, Made, Rejected, Result, Scene, side_by_side
from kdbuild.elicitors._agreement import agreement
from kdbuild.elicitors._extent import NOTHING, Extent, times
from kdbuild.elicitors._words import words
from kdbuild.errors import SpecError
from kdbuild.records import Dropped, Row


def conversation(operator: Conversing, about: Row | Sequence[Row], scene: Scene) -> Conversation:
    """Return the conversation of an operator with all its `actors` about a row or, where it is `pooled`, about several.

    The questions that the actors are asked at the same time go out together. Rows say in `meta["actor"]` whose they are, unless there
    is only one actor.

    Raises:
        SpecError: the operator's rows cannot be combined this way.
    """
    actors = operator.actors or ("teacher",)
    if len(actors) == 1 or not operator.needs or operator.combines or not isinstance(operator, Elicitor):
        return _of(operator, about, replace(scene, actor=actors[0]))
    check(operator)
    if operator.combine == "route":
        return _route(operator, about, scene, actors)
    if operator.combine == "consensus":
        return _consensus(operator, _one(about), scene, actors)
    return _union(operator, about, scene, actors)


def check(operator: Elicitor) -> None:
    """Refuse a consensus of what has no answers to compare.

    Raises:
        SpecError: the operator is pooled, or writes no answer.
    """
    if operator.combine != "consensus" or len(operator.actors) < 2 or operator.combines:
        return
    hint = "`combine: union` keeps what each of them makes; `route` asks one of them about each row"
    if operator.pooled:
        raise SpecError(f"`{operator.kind}` asks about many rows together, so there is no consensus on one of them", hint=hint)
    if "answer" not in operator.writes:
        raise SpecError(f"`{operator.kind}` writes no answer, so there is nothing of several actors to compare", hint=hint)


def _of(operator: Conversing, about: Row | Sequence[Row], scene: Scene) -> Conversation:
    return operator.elicit(about, scene) if isinstance(about, Row) else operator.gather(about, scene)


def _one(about: Row | Sequence[Row]) -> Row:
    assert isinstance(about, Row)
    return about


def most(operator: Conversing, given: Extent) -> Extent:
    """Return the most that an operator with all its `actors` asks about rows of this extent, and makes of them."""
    if given.rows == 0:
        return NOTHING
    one, num_actors = operator.most(given), len(operator.actors)
    if num_actors < 2 or not operator.needs or operator.combines or not isinstance(operator, Elicitor) or operator.combine == "route":
        return one
    rows = given.rows if operator.combine == "consensus" else times(one.rows, num_actors)
    return replace(one, rows=rows, asks=times(one.asks, num_actors))


# --- the three ways ----------------------------------------------------------------------------------------------------------


def _route(operator: Elicitor, about: Row | Sequence[Row], scene: Scene, actors: Sequence[str]) -> Conversation:
    rows = [about] if isinstance(about, Row) else about
    shares: dict[str, list[Row]] = {actor: [] for actor in actors}
    for row in rows:
        shares[actors[int(canonical.fraction("route", row.id) * len(actors))]].append(row)
    results = yield from side_by_side(
        {
            actor: _of(operator, share[0] if isinstance(about, Row) else share, replace(scene, actor=actor))
            for actor, share in shares.items()
            if share
        }
    )
    return _merge(operator, about, results, lambda actor, rows: [_marked(row, actor) for row in rows])


def _union(operator: Elicitor, about: Row | Sequence[Row], scene: Scene, actors: Sequence[str]) -> Conversation:
    results = yield from side_by_side({actor: _of(operator, about, replace(scene, actor=actor)) for actor in actors})
    given = {row.id: row for row in ([about] if isinstance(about, Row) else about)}
    return _merge(operator, about, results, lambda actor, rows: _own(rows, actor, given, scene))


def _consensus(operator: Elicitor, row: Row, scene: Scene, actors: Sequence[str]) -> Conversation:
    results = yield from side_by_side({actor: _of(operator, row, replace(scene, actor=actor)) for actor in actors})
    answered = [(actor, made) for actor, result in results.items() for made in _rows(result) if made.answer is not None]
    rejected = [result for result in results.values() if isinstance(result, Rejected)]
    if not answered:
        return rejected[0] if rejected else Rejected("no answer to compare")
    agreed = agreement([words(made.answer or "") for _, made in answered])
    actor, best = answered[agreed.index(max(agreed))]
    keys = dict.fromkeys(key for _, made in answered for key in made.keys)
    return [replace(_marked(best, actor), keys=tuple(keys), scores={**best.scores, "agreement": max(agreed)})]


def _rows(result: Result) -> list[Row]:
    if isinstance(result, Made):
        return result.rows
    return result if isinstance(result, list) else []


def _merge(
    operator: Elicitor, about: Row | Sequence[Row], results: Mapping[str, Result], own: Callable[[str, list[Row]], list[Row]]
) -> Made:
    rows: dict[str, Row] = {}
    dropped: list[Dropped] = []
    for actor, result in results.items():
        for row in own(actor, _rows(result)):
            rows.setdefault(row.id, row)
        if isinstance(result, Made):
            dropped += result.dropped
        elif isinstance(result, Rejected):
            subject = about if isinstance(about, Row) else about[0]
            dropped.append(Dropped(subject.id, operator.kind, result.reason, text=result.text))
    return Made(list(rows.values()), dropped)


# --- whose a row is ----------------------------------------------------------------------------------------------------------


def _marked(row: Row, actor: str) -> Row:
    return replace(row, meta={**row.meta, "actor": actor})


def _own(rows: Sequence[Row], actor: str, given: Mapping[str, Row], scene: Scene) -> list[Row]:
    """Return an actor's rows under ids that are its own; a row that it left as it was stays that row."""
    new = {row.id: canonical.digest(["kdbuild-actor/1", row.id, actor])[:16] for row in rows if row.id not in given}
    made = []
    for row in rows:
        before = given.get(row.id)
        if before is None:
            parents = tuple(new.get(parent, parent) for parent in row.parents)
            made.append(replace(_marked(row, actor), id=new[row.id], parents=parents))
        elif row == before:
            made.append(row)
        else:
            made.append(scene.child([before], **_content(_marked(row, actor))))
    return made


def _content(row: Row) -> dict[str, object]:
    return {f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("id", "parents", "roots")}
