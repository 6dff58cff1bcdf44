"""How likely a model finds a text, after a conversation or on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from kdbuild.elicitors import Answered, Rejected, Scene
from kdbuild.records import Message, Row
from kdbuild.scorers import Cost, Scorer
from kdbuild.teachers import Ask, Signal

NO_ANSWER = Rejected("no answer to score")
NO_PROMPT = Rejected("no prompt to score")


@dataclass(frozen=True)
class Likelihood:
    """What a model says of one text."""

    logprob: float
    """Of the whole text, in nats."""
    num_tokens: int

    @property
    def per_token(self) -> float:
        """The mean log-probability of a token, in nats: minus the loss."""
        return self.logprob / self.num_tokens


class Weighing(Scorer):
    """Base of scorers that are made of likelihoods; a weak model will often do (`by: <teacher>`)."""

    asks_once: ClassVar[bool] = True
    cost: ClassVar[Cost] = Cost.MODEL

    @property
    def needs(self) -> frozenset[Signal]:
        """The likelihood of whole texts."""
        return frozenset({Signal.LIKELIHOOD})


def ask(scene: Scene, row: str, text: str, before: Sequence[Message] = ()) -> Ask:
    """Return the question how likely `text` is as the answer to the turns `before` it; without a user's turn, on its own."""
    turns = tuple(Message(turn.role, turn.content) for turn in before)
    return Ask(row, turns if any(turn.role == "user" for turn in turns) else (), choices=(text,), to=scene.actor)


def read(answered: Answered) -> Likelihood | Rejected:
    """Return what the model said, or why that is not enough."""
    answer = answered.answer
    if len(answer.logprobs) != 1 or len(answer.num_choice_tokens) != 1:
        return Rejected("no likelihood in the answer", answer.text)
    return Likelihood(answer.logprobs[0], answer.num_choice_tokens[0])


def read_all(answered: Sequence[Answered]) -> list[Likelihood] | Rejected:
    """Return what the model said of several texts; the first that is not enough rejects all."""
    found = []
    for one in answered:
        likelihood = read(one)
        if isinstance(likelihood, Rejected):
            return likelihood
        found.append(likelihood)
    return found


# --- texts of a row ------------------------------------------------------------------------------------------------------------


def answer_of(row: Row) -> str | None:
    """Return the answer, None where there is none or it is blank."""
    return row.answer if (row.answer or "").strip() else None


def before_answer(row: Row) -> tuple[Message, ...]:
    """Return the turns before the answer: of a dialogue, all before its last learned turn."""
    last = max((i for i, turn in enumerate(row.messages) if turn.train), default=len(row.messages))
    return row.messages[:last]


def prompt_of(row: Row) -> str | None:
    """Return what the user says before the first learned turn, None where that is nothing."""
    texts = [turn.content for turn in row.prompt if turn.role == "user" and turn.content.strip()]
    return "\n\n".join(texts) or None


def passages(row: Row) -> str:
    """Return the row's context as one text."""
    texts = [str(passage.get("text") or "").strip() for passage in row.context]
    return "\n\n".join(text for text in texts if text)


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers, at least one."""
    return sum(values) / len(values)
