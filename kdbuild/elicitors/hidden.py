"""The teacher reads the answer, and its hidden states are kept."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors._reading import ReadsAnswers
from kdbuild.teachers import Reading


class Hidden(ReadsAnswers):
    """Store hidden states, and attention maps, of chosen layers at the positions that predict each answer's tokens."""

    kind: Literal["hidden"] = "hidden"
    source: ClassVar[str | None] = "Xu et al. 2024 (2402.13116), Eq. 6 and 11"
    block: ClassVar[str | None] = "gen.hidden"

    layers: list[int] = Field([-1], min_length=1, max_length=256)
    """Which layers: 0 is the embedding, -1 the last."""
    attention: bool = False
    """Whether the attention maps of these layers are kept as well."""
    dtype: Literal["float16", "float32"] = "float16"
    """Precision they are kept in."""

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if len(self.actors) > 1:
            raise PydanticCustomError("one_teacher", "hidden states of several teachers cannot be fused; use an operator for each", {})
        if len(set(self.layers)) < len(self.layers):
            raise PydanticCustomError("layers", "a layer is named twice", {})
        return self

    @property
    def reading(self) -> Reading:
        """The states asked for."""
        return Reading("hidden", layers=tuple(self.layers), attention=self.attention, dtype=self.dtype)
