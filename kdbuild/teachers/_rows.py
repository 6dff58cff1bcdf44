"""A question to a local causal model, as tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import torch
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from kdbuild.errors import KdbuildError
from kdbuild.teachers import Answer, Ask, Operation
from kdbuild.teachers import Reading as Wanted
from kdbuild.teachers._batch import Network
from kdbuild.teachers._prompts import before_choices, choice_ids, reading_ids

if TYPE_CHECKING:
    from kdbuild.teachers._grammar import Grammars, Matcher


class Unanswerable(Exception):
    """A question that the model cannot be asked."""

    def __init__(self, reason: str, num_prompt_tokens: int = 0) -> None:
        super().__init__(reason)
        self.answer = failure(reason, num_prompt_tokens)


@dataclass
class Writing:
    """An answer that is being written."""

    index: int
    ask: Ask
    prompt: list[int]
    matcher: Matcher | None = None
    generator: torch.Generator | None = None
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    """Of `tokens`, in nats."""

    @property
    def num_tokens_at_most(self) -> int:
        """Prompt and limit."""
        return len(self.prompt) + self.ask.max_new_tokens


@dataclass
class Choosing:
    """A question with given answers."""

    index: int
    ask: Ask
    prompt: list[int]
    choices: list[list[int]]
    """Tokens of each."""

    @property
    def num_tokens_at_most(self) -> int:
        """Prompt and longest choice."""
        return len(self.prompt) + max(map(len, self.choices))


@dataclass
class Reading:
    """A conversation to be read as it stands."""

    index: int
    ask: Ask
    prompt: list[int]
    """All its tokens, up to the last trained one."""
    wanted: Wanted
    trained: list[int]
    """Positions of the trained tokens that are predicted: all but one that comes first."""

    @property
    def span(self) -> int:
        """Positions from the first that predicts a trained token to the end."""
        return len(self.prompt) - self.trained[0] + 1

    @property
    def num_tokens_at_most(self) -> int:
        """All of it."""
        return len(self.prompt)


Asked: TypeAlias = Writing | Choosing | Reading


def prepare(index: int, ask: Ask, network: Network, grammars: Grammars) -> Asked:
    """Return a question as tokens.

    Raises:
        Unanswerable: the chat template refuses it, the schema cannot be followed, or it is longer than the model's positions.
    """
    try:
        row = _prepare(index, ask, network, grammars)
    except KdbuildError as error:
        raise Unanswerable(error.message) from error
    except (TemplateError, ValueError, TypeError) as error:
        raise Unanswerable(f"the chat template refuses the messages: {error}") from error
    if not row.prompt:
        raise Unanswerable("the prompt has no tokens")
    most = network.max_positions
    if most is not None and row.num_tokens_at_most > most:
        room = f"{len(row.prompt)} prompt tokens and {row.num_tokens_at_most - len(row.prompt)} new ones"
        raise Unanswerable(f"{room} are more than the model's {most} positions", len(row.prompt))
    return row


def _prepare(index: int, ask: Ask, network: Network, grammars: Grammars) -> Asked:
    if ask.operation is Operation.CLASSIFY:
        raise Unanswerable("a causal language model has no labels")
    if ask.reading is not None:
        return _reading(index, ask, ask.reading, network)
    if ask.operation is Operation.CHOOSE:
        return _choosing(index, ask, network.tokenizer)
    row = Writing(index, ask, network.encode(ask.messages))
    if ask.temperature > 0:
        row.generator = torch.Generator().manual_seed(ask.seed)
    if ask.schema is not None:
        row.matcher = grammars.matcher(ask.schema)
    return row


def _choosing(index: int, ask: Ask, tokenizer: PreTrainedTokenizerBase) -> Choosing:
    prompt, choices = before_choices(tokenizer, ask), choice_ids(tokenizer, ask.choices)
    if not all(choices):
        raise Unanswerable("a choice has no tokens", len(prompt))
    return Choosing(index, ask, prompt, choices)


def _reading(index: int, ask: Ask, wanted: Wanted, network: Network) -> Reading:
    ids, trained = reading_ids(network.tokenizer, ask.row, ask.messages)
    if not trained:
        raise Unanswerable("there is no token of a trained turn to read", len(ids))
    num_layers = network.model.config.get_text_config().num_hidden_layers
    if not all(-num_layers - 1 <= layer <= num_layers for layer in wanted.layers):
        raise Unanswerable(f"layers {list(wanted.layers)} are asked for, and the model has {num_layers}", len(ids))
    return Reading(index, ask, ids, wanted, trained)


def failure(reason: str, num_prompt_tokens: int = 0) -> Answer:
    """Return a failed call, in one line."""
    return Answer("", False, num_prompt_tokens, 0, failed=" ".join(reason.split()))


def rounded(logprob: float) -> float:
    """Return a log-probability without the digits that depend on the batch it was computed in."""
    return round(logprob, 6)
