"""Teachers: who answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from kdbuild import canonical
from kdbuild.kinds import Kind, Knob, Model
from kdbuild.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Signal(StrEnum):
    """What a teacher can give."""

    TEXT = "text"
    LOGITS = "logits"
    HIDDEN = "hidden"


class Price(Model):
    """What a teacher costs, in US dollars per million tokens."""

    prompt_usd_per_mtok: float = Field(0.0, ge=0)
    """Per million prompt tokens."""
    answer_usd_per_mtok: float = Field(0.0, ge=0)
    """Per million generated tokens."""


@dataclass(frozen=True)
class Ask:
    """One question to a teacher, by its content: two equal asks are one answer."""

    row: str
    """Id of the row it is asked for. With `sample` it decides the sampling seed; it is not part of the key."""
    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    sample: int = 0
    """The n-th sample of this question."""
    salt: str = ""
    """Changed by hand to ask again what was answered before."""

    @property
    def seed(self) -> int:
        """The sampling seed: from the row's id and the sample's number, never from a position. 0 where decoding is greedy."""
        return canonical.seed_of("sample", self.row, self.sample) if self.temperature > 0 else 0

    def material(self) -> dict[str, Any]:
        """Return what of the question defines its answer; the limit is kept beside the key, not in it."""
        return {
            "operation": "generate",
            "messages": [[m.role, m.content] for m in self.messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "sample": self.sample,
            "salt": self.salt,
        }


@dataclass(frozen=True)
class Answer:
    """What a teacher answered."""

    text: str
    ended: bool
    """Whether it ended by itself; False where it was cut at the limit."""
    num_prompt_tokens: int
    num_new_tokens: int
    """Tokens generated, the end of turn included."""
    failed: str | None = None
    """Why there is no answer; None where there is one. A failed ask is not stored as an answer."""


def row_key(identity: Mapping[str, Any], ask: Ask) -> str:
    """Return the row key of a question to the teacher with this `answer_identity`: equal keys have equal answers."""
    return canonical.digest(["kdbuild-answer/1", identity, ask.material()])


class Session(ABC):
    """An opened teacher; holds the GPU, the socket or the process."""

    @abstractmethod
    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index into `asks`, answer) as answers are ready, in any order; each exactly once."""


class Teacher(Kind):
    """Base of every teacher. Which model answers, and how precisely, is identity; where and how fast it runs are knobs."""

    family: ClassVar[str] = "teachers"
    gives: ClassVar[frozenset[Signal]] = frozenset({Signal.TEXT})
    """What this kind can give."""

    licence: Annotated[str | None, Knob("a licence is about use; reports name it, answers do not depend on it")] = None
    """SPDX name of the model's licence."""
    price: Annotated[Price | None, Knob("money spent does not change an answer")] = None
    """What its tokens cost; absent for a model you run yourself."""

    def sources(self) -> tuple[str, ...]:
        """Return the model sources (`hf:`, `path:`, `pypi:`) whose files this teacher needs."""
        return ()

    def files(self) -> tuple[str, ...]:
        """Return the project's files it reads: dependencies of every stage that asks it."""
        return ()

    def answer_identity(self, root: Path) -> dict[str, Any]:
        """Return what of the teacher defines an answer; a file of the project it reads stands here by its content, never by its path."""
        return self.identity()

    def summary(self, name: str) -> str:
        """Return the teacher's name, model and revision, in one line for people."""
        model, revision = getattr(self, "model", None) or self.kind, getattr(self, "revision", None)
        return f"{name} ({model}, revision {revision})" if revision else f"{name} ({model})"

    @abstractmethod
    def open(self, root: Path, weights: Path | None) -> AbstractContextManager[Session]:
        """Open the teacher. `weights` is the folder its model was fetched into, None where it has no model of its own files."""

    def load(self, root: Path, weights: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the teacher's own network and tokenizer, for kinds that give logits or hidden states.

        Raises:
            NotImplementedError: never reached from a checked spec: this kind gives text only.
        """
        raise NotImplementedError(f"teacher `{self.kind}` has no network here")
