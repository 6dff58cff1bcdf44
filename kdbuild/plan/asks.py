"""What a stale elicit stage would ask its teacher: rows, calls, tokens and money, from the rows and the stored answers as they are now."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from kdbuild import records
from kdbuild.compile.stages import Stage
from kdbuild.plan.planner import Planned, Status
from kdbuild.plan.runcache import RunCache
from kdbuild.rows.forecast import Forecast, missing_asks
from kdbuild.rows.store import Store
from kdbuild.spec.sections import ElicitSection
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
            return self._bounded(stage, section) if section.teacher else None
        forecast, last = self._counted(stage, section, rows)
        self._most_rows[stage.outs[0]] = self._rows_out(stage, len(forecast.keys), last)
        if section.teacher is None:
            return None
        bound = Bound.EXACT if forecast.complete or not forecast.missing else Bound.AT_LEAST
        return self._asks(section, stage, bound, forecast.num_calls, _counts(forecast, last), forecast)

    def _bounded(self, stage: Stage, section: ElicitSection) -> Asks:
        num_rows = self._most_rows.get(section.rows)
        if num_rows is None:
            return self._asks(section, stage, Bound.UNKNOWN, 0, None, None)
        with Store.open(self.store_dir, read_only=True) as store:
            last = store.last_run(stage.name)
        asked = [len(keys) for keys in (last or {}).values()]
        per_row = max(math.ceil(sum(asked) / len(asked)) if asked else 0, len(section.operators))
        self._most_rows[stage.outs[0]] = self._rows_out(stage, num_rows, last)
        return self._asks(section, stage, Bound.UP_TO, num_rows * per_row, None, None)

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
        self, section: ElicitSection, stage: Stage, bound: Bound, num_calls: int, rows: RowCounts | None, forecast: Forecast | None
    ) -> Asks:
        assert section.teacher is not None
        name = section.teacher.name
        prompt, answer = self._tokens(name, section, num_calls, forecast)
        price = self.prices.get(name)
        usd = (prompt * price.prompt_usd_per_mtok + answer * price.answer_usd_per_mtok) / 1e6 if price else 0.0
        priced = price is not None and (price.prompt_usd_per_mtok > 0 or price.answer_usd_per_mtok > 0)
        return Asks(stage.name, name, bound, num_calls, rows, prompt, answer, usd, priced)

    def _tokens(self, teacher: str, section: ElicitSection, num_calls: int, forecast: Forecast | None) -> tuple[int, int]:
        """Return the prompt and answer tokens of `num_calls` calls."""
        with Store.open(self.store_dir, read_only=True) as store:
            runs = [run for one in self.planned if _teacher_of(one.stage) == teacher for run in store.runs(one.stage.name)]
        past = sum(run.num_calls for run in runs)
        if past:
            prompt, answer = (sum(getattr(run, name) for run in runs) / past for name in ("num_prompt_tokens", "num_new_tokens"))
            return math.ceil(prompt * num_calls), math.ceil(answer * num_calls)
        if forecast is not None:
            return math.ceil(forecast.prompt_characters / _CHARACTERS_PER_TOKEN), forecast.max_new_tokens
        limits = [int(getattr(operator, "max_new_tokens", 0)) for operator in section.operators]
        return 0, max(limits, default=0) * num_calls


def _teacher_of(stage: Stage) -> str | None:
    use = stage.section.get("teacher") if stage.step == "elicit" else None
    return str(use["name"]) if isinstance(use, Mapping) else None


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
