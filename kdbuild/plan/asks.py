"""What a stale elicit stage would ask its teacher: rows, calls, tokens and money, from the rows and the stored answers as they are now."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdbuild import records
from kdbuild.compile.stages import Stage
from kdbuild.elicitors._extent import Extent
from kdbuild.plan.planner import Planned, Status
from kdbuild.plan.runcache import RunCache
from kdbuild.rows.conversations import Question
from kdbuild.rows.forecast import AskingSection, Forecast, missing_asks, most_asked
from kdbuild.rows.store import Spent, Store
from kdbuild.spec.sections import ElicitSection, SelectSection, TeacherUse
from kdbuild.spec.sources import unpinned
from kdbuild.teachers import Price

if TYPE_CHECKING:
    from kdbuild.records import Row

_CHARACTERS_PER_TOKEN = 4
"""For the questions of a teacher that was never asked here."""


class Bound(StrEnum):
    """What a number of calls says."""

    EXACT = "exact"
    AT_LEAST = "at least"
    """What is asked after these depends on answers, rows or models that are not there yet, and nothing bounds it."""
    UP_TO = "up to"
    """No more are made, whatever the answers say."""
    UNKNOWN = "unknown"
    """None is known yet, and nothing bounds them."""


def bound_of(least: int, most: int | None) -> Bound:
    """Return what the number says that is shown for `least` to `most` calls: the most where there is one, else the least."""
    if least == most:
        return Bound.EXACT
    if most is not None:
        return Bound.UP_TO
    return Bound.AT_LEAST if least else Bound.UNKNOWN


@dataclass(frozen=True)
class RowCounts:
    """What becomes of the rows that a stage is given, against its last run here. What is made of a row counts with it."""

    new: int
    """Rows it was not given then."""
    changed: int
    """Rows of which something else is asked than then, by any operator."""
    removed: int
    """Rows it was given then, and is no more."""
    reused: int
    """Rows whose answers are all there: nothing is asked, as far as is known."""


@dataclass(frozen=True)
class Asks:
    """What one stage would ask."""

    stage: str
    teacher: str
    """Names, joined."""
    bound: Bound
    num_calls: int
    """The most where there is one, else the least; 0 where neither is known."""
    least_calls: int
    """Calls that are sure."""
    most_calls: int | None
    """None where nothing bounds them."""
    rows: RowCounts | None
    """Of the rows that the stage is given; None where they are not there yet."""
    prompt_tokens: int
    """Estimate for `num_calls`: the mean of this teacher's calls so far, else four characters a token."""
    answer_tokens: int
    """Estimate: the mean of this teacher's calls so far, else the most they can be."""
    usd: float
    priced: bool
    """Whether the teacher costs money."""


@dataclass(frozen=True)
class Cost:
    """What some calls of one teacher are expected to take."""

    prompt_tokens: int
    answer_tokens: int
    usd: float


@dataclass
class Forecaster:
    """Forecasts the stages of one project; `of` is called with each stage in the order of the plan."""

    root: Path
    store_dir: Path
    prices: Mapping[str, Price | None]
    """Teacher's name to its price."""
    planned: Sequence[Planned]
    cache: RunCache
    built: Container[str]
    """Stages that dvc.lock knows; if not built here, their answers may have come with `dvc pull`."""

    def __post_init__(self) -> None:
        """Nothing is known of any data set yet."""
        self._extents: dict[str, Extent] = {}
        self._on_disk: set[str] = set()
        self._made: dict[str, list[Row]] = {}

    def all(self) -> Iterator[Asks]:
        """Yield what each stage that may run would ask."""
        for one in self.planned:
            asks = self._of(one) if one.status in (Status.STALE, Status.MAYBE) else None
            if asks is not None:
                yield asks
            self._note_rows(one)

    def _of(self, one: Planned) -> Asks | None:
        step = one.stage.step
        if step not in ("elicit", "select"):
            return None
        stage, section = one.stage, (ElicitSection if step == "elicit" else SelectSection).of(one.stage.section)
        unknown = {word for word, use in section.actors.items() if not all(map(self._is_known, self._models(use)))}
        rows, forecast, last = self._rows(section), None, None
        if rows is None:
            most = most_asked(section.operators, self._extents.get(section.rows, Extent()))
        else:
            forecast, last = self._counted(stage, section, rows, unknown)
            most = forecast.most
        self._extents[stage.outs[0]] = most  # of a select stage: `selected/`
        if forecast and forecast.made is not None and not unknown and step == "elicit":
            self._made[stage.outs[0]] = forecast.made
        if not section.actors:
            return None
        missing = forecast.missing if forecast else ()
        # What a model was asked that is built anew may be stored, if it comes out as it was.
        sure = [question for question in missing if question.ask.to not in unknown] if one.status is Status.STALE else []
        # Of a select stage the last run knows the rows that were left, not those it was given.
        counts = _counts(forecast, last) if forecast and not unknown and step == "elicit" else None
        costs = self._costs(section, sure, 0) if most.asks is None else self._costs(section, missing, most.asks - len(missing))
        return self._asks(one, sorted({use.name for use in section.actors.values()}), len(sure), most.asks, counts, costs)

    def _rows(self, section: AskingSection) -> Sequence[Row] | None:
        """Return the rows that a stage asks about, or None where they are not there yet."""
        if isinstance(section, ElicitSection) and not section.rows:
            return list(section.seeds.rows(self.root)) if section.seeds else []
        found = self._made.get(section.rows)
        if found is None and section.rows not in self._on_disk:
            return None
        found = records.read_dataset(self.root / section.rows, records.Row) if found is None else found
        if isinstance(section, SelectSection) and not section.num_complete:
            return [row for row in found if not records.is_held_out(row, section.held_out_frac)]
        return found

    def _models(self, use: TeacherUse) -> list[str]:
        """Return the models of this project's phases that an actor is: they are in the keys of its answers by their content."""
        return [use.weights] if use.weights and any(unpinned(source) == use.weights for source in use.teacher.sources()) else []

    def _is_known(self, path: str) -> bool:
        makers = [one for one in self.planned if path in one.stage.outs]
        return all(one.status is Status.FRESH for one in makers)

    def _note_rows(self, one: Planned) -> None:
        """Note how many rows the stage's outputs hold after the build, where that is known or bounded."""
        for path, digest in one.outs.items():
            if digest is not None:
                self._extents[path] = Extent(_num_rows(self.cache.read(digest, records.MANIFEST)), asks=0)
                if one.status is Status.FRESH:
                    self._on_disk.add(path)
            elif one.stage.step == "select":
                self._extents[path] = self._extents.get(str(one.stage.section["rows"]), Extent())

    def _counted(
        self, stage: Stage, section: AskingSection, rows: Sequence[Row], unknown: Collection[str]
    ) -> tuple[Forecast, dict[str, list[str]] | None]:
        with Store.open(self.store_dir, read_only=True) as store:
            forecast, last = missing_asks(section, rows, store, self.root, unknown), store.last_run(stage.name)
        if forecast.missing and last is None and stage.name in self.built:
            # Built, but not here: the paid answers came with `dvc pull`. The stage would take them in; so does this.
            from kdbuild.rows.refill import refill as take_in

            with Store.open(self.store_dir) as store:
                take_in(store, self.root, lambda: [q.asked for q in missing_asks(section, rows, store, self.root, unknown).missing])
                forecast = missing_asks(section, rows, store, self.root, unknown)
        return forecast, last

    def _asks(
        self, one: Planned, teachers: Sequence[str], least: int, most: int | None, rows: RowCounts | None, costs: Sequence[Cost]
    ) -> Asks:
        prices = [price for name in teachers if (price := self.prices.get(name))]
        return Asks(
            stage=one.stage.name,
            teacher=", ".join(teachers),
            bound=bound_of(least, most),
            num_calls=least if most is None else most,
            least_calls=least,
            most_calls=most,
            rows=rows,
            prompt_tokens=sum(cost.prompt_tokens for cost in costs),
            answer_tokens=sum(cost.answer_tokens for cost in costs),
            usd=sum(cost.usd for cost in costs),
            priced=any(price.prompt_usd_per_mtok > 0 or price.answer_usd_per_mtok > 0 for price in prices),
        )

    def _costs(self, section: AskingSection, questions: Sequence[Question], num_more: int) -> list[Cost]:
        """Return what these questions take, and so many more of which no more is known."""
        by_teacher: dict[str, list[Question]] = {}
        for question in questions:
            by_teacher.setdefault(section.actors[question.ask.to].name, []).append(question)
        costs = [
            self._cost(name, len(some), _characters(some), sum(q.ask.max_new_tokens for q in some)) for name, some in by_teacher.items()
        ]
        if num_more:
            # Which of several teachers is asked how often is not known here: the dearest bounds it. A question that is not known either
            # is taken to be as long as the others are, or as its answer may be.
            limit = max((int(getattr(operator, "max_new_tokens", 0)) for operator in section.operators), default=0)
            mean = _characters(questions) / len(questions) if questions else limit * _CHARACTERS_PER_TOKEN
            more = [self._cost(use.name, num_more, mean * num_more, limit * num_more) for use in section.actors.values()]
            costs.append(max(more, key=lambda cost: (cost.usd, cost.prompt_tokens + cost.answer_tokens)))
        return costs

    def _cost(self, teacher: str, num_calls: int, characters: float, answer_tokens: int) -> Cost:
        """Return what `num_calls` calls of a teacher take: by the mean of its calls so far, else by the questions and their limits."""
        past, prompt, answer = self._past.get(teacher), math.ceil(characters / _CHARACTERS_PER_TOKEN), answer_tokens
        if past is not None and past.num_calls:
            prompt, answer = (math.ceil(n / past.num_calls * num_calls) for n in (past.num_prompt_tokens, past.num_new_tokens))
        price = self.prices.get(teacher)
        usd = (prompt * price.prompt_usd_per_mtok + answer * price.answer_usd_per_mtok) / 1e6 if price else 0.0
        return Cost(prompt, answer, usd)

    @cached_property
    def _past(self) -> dict[str, Spent]:
        """What the calls of each teacher have taken in this project."""
        found: dict[str, Spent] = {}
        with Store.open(self.store_dir, read_only=True) as store:
            for _, _, teacher, spent in store.costs():
                found[teacher] = found.get(teacher, Spent()) + spent
        return found


def _counts(forecast: Forecast, last: Mapping[str, Sequence[str]] | None) -> RowCounts:
    before, new, changed = last or {}, 0, 0
    for row, keys in forecast.keys.items():
        is_new = row not in before if last is not None else row in forecast.waiting
        new += is_new
        changed += not is_new and last is not None and (row in forecast.waiting or not _as_before(keys, before[row], forecast))
    return RowCounts(new, changed, len(set(before) - set(forecast.keys)), len(forecast.keys) - new - changed)


def _as_before(keys: Sequence[str], before: Sequence[str], forecast: Forecast) -> bool:
    # What later operators ask about a row is not known while others wait for an answer in its pool.
    return set(keys) == set(before) if forecast.complete else set(keys) <= set(before)


def _characters(questions: Sequence[Question]) -> int:
    return sum(len(message.content) for question in questions for message in question.ask.messages)


def _limits(questions: Sequence[Question]) -> int:
    return sum(question.ask.max_new_tokens for question in questions)


def _num_rows(manifest: bytes | None) -> int | None:
    try:
        return int(json.loads(manifest or b"")["num_rows"])
    except (ValueError, KeyError, TypeError):
        return None
