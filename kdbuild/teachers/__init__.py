"""Teachers: who answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdbuild import canonical
from kdbuild.kinds import Kind, Knob, Model
from kdbuild.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Signal(StrEnum):
    """What a teacher can give."""

    TEXT = "text"
    """Text it writes."""
    CHOICES = "choices"
    """Log-probabilities of given answers."""
    LIKELIHOOD = "likelihood"
    """Log-probability and number of tokens of a whole text of any length, after a conversation or on its own."""
    TOP_K = "top-k"
    """The likeliest tokens at each position of a text it reads, with their log-probabilities."""
    LOGITS = "logits"
    """The whole next-token distribution at each position of a text it reads; a network that can be loaded here."""
    HIDDEN = "hidden"
    """Hidden states and attention maps."""
    SCORES = "scores"
    """What a classifier says of a text, or of a pair of texts, by its labels; it writes nothing."""


OF_A_NETWORK = frozenset(Signal) - {Signal.SCORES}
"""What a causal language model gives whose network is here."""


class Price(Model):
    """What a teacher costs, in US dollars per million tokens."""

    prompt_usd_per_mtok: float = Field(0.0, ge=0)
    """Per million prompt tokens."""
    answer_usd_per_mtok: float = Field(0.0, ge=0)
    """Per million generated tokens."""


class Operation(StrEnum):
    """What a question asks for."""

    GENERATE = "generate"
    """Write an answer."""
    CHOOSE = "choose"
    """Say how likely each of some given answers is."""
    READ = "read"
    """Read the answer that the messages hold, and give signals of its tokens."""
    CLASSIFY = "classify"
    """Say what the messages are, by labels."""


_CHOOSE_FORMAT = 2
"""Raised when more, or something else, is said of given answers: 2 since their tokens are counted."""


@dataclass(frozen=True)
class Reading:
    """Which signals of the tokens of the trained turns a teacher gives when it reads them."""

    form: Literal["full", "top-k", "sampled", "hidden"]
    """`full`, `top-k` and `sampled` are next-token distributions; `hidden` are hidden states (and attention maps)."""
    k: int = 0
    """Tokens kept at each position (`top-k`), or drawn (`sampled`)."""
    layers: tuple[int, ...] = ()
    """Layers of `hidden`: 0 is the embedding, -1 the last."""
    attention: bool = False
    """Whether `hidden` holds the attention maps of the layers as well."""
    dtype: Literal["float16", "float32"] = "float16"
    """Precision that `hidden` is kept in."""


@dataclass(frozen=True)
class Ask:
    """One question to a teacher, by its content: two equal asks to the same teacher are one answer."""

    row: str
    """Id of the row it is asked for. With `sample` it decides the sampling seed; it is not part of the key."""
    messages: tuple[Message, ...]
    max_new_tokens: int = 1
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    sample: int = 0
    """The n-th sample of this question."""
    salt: str = ""
    """Changed by hand to ask again what was answered before."""
    to: str = "teacher"
    """The actor it goes to: a key of the section's `actors`. Who that is, is in the key by the actor's own identity."""
    schema: str | None = None
    """JSON schema (canonical JSON) that the answer follows; every teacher that writes text decodes against it."""
    stop: tuple[str, ...] = ()
    """The answer ends, by itself, before the first of these texts."""
    choices: tuple[str, ...] = ()
    """Given answers: the question is how likely each is (`Answer.logprobs`), and nothing is written.

    A single one is a text whose likelihood is wanted, of any length. Where `messages` has no user's turn, nothing stands before it: it is
    read after the model's first token alone (BOS, else EOS), without the chat template.
    """
    reading: Reading | None = None
    """Signals wanted of the trained turns that `messages` holds (`Answer.payload`); nothing is written."""
    classify: Literal["text", "pair", "chat"] | None = None
    """What a classifier is shown (`Answer.labels`): the one message as a `text`, two messages as a `pair` (premise and hypothesis, query
    and passage), or all of them as a `chat`, by its tokenizer's chat template."""

    @property
    def operation(self) -> Operation:
        """What is asked for."""
        if self.reading is not None:
            return Operation.READ
        if self.classify is not None:
            return Operation.CLASSIFY
        return Operation.CHOOSE if self.choices else Operation.GENERATE

    @property
    def is_conditioned(self) -> bool:
        """Whether a conversation stands before the given answers."""
        return any(message.role == "user" for message in self.messages)

    @property
    def needs(self) -> Signal:
        """The signal that a teacher must give to answer it."""
        if self.operation is Operation.CLASSIFY:
            return Signal.SCORES
        if self.operation is Operation.CHOOSE:
            return Signal.CHOICES if self.is_conditioned and len(self.choices) > 1 else Signal.LIKELIHOOD
        if self.reading is None:
            return Signal.TEXT
        return {"full": Signal.LOGITS, "sampled": Signal.LOGITS, "top-k": Signal.TOP_K, "hidden": Signal.HIDDEN}[self.reading.form]

    @property
    def seed(self) -> int:
        """The sampling seed: from the row's id and the sample's number, never from a position. 0 where decoding is greedy."""
        drawn = self.temperature > 0 or (self.reading is not None and self.reading.form == "sampled")
        return canonical.seed_of("sample", self.row, self.sample) if drawn else 0

    def material(self) -> dict[str, Any]:
        """Return what of the question defines its answer; the limit is kept beside the key, not in it."""
        found: dict[str, Any] = {
            "operation": self.operation.value,
            "messages": [[m.role, m.content] for m in self.messages],
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "sample": self.sample,
            "salt": self.salt,
        }
        if self.schema is not None:
            found["schema"] = self.schema
        if self.stop:
            found["stop"] = list(self.stop)
        if self.choices:
            found |= {"choices": list(self.choices), "choose_format": _CHOOSE_FORMAT}
        if self.reading is not None:
            found["messages"] = [[m.role, m.content, m.train, m.ended] for m in self.messages]
            found["reading"] = asdict(self.reading)
        if self.classify is not None:
            found["classify"] = self.classify
        return found


@dataclass(frozen=True)
class Answer:
    """What a teacher answered."""

    text: str
    ended: bool
    """Whether it ended by itself; False where it was cut at the limit."""
    num_prompt_tokens: int
    num_new_tokens: int
    """Tokens generated, the end of turn included; 0 where nothing was written."""
    failed: str | None = None
    """Why there is no answer; None where there is one. A failed ask is not stored as an answer."""
    logprobs: tuple[float, ...] = ()
    """Log-probability (nats) of each of the ask's `choices`."""
    num_choice_tokens: tuple[int, ...] = ()
    """Tokens of each of the ask's `choices`; empty where the teacher does not say, as it may of single words among several choices."""
    logprob: float | None = None
    """Log-probability (nats) of the tokens written, the end of turn included, under the model's own distribution (temperature 1, no
    `top_p`, no schema); None where the teacher does not say."""
    payload: bytes = b""
    """The signals of a reading, as `teachers/_features.py` writes them."""
    labels: tuple[str, ...] = ()
    """Names of a classifier's labels, in its own order."""
    label_scores: tuple[float, ...] = ()
    """Of each of `labels`: its log-probability (nats) or, of a model that has only one, the raw output."""


def row_key(identity: Mapping[str, Any], ask: Ask) -> str:
    """Return the row key of a question to the teacher with this `answer_identity`: equal keys have equal answers."""
    return canonical.digest(["kdbuild-answer/1", identity, ask.material()])


class Session(ABC):
    """An opened teacher; holds the GPU, the socket or the process."""

    @abstractmethod
    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index into `asks`, answer) as answers are ready, in any order; each exactly once.

        The caller may append to `asks` whenever it was given an answer (the next turn of a conversation): a session looks at its
        length again before it ends, and should take up new asks while others are still on their way.
        """

    def stop(self) -> bool:
        """Take up no further ask; return whether the answers on their way still come.

        A session whose calls cost money lets them come: they are paid for. One that only computes has nothing to wait for.
        """
        return False


class Teacher(Kind):
    """Base of every teacher. Which model answers, and how precisely, is identity; where and how fast it runs are knobs."""

    family: ClassVar[str] = "teachers"

    licence: Annotated[str | None, Knob("a licence is about use; reports name it, answers do not depend on it")] = None
    """SPDX name of the model's licence."""
    price: Annotated[Price | None, Knob("money spent does not change an answer")] = None
    """What its tokens cost; absent for a model you run yourself."""

    @property
    def gives(self) -> frozenset[Signal]:
        """What it can give."""
        return frozenset({Signal.TEXT})

    def sources(self) -> tuple[str, ...]:
        """Return the model sources (`hf:`, `path:`, `pypi:`) whose files this teacher needs."""
        return ()

    def files(self) -> tuple[str, ...]:
        """Return the project's files it reads: dependencies of every stage that asks it."""
        return ()

    def answer_identity(self, root: Path) -> dict[str, Any]:
        """Return what of the teacher defines an answer; a file of the project it reads stands here by its content, never by its path."""
        return self.identity()

    def require_here(self) -> None:
        """Refuse a machine that lacks what it needs to be asked, besides packages and files: a key, say.

        Raises:
            StageError: names what is lacking, never a secret.
        """

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
