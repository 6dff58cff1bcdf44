"""What a stale elicit stage would ask its teacher: rows, calls, tokens and money, from the rows and the stored answers as they are now."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdbuild import records
from kdbuild.compile.stages import Stage
from kdbuild.plan.planner import Planned, Status
from kdbuild.plan.runcache import RunCache
from kdbuild.rows.conversations import Question
from kdbuild.rows.forecast import Forecast, missing_asks
from kdbuild.rows.store import Spent, Store
from kdbuild.spec.sections import ElicitSection, TeacherUse
from kdbuild.spec.sources import unpinned
from kdbuild.teachers import Price

if TYPE_CHECKING:
    from kdbuild.records import Row

_CHARACTERS_PER_TOKEN = 4
"""For the questions of a teacher that was never asked here."""


class Bound(StrEnum):
    """How sure a number of calls is."""

    EXACT = "exact"
    AT_LEAST = "at least"
    """What is asked next depends on answers that are not there yet."""
    UP_TO = "up to"
    """Every row counted; stored answers may serve some of them."""
    UNKNOWN = "unknown"
    """The rows are not there yet."""


@dataclass(frozen=True)
class RowCounts:
    """What becomes of the rows against the stage's last run here."""

    new: int
    changed: int
    removed: int
    reused: int


@dataclass(frozen=True)
class Asks:
    """What one stage would ask."""

    stage: str
    teacher: str
    """Names, joined."""
    bound: Bound
    num_calls: int
    """0 where the number is not known."""
    rows: RowCounts | None
    prompt_tokens: int
    """Estimate: the mean of this teacher's calls so far, else four characters a token."""
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
    exact: bool
    """Read the rows of data sets (imports pyarrow) rather than count them."""

    def __post_init__(self) -> None:
        """Nothing is known of any data set yet."""
        self._most_rows: dict[str, int | None] = {}
        self._on_disk: set[str] = set()

    def all(self) -> Iterator[Asks]:
        """Yield what each elicit stage that may run would ask."""
        for one in self.planned:
            asks = self._elicit(one) if one.stage.step == "elicit" and one.status in (Status.STALE, Status.MAYBE) else None
            if asks is not None:
                yield asks
            self._note_rows(one)

    def _elicit(self, one: Planned) -> Asks | None:
        stage, section = one.stage, ElicitSection.of(one.stage.section)
        if not section.rows:
            rows = list(section.seeds.rows(self.root)) if section.seeds else []
        elif self.exact and section.rows in self._on_disk:
            rows = records.read_dataset(self.root / section.rows, records.Row)
        else:
            return self._bounded(stage, section) if section.actors else None
        if any(not self._is_known(path) for use in section.actors.values() for path in self._models(use)):
            return self._bounded(stage, section, len(rows))
        forecast, last = self._counted(stage, section, rows)
        self._most_rows[stage.outs[0]] = self._rows_out(stage, len(forecast.keys), last)
        if not section.actors:
            return None
        bound = Bound.EXACT if forecast.complete else Bound.AT_LEAST
        by_teacher: dict[str, list[Question]] = {}
        for question in forecast.missing:
            by_teacher.setdefault(section.actors[question.ask.to].name, []).append(question)
        costs = [self._cost(name, len(some), some) for name, some in by_teacher.items()]
        return self._asks(section, stage, bound, forecast.num_calls, _counts(forecast, last), costs)

    def _models(self, use: TeacherUse) -> list[str]:
        """Return the models of this project's phases that an actor is: they are in the keys of its answers by their content."""
        return [use.weights] if use.weights and any(unpinned(source) == use.weights for source in use.teacher.sources()) else []

    def _is_known(self, path: str) -> bool:
        makers = [one for one in self.planned if path in one.stage.outs]
        return all(one.status is Status.FRESH for one in makers)

    def _bounded(self, stage: Stage, section: ElicitSection, num_rows: int | None = None) -> Asks:
        num_rows = self._most_rows.get(section.rows) if num_rows is None else num_rows
        if num_rows is None:
            return self._asks(section, stage, Bound.UNKNOWN, 0, None, [])
        with Store.open(self.store_dir, read_only=True) as store:
            last = store.last_run(stage.name)
        asked = [len(keys) for keys in (last or {}).values()]
        asking = [operator for operator in section.operators if operator.needs]
        per_row = max(math.ceil(sum(asked) / len(asked)) if asked else 0, sum(len(operator.actors) for operator in asking))
        self._most_rows[stage.outs[0]] = self._rows_out(stage, num_rows, last)
        # Which of several teachers is asked how often is not known here: the dearest bounds it.
        costs = [self._cost(use.name, num_rows * per_row, None, section) for use in section.actors.values()]
        return self._asks(
            section,
            stage,
            Bound.UP_TO,
            num_rows * per_row,
            None,
            [max(costs, key=lambda cost: (cost.usd, cost.prompt_tokens + cost.answer_tokens))],
        )

    def _rows_out(self, stage: Stage, num_rows: int, last: Mapping[str, Sequence[str]] | None) -> int | None:
        """Return how many rows a stage makes of `num_rows` at most, by what it made of a row last time."""
        before = _num_rows(_bytes(self.root / stage.outs[0] / records.MANIFEST))
        return None if before is None or not last else num_rows * max(1, math.ceil(before / len(last)))

    def _note_rows(self, one: Planned) -> None:
        """Note how many rows the stage's outputs hold after the build, where that is known or bounded."""
        for path, digest in one.outs.items():
            if digest is not None:
                self._most_rows[path] = _num_rows(self.cache.read(digest, records.MANIFEST))
                if one.status is Status.FRESH:
                    self._on_disk.add(path)
            elif one.stage.step == "select":
                self._most_rows[path] = self._most_rows.get(str(one.stage.section["rows"]))

    def _counted(self, stage: Stage, section: ElicitSection, rows: Sequence[Row]) -> tuple[Forecast, dict[str, list[str]] | None]:
        with Store.open(self.store_dir, read_only=True) as store:
            forecast, last = missing_asks(section, rows, store, self.root), store.last_run(stage.name)
        if forecast.missing and last is None and stage.name in self.built:
            # Built, but not here: the paid answers came with `dvc pull`. The stage would take them in; so does this.
            from kdbuild.rows.refill import refill as take_in

            with Store.open(self.store_dir) as store:
                take_in(store, self.root, lambda: [q.asked for q in missing_asks(section, rows, store, self.root).missing])
                forecast = missing_asks(section, rows, store, self.root)
        return forecast, last

    def _asks(
        self, section: ElicitSection, stage: Stage, bound: Bound, num_calls: int, rows: RowCounts | None, costs: Sequence[Cost]
    ) -> Asks:
        names = sorted({use.name for use in section.actors.values()})
        prices = [price for name in names if (price := self.prices.get(name))]
        priced = any(price.prompt_usd_per_mtok > 0 or price.answer_usd_per_mtok > 0 for price in prices)
        prompt, answer = sum(cost.prompt_tokens for cost in costs), sum(cost.answer_tokens for cost in costs)
        return Asks(stage.name, ", ".join(names), bound, num_calls, rows, prompt, answer, sum(cost.usd for cost in costs), priced)

    def _cost(self, teacher: str, num_calls: int, questions: Sequence[Question] | None, section: ElicitSection | None = None) -> Cost:
        """Return what `num_calls` calls of a teacher take: by the mean of its calls so far, else by the questions and their limits."""
        past = self._past.get(teacher)
        if past is not None and past.num_calls:
            prompt, answer = (math.ceil(n / past.num_calls * num_calls) for n in (past.num_prompt_tokens, past.num_new_tokens))
        elif questions is not None:
            characters = sum(len(message.content) for question in questions for message in question.ask.messages)
            prompt = math.ceil(characters / _CHARACTERS_PER_TOKEN)
            answer = sum(question.ask.max_new_tokens for question in questions)
        else:
            limits = [int(getattr(operator, "max_new_tokens", 0)) for operator in section.operators] if section else []
            prompt, answer = 0, max(limits, default=0) * num_calls
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
    waiting, before = {question.ask.row for question in forecast.missing}, last or {}
    served = {row for row, keys in forecast.keys.items() if row not in waiting and (last is None or list(before.get(row, ())) == keys)}
    new = {row for row in forecast.keys if row not in before} - served
    changed = set(forecast.keys) - served - new
    return RowCounts(len(new), len(changed), len(set(before) - set(forecast.keys)), len(served))


def _num_rows(manifest: bytes | None) -> int | None:
    try:
        return int(json.loads(manifest or b"")["num_rows"])
    except (ValueError, KeyError, TypeError):
        return None


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
