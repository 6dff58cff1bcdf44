"""Students: what is trained, and what it starts from."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from kdbuild.kinds import Kind
from kdbuild.teachers import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Student(Kind):
    """Base of every student."""

    family: ClassVar[str] = "students"

    def sources(self) -> tuple[str, ...]:
        """Return the model sources whose files it starts from."""
        return ()

    def summary(self) -> str:
        """Return what the student is and what it starts from, in one line for people."""
        return self.kind

    @abstractmethod
    def starts_from_teacher(self) -> bool:
        """Return whether its weights or its tokenizer come from the spec's teacher."""

    @abstractmethod
    def build(
        self, *, root: Path, weights: Path | None, teacher: Teacher | None, teacher_weights: Path | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the untrained student and its tokenizer (with chat template).

        `weights` is the folder its own source was fetched into; `teacher_weights` the teacher's.
        """
