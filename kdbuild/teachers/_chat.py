"""The chat-completions protocol: a question as a request's body, and a response's body as an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask, Signal
from kdbuild.teachers._calls import Broken, Refused, Stop
from kdbuild.teachers._completions import Completions
from kdbuild.teachers._endpoints import Endpoint
from kdbuild.teachers._wire import refusal

CHAT, COMPLETIONS = "/chat/completions", "/completions"
NUM_TOP_LOGPROBS = 20
"""As many as OpenAI and vLLM give at most."""
_BYTES_PER_TOKEN = 4
"""Where a server does not count tokens."""
_SEEDS = 2**31
"""Servers keep seeds in anything from 32 signed bits up."""
_BOUNDS = ("minLength", "maxLength", "pattern", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_AGAIN = ("error", "abort")


@dataclass(frozen=True)
class Dialect:
    """How requests are written for a server: the teacher's identity fields of the same names."""

    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    structured: Literal["json_schema", "json_schema_no_bounds", "json_object", "none"] = "json_schema"
    limit_field: str = "max_tokens"
    omit: frozenset[str] = frozenset()
    logprobs: bool = False
    likelihoods: Completions | None = None

    def path(self, ask: Ask) -> str:
        """Return where a question goes."""
        return COMPLETIONS if ask.needs is Signal.LIKELIHOOD else CHAT

    def read(self, endpoint: Endpoint, ask: Ask, raw: bytes) -> Answer:
        """Return the answer that a response's body holds; raises as `read` of its protocol does."""
        if self.likelihoods is not None and ask.needs is Signal.LIKELIHOOD:
            return self.likelihoods.read(endpoint, ask, load(raw))
        return read(endpoint, ask, raw)

    def body(self, ask: Ask) -> bytes:
        """Return the request's body.

        Raises:
            Stop: the teacher is not said to give what is asked for.
            Refused: the question cannot be written for it.
        """
        if ask.needs is Signal.LIKELIHOOD:
            return self._weighing(ask)
        value: dict[str, Any] = {"model": self.model, "messages": [_turn(message) for message in ask.messages], **self.extra}
        value |= self._choosing() if ask.choices else self._writing(ask)
        try:
            return orjson.dumps(value)
        except TypeError:  # half a surrogate pair
            return json.dumps(tidy_deep(value), ensure_ascii=False).encode()

    def _weighing(self, ask: Ask) -> bytes:
        if self.likelihoods is None:
            hint = "a server that echoes prompts with log-probabilities does, once `likelihoods` of the teacher say how"
            raise Stop(StageError(f"the teacher's model `{self.model}` is not said to give the likelihood of whole texts", hint=hint))
        return self.likelihoods.body(ask)

    def _writing(self, ask: Ask) -> dict[str, Any]:
        sampled = ask.temperature > 0
        value: dict[str, Any] = {self.limit_field: ask.max_new_tokens, "temperature": ask.temperature}
        if sampled and ask.top_p < 1:
            value["top_p"] = ask.top_p
        if sampled:
            value["seed"] = ask.seed % _SEEDS
        if ask.stop:
            value["stop"] = list(ask.stop)
        value = {name: item for name, item in value.items() if name not in self.omit}
        if self.logprobs:
            value["logprobs"] = True
        if ask.schema is not None and self.structured != "none":
            value["response_format"] = self._format(ask.schema)
        return value

    def _choosing(self) -> dict[str, Any]:
        # At temperature 1 the log-probabilities are the model's own, whether the server gives them before or after sampling.
        value = {self.limit_field: 1, "temperature": 1.0}
        value = {name: item for name, item in value.items() if name not in self.omit}
        return {**value, "logprobs": True, "top_logprobs": NUM_TOP_LOGPROBS}

    def _format(self, schema: str) -> dict[str, Any]:
        if self.structured == "json_object":
            return {"type": "json_object"}
        form = orjson.loads(schema)
        if self.structured == "json_schema_no_bounds":
            form = _without_bounds(form)
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": form, "strict": True}}


def _turn(message: Message) -> dict[str, str]:
    # A tool's turn needs the id of the call it belongs to, which conversations here do not have.
    return {"role": "user" if message.role == "tool" else message.role, "content": message.content}


def _without_bounds(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_bounds(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, item in value.items():
        if key == "properties":
            found[key] = {name: _without_bounds(part) for name, part in item.items()}
        elif key not in _BOUNDS:
            found[key] = _without_bounds(item)
    return found


# --- answers ----------------------------------------------------------------------------------------------------------------


def read(endpoint: Endpoint, ask: Ask, raw: bytes) -> Answer:
    """Return the answer that a response's body holds.

    Raises:
        Broken: it holds none, or half of one; asking again may help.
        Refused: the server's filter cut the answer, or no choice is among the likeliest tokens.
        Stop: the server does not give the log-probabilities it was asked for.
    """
    return read_value(endpoint, ask, load(raw))


def read_value(endpoint: Endpoint, ask: Ask, value: Any) -> Answer:
    """Return the answer that the value of a response's body is, as `read` does."""
    if isinstance(value, dict) and value.get("error") and not value.get("choices"):
        code = value["error"].get("code") if isinstance(value["error"], dict) else None
        raise refusal(endpoint, code if isinstance(code, int) and 400 <= code < 600 else 500, orjson.dumps(value), {})
    try:
        choice = value["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text = endpoint.secrets.hide_in(tidy(_text(message)))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Broken("the answer is not one") from None
    if finish in _AGAIN:
        raise Broken("the server gave up on it")
    if finish == "content_filter":
        raise Refused("the server's content filter cut the answer", about_row=True)
    usage = value.get("usage")
    num_prompt_tokens = _count(usage, "prompt_tokens", *(message.content for message in ask.messages))
    if ask.choices:
        return Answer("", True, num_prompt_tokens, 0, logprobs=_choice_logprobs(endpoint, ask.choices, choice))
    return _written(ask, text, finish, usage, num_prompt_tokens, choice)


def _written(ask: Ask, text: str, finish: Any, usage: Any, num_prompt_tokens: int, choice: Mapping[str, Any]) -> Answer:
    num_new_tokens = _count(usage, "completion_tokens", text)
    ended = finish != "length" if isinstance(finish, str) else num_new_tokens < ask.max_new_tokens
    # An answer that ended is within its limit, whatever the server counts: else it would be asked again at every build.
    num_new_tokens = min(num_new_tokens, ask.max_new_tokens) if ended or not isinstance(usage, dict) else num_new_tokens
    return Answer(text, ended, num_prompt_tokens, num_new_tokens, logprob=None if ask.schema else _logprob(choice))


def load(raw: bytes) -> Any:
    """Return the JSON value of a body; bytes that are no UTF-8, control characters and half surrogate pairs inside texts are mended.

    Raises:
        Broken: it is not JSON.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(raw.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        raise Broken("the answer is not one") from None


def _text(message: Mapping[str, Any]) -> str:
    """Return what was written: the content, else the refusal; then each call of a tool, as a line of JSON."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else str(part.get("text") or part.get("refusal") or "") for part in content)
    if content is not None and not isinstance(content, str):
        raise TypeError
    written = content or message.get("refusal") or ""
    if not message.get("tool_calls"):
        return written
    lines = [written]
    for call in message["tool_calls"]:
        function = call["function"]
        lines.append(json.dumps({"name": function["name"], "arguments": _arguments(function["arguments"])}, ensure_ascii=False))
    return "\n".join(line for line in lines if line)


def _arguments(given: Any) -> Any:
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return given


def tidy(text: str) -> str:
    """Return a text without NUL and with U+FFFD for half surrogate pairs, which no file or database takes."""
    if "\0" in text:
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def tidy_deep(value: Any) -> Any:
    """Return a JSON value with every text in it tidied."""
    if isinstance(value, str):
        return tidy(value)
    if isinstance(value, list):
        return [tidy_deep(item) for item in value]
    return {tidy(key): tidy_deep(item) for key, item in value.items()} if isinstance(value, dict) else value


def _count(usage: Any, name: str, *texts: str) -> int:
    """Return the tokens that the server counted, else an estimate for the texts."""
    given = usage.get(name) if isinstance(usage, dict) else None
    if type(given) is int and given >= 0:
        return given
    return math.ceil(sum(len(text.encode("utf-8", "replace")) for text in texts) / _BYTES_PER_TOKEN)


def _logprob(choice: Mapping[str, Any]) -> float | None:
    if choice.get("logprobs") is None:
        return None
    try:
        return math.fsum(float(token["logprob"]) for token in choice["logprobs"]["content"])
    except (KeyError, TypeError, ValueError):
        return None


def _choice_logprobs(endpoint: Endpoint, choices: Sequence[str], choice: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the log-probability of each choice: of all first tokens whose text, stripped, is the choice."""
    try:
        tokens = [(str(top["token"]).strip(), float(top["logprob"])) for top in choice["logprobs"]["content"][0]["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError):
        tokens = []
    if not tokens:
        hint = "`choice_logprobs: false` on the teacher reads verdicts from what it writes instead"
        raise Stop(StageError(f"{endpoint.label}: the server gives no log-probabilities of first tokens", hint=hint))
    found = [math.fsum(math.exp(logprob) for token, logprob in tokens if token == text.strip()) for text in choices]
    if not any(found):
        raise Refused("none of the choices is among the likeliest first tokens", about_row=True)
    # A token that was not given is no likelier than the least likely that was; it stands at half of that.
    floor = min(logprob for _, logprob in tokens) - math.log(2)
    return tuple(max(math.log(mass), floor) if mass > 0 else floor for mass in found)
