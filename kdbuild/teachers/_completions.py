"""The completions protocol with `echo`: how likely a model finds a given text, by servers that tell of the tokens of a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import orjson
from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kdbuild.errors import StageError
from kdbuild.teachers import Answer, Ask
from kdbuild.teachers._calls import Broken, Refused, Stop
from kdbuild.teachers._endpoints import Endpoint


@dataclass(frozen=True)
class Completions:
    """How a text is put to a server, and found again in what it says."""

    model: str
    template: str
    """Jinja that writes a conversation as the model is shown it."""
    start: str
    """The token that a text on its own begins with, spelt out."""

    def body(self, ask: Ask) -> bytes:
        """Return the request's body: a prompt for each choice, which the server reads and adds nothing to.

        Raises:
            Refused: the template refuses the conversation, or a choice is empty.
        """
        if not all(ask.choices):
            raise Refused("a choice has no tokens", about_row=True)
        before = self._before(ask)
        prompts = [(before + text).encode("utf-8", "replace").decode() for text in ask.choices]
        value = {"model": self.model, "prompt": prompts, "echo": True, "logprobs": 0, "max_tokens": 0, "temperature": 1.0}
        # Servers put BOS before a prompt, and the template or `start` has written it.
        return orjson.dumps({**value, "add_special_tokens": False})

    def read(self, endpoint: Endpoint, ask: Ask, value: Any) -> Answer:
        """Return the answer that the value of a response's body is.

        Raises:
            Broken: it is not one.
            Refused: a token reaches over the beginning of the text.
            Stop: the server does not tell of the tokens of a prompt.
        """
        try:
            told = [one["logprobs"] for one in sorted(value["choices"], key=lambda one: one.get("index", 0))]
            if len(told) != len(ask.choices):
                raise Broken("the answer is not one")
            if any(not one or not one.get("tokens") for one in told):
                _tells_nothing(endpoint)
            found = [self._of_choice(endpoint, ask, text, one) for text, one in zip(ask.choices, told, strict=True)]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Broken("the answer is not one") from None
        logprobs, counts, starts = zip(*found, strict=True)
        return Answer("", True, starts[0], 0, logprobs=logprobs, num_choice_tokens=counts)

    def _of_choice(self, endpoint: Endpoint, ask: Ask, text: str, told: Mapping[str, Any]) -> tuple[float, int, int]:
        """Return the log-probability of a text, its number of tokens, and the number of those before it."""
        tokens, before = [str(token) for token in told["tokens"]], self._before(ask)
        at = _break(tokens, before, text)
        if at is None:
            _tells_nothing(endpoint) if "".join(tokens) == text else None
            raise Refused("no token begins where the text begins", about_row=True)
        own = told["token_logprobs"][at : len(tokens)]
        if any(value is None for value in own):
            _tells_nothing(endpoint)
        logprob = math.fsum(map(float, own))
        if not math.isfinite(logprob):
            raise Refused("the model's logits are not numbers", about_row=True)
        return round(logprob, 6), len(own), at

    def _before(self, ask: Ask) -> str:
        if not ask.is_conditioned:
            return self.start
        turns = [{"role": message.role, "content": message.content} for message in ask.messages]
        try:
            return self._compiled.render(messages=turns, add_generation_prompt=True, bos_token=self.start, eos_token="")
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise Refused("the chat template refuses the messages", about_row=True) from error

    @cached_property
    def _compiled(self) -> Template:
        # As the transformers library reads chat templates.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
        environment.globals["raise_exception"] = _raise
        try:
            return environment.from_string(self.template)
        except TemplateError as error:
            hint = "correct `likelihoods: {chat_template: ...}` of the teacher in params.yaml"
            raise Stop(StageError(f"the chat template is not a Jinja template: {error}", hint=hint)) from None


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _break(tokens: list[str], before: str, text: str) -> int | None:
    """Return which token is the first of `text`, by the text of the tokens before it or else of those from it on.

    A character that is cut by the tokens is not spelt out in them, so one of the two sides may not read as it was written.
    """
    read = ""
    for i, token in enumerate(tokens):
        if read == before:
            return i
        read += token
    read = ""
    for i in range(len(tokens) - 1, 0, -1):
        read = tokens[i] + read
        if read == text:
            return i
    return None


def _tells_nothing(endpoint: Endpoint) -> NoReturn:
    hint = "take `likelihoods` from the teacher, and ask one that gives them: kinds `transformers` and `vllm`, or a served vLLM"
    raise Stop(StageError(f"{endpoint.label}: the server gives no log-probabilities of the tokens of a prompt", hint=hint))
