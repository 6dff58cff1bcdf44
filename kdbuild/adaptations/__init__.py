"""Adaptations: which parameters of the student are trained."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from kdbuild.kinds import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


class Adaptation(Kind):
    """Base of every adaptation. Absent in a phase: all parameters are trained."""

    family: ClassVar[str] = "adaptations"

    @abstractmethod
    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with only the adaptation's parameters trainable; same starting point for the same seed."""

    @abstractmethod
    def merge(self, model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
        """Write the adapter into folder `adapter` and return the plain model with it merged in."""
