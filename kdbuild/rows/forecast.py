"""What an elicit or select stage would ask, found by running its operators against the stored answers. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbuild.elicitors import Conversing, Scene, _ensemble
from kdbuild.elicitors._extent import NOTHING, Extent, plus
from kdbuild.records import Row
from kdbuild.rows.conversations import Question, Setting, Talk, Talks, start
from kdbuild.rows.store import Asked, Store
from kdbuild.scorers import Cost, Judging, Scorer, _calibration
from kdbuild.seeds import FEW_SEEDS
from kdbuild.selectors import Selector
from kdbuild.spec.sections import ElicitSection, SelectSection


@dataclass(frozen=True)
class Forecast:
    """What a stage would ask now."""

    missing: tuple[Question, ...]
    """The calls still to be made that are known now, each once: the fewest."""
    most: Extent
    """The most calls still to be made, these among them, and the most rows that the stage makes."""
    keys: dict[str, list[str]]
    """Row that the stage is given to the keys of the answers it needs, as far as known: what `Store.last_run` is compared with."""
    waiting: frozenset[str]
    """The rows among these that wait for an answer."""
    made: list[Row] | None = None
    """The rows that the stage makes, where stored answers tell them all."""

    @property
    def num_calls(self) -> int:
        """Number of calls known to be missing."""
        return len(self.missing)

    @property
    def complete(self) -> bool:
        """Whether the calls known now are all; else what is asked next depends on answers that are not there yet."""
        return self.most.asks == len(self.missing)


AskingSection = ElicitSection | SelectSection


def setting_of(section: AskingSection, rows: Sequence[Row], root: Path, embedder: Any = None, unknown: Collection[str] = ()) -> Setting:
    """Return what the conversations of a stage about `rows` have in common.

    `unknown` actors are models that are not there yet: nothing that is stored is an answer of theirs.
    """
    gives = {word: use.teacher.gives for word, use in section.actors.items()}
    few_seeds = isinstance(section, ElicitSection) and section.from_seeds and len(rows) < FEW_SEEDS
    scene = Scene(root, gives=gives, few_seeds=few_seeds, embedder=embedder)
    identities = {
        word: {"not there yet": word} if word in unknown else use.teacher.answer_identity(root) for word, use in section.actors.items()
    }
    return Setting(scene, identities, section.held_out_frac)


def missing_asks(section: AskingSection, rows: Sequence[Row], store: Store, root: Path, unknown: Collection[str] = ()) -> Forecast:
    """Return what the elicit or select stage with this section would ask about `rows`, given what is stored.

    Each operator or scorer is run on the rows that the stored answers reach; of the others they say how much there can be at most. What
    a selector keeps is not known here, at most all of it: what is asked about these rows is not sure.
    `unknown` are the actors that are not there yet.

    Raises:
        KdbuildError: what the stage itself would stop at before any call (a template that does not render).
    """
    given, open_ = [row.id for row in rows], NOTHING
    setting = setting_of(section, rows, root, unknown=unknown)
    allowed = section.accept_failed_frac * len(rows)
    parts: list[Talks] = []
    missing: dict[Asked, Question] = {}
    num_asks: int | None = 0
    sure = True
    for operator in section.operators:
        if isinstance(operator, Selector):
            sure = False
            if operator.completes:
                rows, open_ = [], open_.and_(Extent.of(rows))
            continue
        # What a pool asks is not known before all of it is there, nor what is retrieved without the model or the other rows, which are not
        # loaded to plan; nor are programs run.
        runs = isinstance(operator, Scorer) and operator.cost is Cost.COMPUTE and not operator.needs
        if runs or operator.needs_embedder or operator.pools or (operator.pooled and (open_.rows != 0 or not sure)):
            rows, open_ = [], open_.and_(Extent.of(rows))
        if isinstance(operator, Judging):
            pairs = [row for pair in _calibration.pairs(operator) for row in pair]
            if operator.needs_embedder:  # not loaded here, and what it says may come after the answers
                num_asks = plus(num_asks, _ensemble.most(operator, Extent.of(pairs)).asks)
            else:
                talks, more = start(operator, pairs, setting, store, allowed_failures=0)
                missing |= {question.asked: question for question in more}
                num_asks = plus(num_asks, _still_to_come(operator, talks, more).asks)
        open_ = _ensemble.most(operator, open_)
        num_asks = plus(num_asks, open_.asks)
        if rows:
            talks, more = start(operator, rows, setting, store, allowed_failures=allowed)
            if sure:
                allowed -= len(talks.failed)
                parts.append(talks)
                # The answer to a question of an operator before, under another limit, may serve here too.
                known = {key for key, _ in missing}
                missing |= {question.asked: question for question in more if question.key not in known}
            waiting = _still_to_come(operator, talks, more)
            num_asks = plus(num_asks, waiting.asks)
            open_, rows = open_.and_(waiting), talks.rows
        open_ = replace(open_, asks=0)
    most = replace(open_.and_(Extent.of(rows)), asks=num_asks)
    made = list(rows) if sure and open_.rows == 0 else None
    return Forecast(tuple(missing.values()), most, keys_by_row(given, parts), _waiting(given, parts), made)


def most_asked(operators: Sequence[Conversing | Selector], given: Extent) -> Extent:
    """Return the most that operators ask about rows of which no more than this is known, and make of them."""
    num_asks: int | None = 0
    for operator in operators:
        if isinstance(operator, Selector):
            continue  # it keeps all of them at most
        if isinstance(operator, Judging):
            num_pairs = len(_calibration.pairs(operator))
            num_asks = plus(num_asks, _ensemble.most(operator, Extent(2 * num_pairs, 0, 0)).asks)
        given = _ensemble.most(operator, given)
        num_asks = plus(num_asks, given.asks)
    return replace(given, asks=num_asks)


def _still_to_come(operator: Conversing, talks: Talks, missing: Sequence[Question]) -> Extent:
    """Return the most that the conversations which wait for answers still ask, and make."""
    live = [talk for talk in talks.talks if talk.result is None]
    most = _ensemble.most(operator, Extent.of([row for talk in live for row in talk.rows]))
    if operator.asks_once:
        return replace(most, asks=len(missing))
    # Answers used before count: what is asked again is another question.
    num_used = sum(len(talk.used) for talk in live)
    return replace(most, asks=None if most.asks is None else max(most.asks - num_used, len(missing)))


# --- whose answers ------------------------------------------------------------------------------------------------------------


def keys_by_row(rows: Iterable[str], parts: Sequence[Talks]) -> dict[str, list[str]]:
    """Return the row ids with the keys of the answers that what was made of each needed, and is waiting for, over all operators.

    A question about several rows counts for those that the row it is asked for was made of, else for the first of its pool.
    """
    found: dict[str, list[str]] = {row: [] for row in rows}
    for origins, talk in _with_origins(found, parts):
        asked = [(ask.row, key) for (key, _), (ask, _) in talk.used.items()]
        asked += [(question.ask.row, question.key) for question in talk.questions]
        for row, key in asked:
            for origin in _whose(row, talk, origins):
                known = found.setdefault(origin, [])
                if key not in known:
                    known.append(key)
    return found


def _waiting(rows: Iterable[str], parts: Sequence[Talks]) -> frozenset[str]:
    """Return the rows of which, or of what was made of which, something is asked that is not answered."""
    found: set[str] = set()
    for origins, talk in _with_origins(rows, parts):
        if talk.result is None:
            found.update(*(_whose(q.ask.row, talk, origins) for q in talk.questions if q.asked not in talk.got))
    return frozenset(found)


def _whose(row: str, talk: Talk, origins: Mapping[str, frozenset[str]]) -> frozenset[str]:
    first = talk.rows[0].id
    return (origins.get(row) if len(talk.rows) > 1 else None) or origins.get(first, frozenset([first]))


def _with_origins(rows: Iterable[str], parts: Sequence[Talks]) -> Iterator[tuple[Mapping[str, frozenset[str]], Talk]]:
    """Yield every conversation, with the rows of the stage that each row so far was made of."""
    origins = {row: frozenset([row]) for row in rows}
    for part in parts:
        for talk in part.talks:
            yield origins, talk
        made: dict[str, frozenset[str]] = {}
        for talk in part.talks:
            for row in talk.made:
                if row.id not in origins and row.id not in made:
                    parents = [origins[parent] for parent in row.parents if parent in origins] if len(talk.rows) > 1 else []
                    made[row.id] = frozenset[str]().union(*parents) or _whose("", talk, origins)
        origins = made | origins
