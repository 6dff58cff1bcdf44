"""What a stale elicit stage would ask its teacher: rows, calls, tokens and money, from the rows and the stored answers as they are now."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from kdbuild import records
from kdbuild.compile.stages import Stage
from kdbuild.errors import ArtifactError
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
    """Forecasts the stages of one project."""

    root: Path
    store_dir: Path
    prices: Mapping[str, Price | None]
    """Teacher's name to its price."""
    stages: Sequence[Stage]

    def of(self, stage: Stage, *, built_before: bool, rows_may_change: bool, exact: bool) -> Asks | None:
        """Return what an elicit stage would ask; None for a stage that asks nobody.

        Args:
            stage: the stage.
            built_before: dvc.lock knows it; if not by this machine, its answers may have come with `dvc pull`.
            rows_may_change: something upstream that makes its rows runs first.
            exact: read the rows of a data set (imports pyarrow) rather than count them.
        """
        if stage.step != "elicit":
            return None
        section = ElicitSection.of(stage.section)
        if section.teacher is None:
            return None
        if section.rows and (rows_may_change or not exact):
            return self._bounded(stage, section)
        forecast, last = self._counted(stage, section, self._rows(section), refill=built_before)
        bound = Bound.EXACT if forecast.complete or not forecast.missing else Bound.AT_LEAST
        return self._asks(stage, section, bound, forecast.num_calls, _counts(forecast, last), forecast)

    def _rows(self, section: ElicitSection) -> list[Row]:
        if section.rows:
            return records.read_dataset(self.root / section.rows, records.Row)
        return list(section.seeds.rows(self.root)) if section.seeds else []

    def _bounded(self, stage: Stage, section: ElicitSection) -> Asks:
        try:
            num_rows = int(records.read_manifest(self.root / section.rows)["num_rows"])
        except (ArtifactError, KeyError, ValueError, TypeError):
            return self._asks(stage, section, Bound.UNKNOWN, 0, None, None)
        with Store.open(self.store_dir, read_only=True) as store:
            last = store.last_run(stage.name) or {}
        asked = [len(keys) for keys in last.values()]
        per_row = max(math.ceil(sum(asked) / len(asked)) if asked else 0, len(section.operators))
        return self._asks(stage, section, Bound.UP_TO, num_rows * per_row, None, None)

    def _counted(
        self, stage: Stage, section: ElicitSection, rows: Sequence[Row], *, refill: bool
    ) -> tuple[Forecast, dict[str, list[str]] | None]:
        with Store.open(self.store_dir, read_only=True) as store:
            forecast, last = missing_asks(section, rows, store, self.root), store.last_run(stage.name)
        if forecast.missing and last is None and refill:
            # Built, but not here: the paid answers came with `dvc pull`. The stage would take them in; so does this.
            from kdbuild.rows.refill import refill as take_in

            with Store.open(self.store_dir) as store:
                take_in(store, self.root, lambda: [q.asked for q in missing_asks(section, rows, store, self.root).missing])
                forecast = missing_asks(section, rows, store, self.root)
        return forecast, last

    def _asks(
        self, stage: Stage, section: ElicitSection, bound: Bound, num_calls: int, rows: RowCounts | None, forecast: Forecast | None
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
            runs = [run for stage in self.stages if _teacher_of(stage) == teacher for run in store.runs(stage.name)]
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
