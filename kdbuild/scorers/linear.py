"""Quality as a linear function of scores that others gave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Rejected, Scene
from kdbuild.records import Row
from kdbuild.scorers import Cost, Scores
from kdbuild.scorers._pooled import Pooled

_META = "meta."
_MISSING = Rejected("an indicator is missing")
_UNDECIDED = Rejected("too few rows with a known target to fit on")
_Model = tuple[float, Mapping[str, float]]
"""(intercept, coefficients by score)."""


class Linear(Pooled):
    """b0 + sum_j b_j I_j of scores I_j that scorers before it wrote: with the coefficients given, or fitted on the rows whose target is
    known, by least squares (`ridge` adds ridge |b|^2).

    With `log_target` the logarithm of the target is fitted, and the value is that logarithm.
    """

    kind: Literal["linear"] = "linear"
    source: ClassVar[str | None] = (
        "Cao et al. 2023, Instruction Mining (2307.06290), equation 4: log L ~ b0 + sum_j b_j I_j; Hoerl and Kennard 1970: ridge"
    )
    block: ClassVar[str | None] = "score.linear"
    # It reads what others write: it keeps its place behind the dearest of them.
    cost: ClassVar[Cost] = Cost.MODEL
    parts: ClassVar[tuple[str, ...]] = ("",)

    indicators: dict[str, float] | list[str] = Field(min_length=1, examples=[{"rating": 1.0}])
    """The scores I_j with their coefficients b_j; a list of scores where the coefficients are fitted."""
    intercept: float = 0.0
    """b0, where nothing is fitted."""
    target: str | None = None
    """What to predict, a score (`rating`) or a number of the row's meta (`meta.loss`): fitted on the rows that have it, predicted for
    all."""
    log_target: bool = False
    """Whether the logarithm of the target is fitted; a target of 0 or less is then unknown."""
    ridge: float = Field(0.0, ge=0)
    """Weight of |b|^2, in the units of the scores; above 0 the fit is defined for any number of rows from 2."""

    @model_validator(mode="after")
    def _is_fitted_or_given(self) -> Self:
        if (self.target is None) != isinstance(self.indicators, dict):
            raise PydanticCustomError(
                "linear_fit", "coefficients stand with the `indicators`, or are fitted: a list of these and a `target`"
            )
        if self.target is None and (self.ridge or self.log_target):
            raise PydanticCustomError("linear_given", "`ridge` and `log_target` are about a fit: say `target:`")
        if self.target is not None and self.intercept:
            raise PydanticCustomError("linear_intercept", "with a `target` the intercept is fitted")
        if len(set(self.indicators)) < len(self.indicators):
            raise PydanticCustomError("linear_twice", "an indicator is named once")
        if self.target in self.indicators:
            raise PydanticCustomError("linear_itself", "the target cannot be predicted from itself")
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return nothing: scores may be a row's or its candidates'."""
        return ()

    @property
    def reads_scores(self) -> tuple[str, ...]:
        """Return the indicators and the target."""
        return (*self.indicators, *([self.target] if self.target is not None and not self.target.startswith(_META) else []))

    def values(self, rows: Sequence[Row], scene: Scene) -> list[Scores | Rejected]:
        """Fit on the rows whose target is known, where nothing is given, and predict all."""
        model = (self.intercept, self.indicators) if isinstance(self.indicators, dict) else self._fitted(rows)
        return [_UNDECIDED if model is None else self._predicted(row, model) for row in rows]

    def _fitted(self, rows: Sequence[Row]) -> _Model | None:
        from kdbuild.scorers import _regression

        known = [(values, target) for row in rows if (values := self._values(row)) and (target := self._target(row)) is not None]
        found = _regression.fit([values for values, _ in known], [target for _, target in known], self.ridge) if known else None
        return None if found is None else (found[0], dict(zip(self.indicators, found[1], strict=True)))

    def _values(self, row: Row) -> list[float] | None:
        """Return the row's indicators, None where one is missing."""
        found = [row.scores.get(name) for name in self.indicators]
        return None if None in found else [one for one in found if one is not None]

    def _target(self, row: Row) -> float | None:
        name = self.target or ""
        value = _number(row.meta.get(name.removeprefix(_META))) if name.startswith(_META) else row.scores.get(name)
        if value is None or not self.log_target:
            return value
        return math.log(value) if value > 0 else None

    def _predicted(self, row: Row, model: _Model) -> Scores | Rejected:
        values = self._values(row)
        if values is None:
            return _MISSING
        return {"": model[0] + sum(b * value for b, value in zip(model[1].values(), values, strict=True))}


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
