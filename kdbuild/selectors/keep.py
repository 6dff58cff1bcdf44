"""Keep rows by their scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.errors import StageError
from kdbuild.records import Row
from kdbuild.selectors import KEEP, Scene, Selector, Verdict, drop
from kdbuild.selectors._expression import Expression, ExpressionError, Scores, parse, quantile
from kdbuild.selectors._order import score_of

NUM_DECIMALS = 6


def check_expression(text: str) -> str:
    """Return the text of an expression that can be read."""
    try:
        parse(text)
    except ExpressionError as error:
        near = text[error.at - 1 : error.at + 19].split("\n")[0]
        context = {"what": error.message, "at": error.at, "near": near, "hint": "for instance `rating >= 4 and not (ifd > 1)`"}
        raise PydanticCustomError("expression", "{what}, at character {at}: `{near}`", context) from None
    return text


def _is_condition(text: str) -> bool:
    return parse(text).is_condition


def check_number(text: str) -> str:
    """Return the text of an expression that is a number."""
    if _is_condition(check_expression(text)):
        raise PydanticCustomError("expression_number", "`score` is a number; a condition goes under `where`")
    return text


def check_condition(text: str) -> str:
    """Return the text of an expression that is a condition."""
    if not _is_condition(check_expression(text)):
        raise PydanticCustomError("expression_condition", "`where` is a condition, such as `rating >= 4`; a number goes under `score`")
    return text


class Keep(Selector):
    """Keeps rows for which a condition on their scores holds (`where`), or whose score is high enough or among the best (`score`).

    Expressions have scores (`rating`, `rules.length`, `"a name with blanks"`), numbers, + - * /, comparisons, `and`, `or`, `not`, and the
    functions abs, log, exp, sqrt, min and max of one row, and mean, std and quantile(score, share) over all rows. A minus stands between
    spaces: `a-b` is a name. A row that lacks a score that is read fails the stage.

    With `best_of: candidates` the candidate with the highest score becomes the row's answer, and its scores the row's; of equal ones the
    first does, and those without the score are left out. A candidate also has what an operator gave it: `score`, and `logprob`.
    """

    source: ClassVar[str | None] = "Chen et al. 2023, AlpaGasus (2307.08701); Gulcehre et al. 2023, ReST (2308.08998), Eq. 3; best-of-n"
    block: ClassVar[str | None] = "select.keep"

    kind: Literal["keep"] = "keep"
    where: Annotated[str, AfterValidator(check_condition)] | None = Field(None, examples=["quality > 0.25"])
    """Condition that a row must meet, such as `ifd < 1 and rating >= quantile(rating, 0.8)`."""
    score: Annotated[str, AfterValidator(check_number)] | None = None
    """Score that decides, or an expression of several."""
    min: float | None = None
    """Lowest value that is kept."""
    max: float | None = None
    """Highest value that is kept."""
    top_k: int | None = Field(None, ge=1)
    """So many rows with the highest score; of equal ones the first by id."""
    quantile: float | None = Field(None, ge=0, le=1)
    """Rows at or above this quantile of the score: 0.8 keeps the best fifth, and all that equal the worst of it."""
    best_of: Literal["siblings", "candidates"] | None = None
    """Choose among the rows with the same parents, or among a row's candidates."""
    num_best: int = Field(1, ge=1)
    """With `best_of: siblings`: how many of them are kept."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        limits = self.min is not None or self.max is not None
        rules = ["`min` or `max`"] * limits + [f"`{name}`" for name in ("top_k", "quantile", "best_of") if getattr(self, name) is not None]
        wrong = None
        if (self.where is None) == (self.score is None):
            wrong = "`keep` has either a condition (`where`) or a `score`"
        elif self.where is not None and rules:
            wrong = f"`where` decides alone; {rules[0]} goes with `score`"
        elif self.score is not None and not rules:
            wrong = "a `score` alone does not say what is kept: add `min` or `max`, `top_k`, `quantile` or `best_of`"
        elif len(rules) > 1:
            wrong = f"{' and '.join(rules)} are two rules: write two steps, which run in order"
        elif self.min is not None and self.max is not None and self.min > self.max:
            wrong = "`min` is above `max`: nothing would be kept"
        elif self.num_best > 1 and self.best_of != "siblings":
            wrong = "`num_best` goes with `best_of: siblings`"
        if wrong:
            raise PydanticCustomError("keep_rule", "{wrong}", {"wrong": wrong})
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The scores that the expression reads."""
        return self._expression.names

    @property
    def completes(self) -> bool:
        """Whether it chooses the answer."""
        return self.best_of == "candidates"

    @property
    def _expression(self) -> Expression:
        return parse(self.where or self.score or "")

    def judge(self, rows: Sequence[Row], scene: Scene) -> list[Verdict]:
        """Return one verdict a row.

        Raises:
            StageError: a row lacks a score that is read, or the expression has no value for it.
        """
        if self.best_of == "candidates":
            return self._choose(rows)
        table = [_read(row, self.reads) for row in rows]
        if self.where is not None:
            return self._test(rows, table)
        values = [round(value, NUM_DECIMALS) for value in self._values([row.id for row in rows], table)]
        if self.min is not None or self.max is not None:
            return [self._within(value) for value in values]
        kept = self._best(rows, values)
        return [KEEP if i in kept else drop(self._reason("not among the highest"), score=value) for i, value in enumerate(values)]

    def _reason(self, what: str, names: Sequence[str] | None = None) -> str:
        return f"{', '.join(self.reads if names is None else names)}: {what}"

    def _values(self, names: Sequence[str], table: Sequence[Scores]) -> list[float]:
        taken = self._taken(table)
        return [_number(self._expression.clauses[0].evaluate, name, scores, taken) for name, scores in zip(names, table, strict=True)]

    def _taken(self, table: Sequence[Scores]) -> list[float]:
        try:
            return self._expression.taken(table)
        except (ArithmeticError, ValueError) as error:
            raise StageError(f"`{self.where or self.score}` has no value over these rows: {error}") from None

    # --- the rules -----------------------------------------------------------------------------------------------------------

    def _test(self, rows: Sequence[Row], table: Sequence[Scores]) -> list[Verdict]:
        """Return verdicts by a condition: the first of its parts that does not hold is the reason."""
        taken, verdicts = self._taken(table), []
        for row, scores in zip(rows, table, strict=True):
            failed = next((c for c in self._expression.clauses if not _number(c.evaluate, row.id, scores, taken)), None)
            if failed is None:
                verdicts.append(KEEP)
                continue
            value = scores[failed.names[0]] if len(failed.names) == 1 else None
            verdicts.append(drop(self._reason("condition not met", failed.names), score=value))
        return verdicts

    def _within(self, value: float) -> Verdict:
        if self.min is not None and value < self.min:
            return drop(self._reason("too low"), score=value)
        if self.max is not None and value > self.max:
            return drop(self._reason("too high"), score=value)
        return KEEP

    def _best(self, rows: Sequence[Row], values: Sequence[float]) -> set[int]:
        """Return the positions of the rows that are kept for being among the highest."""
        order = sorted(range(len(rows)), key=lambda i: (-values[i], rows[i].id))
        if self.top_k is not None:
            return set(order[: self.top_k])
        if self.quantile is not None:
            limit = round(quantile(values, self.quantile), NUM_DECIMALS) if rows else 0.0
            return {i for i in order if values[i] >= limit}
        siblings: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for i in order:
            siblings[rows[i].parents or (rows[i].id,)].append(i)
        return {i for group in siblings.values() for i in group[: self.num_best]}

    def _choose(self, rows: Sequence[Row]) -> list[Verdict]:
        """Return verdicts that give each row without an answer the best of its candidates."""
        able = [[(one, _scores_of(one)) for one in row.candidates] if row.answer is None else [] for row in rows]
        able = [[(one, found) for one, found in each if found.keys() >= set(self.reads)] for each in able]
        taken = self._taken([found for each in able for _, found in each])
        verdicts = []
        for row, each in zip(rows, able, strict=True):
            if row.answer is not None or not row.candidates:
                verdicts.append(KEEP)
                continue
            if not each:
                raise StageError(
                    f"no candidate of row {row.id} has the score {_listed(self.reads)}", hint="put a scorer of that name before it"
                )
            values = [_number(self._expression.clauses[0].evaluate, row.id, found, taken) for _, found in each]
            chosen = each[max(range(len(each)), key=lambda i: (values[i], -i))][0]
            made = row.with_answer(chosen["text"], ended=bool(chosen.get("ended", True)), keys=())
            verdicts.append(Verdict(None, row=replace(made, scores={**row.scores, **chosen.get("scores", {})})))
        return verdicts


def _read(row: Row, names: Sequence[str]) -> Scores:
    return {name: score_of(row, name) for name in names}


def _scores_of(candidate: Mapping[str, Any]) -> Scores:
    own = {name: candidate[name] for name in ("score", "logprob") if candidate.get(name) is not None}
    return {**own, **candidate.get("scores", {})}


def _number(evaluate: Any, name: str, scores: Scores, taken: Sequence[float]) -> float:
    try:
        value = evaluate(scores, taken)
    except (ArithmeticError, ValueError) as error:
        raise StageError(f"the expression has no value for row {name}: {error}; its scores: {dict(scores)}") from None
    if not math.isfinite(value) or not all(map(math.isfinite, scores.values())):
        raise StageError(f"the expression has no value for row {name}: it is not finite; its scores: {dict(scores)}")
    return value  # type: ignore[no-any-return]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
