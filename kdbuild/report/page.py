"""report.html: one file, no script, nothing loaded from elsewhere. Rows are untrusted text and are escaped by the template engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import jinja2
from markupsafe import Markup

from kdbuild.report import charts
from kdbuild.report.selection import MOST_REASONS, MOST_SCORES, SORTS, Reason, quantiles
from kdbuild.report.story import Comparison, DataPart, Story, TrainPart, scalars

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_CHARACTERS = 600
"""Longest text shown of a row; the rest is in the data set."""
UNITS = {"_nats_per_token": " (nats per token)", "_frac": " (share)", "_f1": " F1", "_usd": " (US dollars)", "_s": " (seconds)"}
SPELT = {"kl": "KL", "rouge l": "ROUGE-L", "held out": "held-out", "top1": "top-1"}

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


def render(story: Story) -> str:
    """Return the page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=charts.number, words=words, clip=clip)
    return environment.get_template("report.html").render(
        story=story,
        section=story.section,
        tiles=tiles(story),
        table=table(story.comparison) if story.comparison else [],
        bars=_bars(story.comparison) if story.comparison else {},
        curves={part.phase: _curves(part) for part in story.training},
        lengths={part.phase: _lengths(part) for part in story.data},
        selections={part.phase: Shown.of(part) for part in story.data},
        scalars=scalars,
    )


# --- words -----------------------------------------------------------------------------------------------------------


def words(name: str) -> str:
    """Return the name of a metric or a fact as people say it, its unit in brackets."""
    unit = ""
    for suffix, told in UNITS.items():
        if name.endswith(suffix):
            name, unit = name.removesuffix(suffix), told
            break
    name = name.removeprefix("num_").replace("_", " ")
    for plain, spelt in SPELT.items():
        name = re.sub(rf"\b{plain}\b", spelt, name)
    return name[:1].upper() + name[1:] + unit


def clip(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Return a text without control characters, cut to `most` characters."""
    text = _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))
    return text if len(text) <= most else text[:most].rstrip() + " …"


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One model's value of one metric."""

    value: str
    change: str = ""
    """Against the undistilled student; empty for itself and for the teacher."""
    verdict: str = ""
    """`better`, `worse` or `same`."""


@dataclass(frozen=True)
class Line:
    """One metric of the results."""

    metric: str
    better: str
    cells: tuple[Cell, ...]


def table(comparison: Comparison) -> list[Line]:
    """Return the results, one line a metric, one cell a model."""
    return [
        Line(metric, better, tuple(cell(comparison, model, metric) for model in comparison.metrics))
        for metric, better in comparison.better.items()
    ]


def cell(comparison: Comparison, model: str, metric: str) -> Cell:
    """Return one value and how it compares with the undistilled student's."""
    value = comparison.metrics[model].get(metric)
    if value is None:
        return Cell("–")
    first = comparison.metrics.get("init", {}).get(metric)
    if model in ("init", "teacher") or first is None:
        return Cell(charts.number(value))
    change = value - first
    share = f" ({100 * change / abs(first):+.0f} %)" if first else ""
    if abs(change) < 5e-5:
        return Cell(charts.number(value), "no change", "same")
    verdict = "better" if (change < 0) == (comparison.better[metric] == "lower") else "worse"
    return Cell(charts.number(value), f"{change:+.4g}{share}", verdict)


def tiles(story: Story) -> list[tuple[str, str, str]]:
    """Return (number, what it is, detail) for the head of the page."""
    found = []
    if story.comparison and story.last_phase in story.comparison.metrics:
        for metric in list(story.comparison.better)[:2]:
            now = cell(story.comparison, story.last_phase, metric)
            found.append((now.value, f"{words(metric)}, after {story.last_phase}", f"{now.change} against the undistilled student"))
    kept, paid = sum(len(part.rows) for part in story.data), [each for part in story.data for each in (part.paid, part.judged)]
    held_out = sum(part.num_held_out for part in story.data)
    found.append((charts.number(kept), "rows kept", f"{charts.number(held_out)} of them held out for evaluation"))
    found.append((charts.number(sum(part.num_dropped for part in story.data)), "rows dropped", "each with a reason, below"))
    tokens, judged = sum(each.num_answer_tokens for each in paid), sum(part.judged.num_answers for part in story.data)
    what = f"in {sum(each.num_answers for each in paid):,} answers" + (f", {judged:,} of them to scorers" if judged else "")
    found.append((charts.number(tokens), "tokens written by the models asked" if judged else "tokens written by the teacher", what))
    return found


# --- selection -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreShown:
    """One score as a chart and its quantiles."""

    name: str
    chart: Markup
    sides: tuple[tuple[str, int, tuple[float, ...]], ...]
    """(`kept` or `dropped`, how many values, quantiles)."""


@dataclass(frozen=True)
class Shown:
    """The selection of a phase, as it is shown."""

    bars: Markup
    groups: tuple[tuple[str, int, tuple[Reason, ...], int], ...]
    """(Heading, rows, the reasons shown, how many others)."""
    scores: tuple[ScoreShown, ...]
    more_scores: tuple[str, ...]
    """Names of the scores that are not shown."""

    @classmethod
    def of(cls, part: DataPart) -> Self:
        """Return what is shown of a phase."""
        scores = tuple(_score(score.name, score.kept, score.dropped) for score in part.scores[:MOST_SCORES])
        left = {f"{i}. {line.step}" if i else line.step: float(line.num_left) for i, line in enumerate(part.funnel)}
        return cls(charts.compare(left, label=160), tuple(_groups(part)), scores, tuple(score.name for score in part.scores[MOST_SCORES:]))


def _groups(part: DataPart) -> Iterator[tuple[str, int, tuple[Reason, ...], int]]:
    for sort, heading in SORTS.items():
        reasons = [reason for reason in part.reasons if reason.sort == sort]
        if reasons:
            yield heading, sum(reason.count for reason in reasons), tuple(reasons[:MOST_REASONS]), len(reasons[MOST_REASONS:])


def _score(name: str, kept: tuple[float, ...], dropped: tuple[float, ...]) -> ScoreShown:
    sides = tuple((side, len(values), quantiles(values)) for side, values in (("kept", kept), ("dropped", dropped)) if values)
    return ScoreShown(name, charts.split(kept, dropped, x_name=name), sides)


# --- charts ----------------------------------------------------------------------------------------------------------


def _bars(comparison: Comparison) -> dict[str, Markup]:
    return {
        metric: charts.compare({model: values[metric] for model, values in comparison.metrics.items() if metric in values})
        for metric in comparison.better
    }


def _curves(part: TrainPart) -> dict[str, Markup]:
    return {name: charts.lines(curve, x_name="optimiser step", y_name=words(name)) for name, curve in part.curves.items()}


def _lengths(part: DataPart) -> Markup | None:
    if not part.paid.lengths:
        return None
    return charts.histogram(part.paid.lengths, x_name="tokens of an answer", y_name="answers")
