"""Any server that speaks OpenAI's chat-completions protocol: hosted APIs, `vllm serve`, llama.cpp's server, and others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.errors import SpecError, StageError
from kdbuild.inside import inside
from kdbuild.kinds import Knob, Model
from kdbuild.teachers import Session, Signal, Teacher

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from kdbuild.teachers._endpoints import Endpoint

_OWN_FIELDS = {
    *("model", "messages", "temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens", "response_format"),
    *("logprobs", "top_logprobs", "n", "stream", "stream_options"),
}
_LOOKS_SECRET = re.compile(r"api[-_]?key|authorization|secret|password|bearer", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _check_extra(extra: dict[str, Any]) -> dict[str, Any]:
    own = sorted(_OWN_FIELDS & extra.keys())
    if own:
        raise ValueError(
            f"`extra` may not hold {', '.join(f'`{name}`' for name in own)}: the operator or another field of the teacher says it"
        )
    if any(_LOOKS_SECRET.search(name) for name in extra):
        raise ValueError("`extra` is written to files: a key goes into the environment variable that `api_key_env` names")
    return extra


def _check_endpoint(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise ValueError("an endpoint is a URL such as http://localhost:8000/v1")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError("an endpoint is the address before `/chat/completions`, such as http://localhost:8000/v1")
    return url


def _check_variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise ValueError("it is the name of an environment variable, such as OPENAI_API_KEY, not a key")
    return name


class Concurrency(Model):
    """How many calls an endpoint is given at a time; what it can take in between is learnt from how it answers."""

    start: int = Field(64, ge=1)
    """Calls at a time to begin with; doubled each round until the server says that there are too many."""
    most: int = Field(512, ge=1)
    """Most calls at a time. For a server of your own: twice its slots (`vllm serve --max-num-seqs`, `llama-server --parallel`)."""


class Likelihoods(Model):
    """How a server is asked for the likelihood of a whole text: `/completions` with `echo` and `logprobs`, as vLLM's has it."""

    chat_template: str
    """Jinja file of the project, the model's own chat template: servers do not apply it there."""
    start: str = Field(min_length=1, examples=["<s>"])
    """The token that a text on its own begins with, spelt out: BOS, else EOS."""


class Openai(Teacher):
    """Asks one or several servers that hold the same model, as many questions at a time as they can take.

    Failed calls (lost connections, time-outs, 5xx, answers that are none) are made again up to `max_retries` times, with a doubling pause.
    A rate limit (429, or 503 with `Retry-After`) pauses the endpoint as long as it says and costs no retry. A key, a model or an address
    that is refused ends the stage at once. Choices (`choice_logprobs`) are read from the 20 likeliest first tokens: a choice has the
    probability of those that are the choice but for spaces; one that is not among them has half of the least likely one's. So give
    choices that are one token. Of a whole text (`likelihoods`) every token counts. A turn of role `tool` is sent as the user's. Calls of
    tools are text: a line of JSON each.
    """

    kind: Literal["openai"] = "openai"

    model: str = Field(min_length=1, examples=["gpt-4.1-mini"])
    """The model's name at the server."""
    revision: str = ""
    """Any text that tells this model from an earlier one of the same name; changed, everything is asked again."""
    extra: Annotated[dict[str, Any], AfterValidator(_check_extra)] = {}
    """Further fields of the request's body, as `{reasoning_effort: low}` or `{chat_template_kwargs: {enable_thinking: false}}`."""
    structured: Literal["json_schema", "json_schema_no_bounds", "json_object", "none"] = "json_schema"
    """How an answer's form is asked for. `json_schema_no_bounds` leaves out lengths, patterns and ranges, which some hosted models refuse;
    `json_object` asks for any JSON object and `none` for nothing: the operator then rejects what has another form."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the field that bounds the answer's tokens; OpenAI's reasoning models want the second."""
    omit: tuple[Literal["temperature", "top_p", "seed", "stop"], ...] = ()
    """Fields that the server refuses and that are not sent; what they say is then the server's default."""
    logprobs: bool = False
    """Ask for the log-probability of what was written."""
    choice_logprobs: bool = False
    """Whether the server gives `top_logprobs`; verdicts and ratings are then read from probabilities. Not with models that think first."""
    likelihoods: Likelihoods | None = None
    """How the server is asked how likely a whole text is; absent where it cannot be: only servers of open models tell."""

    endpoints: Annotated[tuple[Annotated[str, AfterValidator(_check_endpoint)], ...], Knob("where it runs")] = Field(
        ("https://api.openai.com/v1",), min_length=1, repr=False
    )
    """Base URLs of servers that hold the same model; each question goes to the one with the most room."""
    api_key_env: Annotated[Annotated[str, AfterValidator(_check_variable)] | None, Knob("who pays"), Field(repr=False)] = None
    """Name of the environment variable that holds the key, sent to every endpoint; absent: no key is sent."""
    concurrency: Annotated[Concurrency, Knob("how many calls are on their way together")] = Concurrency()
    """Calls at a time, for each endpoint."""
    timeout_s: Annotated[float, Knob("how long a call may take")] = Field(600.0, gt=0)
    """Seconds until a call is given up and made again."""
    connect_timeout_s: Annotated[float, Knob("how long a call may take")] = Field(10.0, gt=0)
    """Seconds until a connection that is not there yet is given up."""
    max_retries: Annotated[int, Knob("how often a failed call is made again")] = Field(5, ge=0)
    """How often a question's call is made again after it failed; rate limits do not count."""
    retry_wait_s: Annotated[float, Knob("how long a failed call waits")] = Field(0.5, gt=0)
    """First pause after a failed call; each further one is twice as long, 30 seconds at most."""
    max_rate_limit_wait_s: Annotated[float, Knob("how long a call waits")] = Field(600.0, ge=0)
    """Longest time, in all, that one question waits at rate limits."""
    max_outage_s: Annotated[float, Knob("how long a stage waits")] = Field(120.0, ge=0)
    """Longest time that no endpoint answers before the stage stops, as while a server restarts."""
    batch_api: Annotated[bool, Knob("how the same questions travel")] = False
    """Send questions as batches (`/files`, `/batches`; half the price at some providers, answers within a day) to the first endpoint.
    A stage that is stopped finds its batches again when it is built again."""
    batch_poll_s: Annotated[float, Knob("how often a batch is looked at")] = Field(60.0, gt=0)
    """Seconds between two looks at a batch."""

    @model_validator(mode="after")
    def _batches_are_of_one_kind(self) -> Self:
        if self.batch_api and self.likelihoods is not None:
            raise PydanticCustomError("likelihoods", "`batch_api` sends chats only; give `likelihoods` to a teacher without it")
        return self

    @property
    def gives(self) -> frozenset[Signal]:
        """Text, and log-probabilities of choices and of whole texts where the server gives those of tokens."""
        more = {Signal.CHOICES: self.choice_logprobs, Signal.LIKELIHOOD: self.likelihoods is not None}
        return frozenset({Signal.TEXT, *(signal for signal, given in more.items() if given)})

    def files(self) -> tuple[str, ...]:
        """Return the chat template."""
        return () if self.likelihoods is None else (self.likelihoods.chat_template,)

    def answer_identity(self, root: Path) -> dict[str, Any]:
        """Return the identity; what the server can do besides does not change an answer it gave."""
        found = {name: value for name, value in self.identity().items() if name not in ("choice_logprobs", "likelihoods")}
        if self.likelihoods is None:
            return found
        return {**found, "likelihoods": {"chat_template": canonical.digest(self._template(root)), "start": self.likelihoods.start}}

    def require_here(self) -> None:
        """Refuse a machine where the environment variable of the key is not set."""
        self._key()

    @contextmanager
    def open(self, root: Path, weights: Path | None) -> Iterator[Session]:
        """Open connections as they are needed.

        Raises:
            StageError: the environment variable of the key is not set.
        """
        from kdbuild.teachers import _batch_api, _chat, _completions, _remote, _sender

        likelihoods = None
        if self.likelihoods is not None:
            likelihoods = _completions.Completions(self.model, self._template(root), self.likelihoods.start)
        omit = frozenset(self.omit)
        dialect = _chat.Dialect(self.model, self.extra, self.structured, self.limit_field, omit, self.logprobs, likelihoods)
        patience = _sender.Patience(self.max_retries, self.retry_wait_s, self.max_rate_limit_wait_s, self.max_outage_s)
        endpoints, owner = self._endpoints(), canonical.digest(self.answer_identity(root))

        def start(http: ClientSession, deliver: _remote.Deliver) -> _remote.Sending:
            if self.batch_api:
                return _batch_api.Batches(http, endpoints[0], dialect, patience, deliver, owner=owner, poll_s=self.batch_poll_s)
            return _sender.Sender(http, endpoints, dialect, patience, deliver)

        with _remote.opened(_remote.Timeouts(self.connect_timeout_s, self.timeout_s), start) as session:
            yield session

    def _template(self, root: Path) -> str:
        path = self.likelihoods.chat_template if self.likelihoods else ""
        try:
            return inside(root, path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"chat template {path} cannot be read: {error}", hint="it is a UTF-8 text file") from error

    def _endpoints(self) -> list[Endpoint]:
        from kdbuild.teachers import _endpoints

        key, size = self._key(), self.concurrency
        found = []
        for url in self.endpoints:
            try:
                found.append(_endpoints.endpoint_at(url, key, start=size.start, most=size.most, retry_wait_s=self.retry_wait_s))
            except ValueError as error:
                hint = "correct `endpoints` or `api_key_env` of the teacher in params.yaml"
                raise StageError(f"{_endpoints.label_of(url)}: {error}", hint=hint) from None
        return found

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "")
        if not key:
            hint = f"`export {self.api_key_env}=...` before the build; a key stands in no file"
            raise StageError(f"the environment variable {self.api_key_env}, which holds the teacher's key, is not set", hint=hint)
        return key
