"""vLLM's offline engine as a teacher's session: asks go in as they come, answers out as they end."""

# Shape suffixes: C choices, T trained tokens, K tokens named at each position.

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xgrammar
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from kdbuild.errors import KdbuildError, RowError, StageError
from kdbuild.teachers import Answer, Ask, Operation, Session, _features
from kdbuild.teachers._generate import Incoming
from kdbuild.teachers._next_token import before_stop, text_of
from kdbuild.teachers._prompts import before_choices, choice_ids, prompt_ids, reading_ids
from kdbuild.teachers._rows import Unanswerable, failure, rounded
from kdbuild.teachers._session import chat_tokenizer
from kdbuild.training.models import HUB

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

    from kdbuild.teachers.vllm import Vllm

_CPU_CACHE_GB = 4.0
"""Past keys and values on a CPU, whose memory other programs use too; vLLM alone would take nearly all."""
_MOST_NAMED_TOKENS = 128
"""Tokens whose log-probability vLLM gives at one position at most."""
_ENDED = {"stop": True, "length": False}
"""What vLLM calls an end, and whether the answer ended by itself."""


@dataclass
class Request:
    """One call of the engine."""

    tokens: list[int]
    options: dict[str, Any]
    """Of `SamplingParams`."""
    schema: str | None = None


@dataclass
class Going:
    """An ask on its way."""

    index: int
    ask: Ask
    requests: list[Request]
    num_prompt_tokens: int
    choices: list[list[int]] = field(default_factory=list)
    """Tokens of each given answer."""
    trained: list[int] = field(default_factory=list)
    """Positions of the trained tokens of a reading."""
    outputs: dict[int, RequestOutput] = field(default_factory=dict)
    """What came back, by the number of the request."""


# --- asks to requests ------------------------------------------------------------------------------------------------


class Prompts:
    """Writes asks as requests of token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], max_tokens: int) -> None:
        """`ends` are the tokens that end a turn; no row is longer than `max_tokens`."""
        self.tokenizer = tokenizer
        self._ends = sorted(ends)
        self._max_tokens = max_tokens

    def prepare(self, index: int, ask: Ask) -> Going:
        """Return an ask as requests.

        Raises:
            Unanswerable: the chat template refuses it, the schema cannot be followed, or it is longer than the model's positions.
        """
        try:
            going = self._prepare(index, ask)
        except KdbuildError as error:
            raise Unanswerable(error.message) from error
        except (TemplateError, ValueError, TypeError) as error:
            raise Unanswerable(f"the chat template refuses the messages: {error}") from error
        longest = max(len(request.tokens) + request.options["max_tokens"] for request in going.requests)
        if longest > self._max_tokens:
            raise Unanswerable(f"prompt and answer are longer than the model's {self._max_tokens} positions", going.num_prompt_tokens)
        return going

    def _prepare(self, index: int, ask: Ask) -> Going:
        if ask.operation is Operation.READ:
            return self._reading(index, ask)
        is_choosing = ask.operation is Operation.CHOOSE
        prompt = before_choices(self.tokenizer, ask) if is_choosing else prompt_ids(self.tokenizer, ask.messages)
        if not prompt:
            raise Unanswerable("the prompt has no tokens")
        if is_choosing:
            return self._choosing(index, ask, prompt)
        return Going(index, ask, [self._writing(ask, prompt)], len(prompt))

    def _writing(self, ask: Ask, prompt: list[int]) -> Request:
        options: dict[str, Any] = {
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed if ask.temperature > 0 else None,
            "max_tokens": ask.max_new_tokens,
            "stop": list(ask.stop),
            "stop_token_ids": self._ends,
            "detokenize": bool(ask.stop),  # vLLM reads the text while it grows only to find a stop in it
        }
        if ask.schema is None:
            return Request(prompt, {**options, "logprobs": 0})
        # vLLM's log-probabilities are taken after the schema's mask: not the model's own.
        return Request(prompt, options, grammar_of(ask.schema))

    def _choosing(self, index: int, ask: Ask, prompt: list[int]) -> Going:
        choices = choice_ids(self.tokenizer, ask.choices)
        if not all(choices):
            raise Unanswerable("a choice has no tokens", len(prompt))
        firsts = sorted({choice[0] for choice in choices if len(choice) == 1})
        groups = [firsts[start : start + _MOST_NAMED_TOKENS] for start in range(0, len(firsts), _MOST_NAMED_TOKENS)]
        # Choices of one token are told apart after one pass over the prompt; a longer one is read behind the prompt.
        short = [Request(prompt, {**_NOTHING_WRITTEN, "logprob_token_ids": group}) for group in groups]
        long = [Request(prompt + choice, {**_NOTHING_WRITTEN, "prompt_logprobs": 0}) for choice in choices if len(choice) > 1]
        return Going(index, ask, short + long, len(prompt), choices=choices)

    def _reading(self, index: int, ask: Ask) -> Going:
        wanted = ask.reading
        assert wanted is not None
        if wanted.form != "top-k":
            raise Unanswerable(f"a `vllm` teacher cannot give `{wanted.form}`")
        ids, trained = reading_ids(self.tokenizer, ask.row, ask.messages)
        if not trained:
            raise Unanswerable("there is no token of a trained turn to read", len(ids))
        k = min(wanted.k, len(self.tokenizer))
        return Going(index, ask, [Request(ids, {**_NOTHING_WRITTEN, "prompt_logprobs": k})], len(ids), trained=trained)


_NOTHING_WRITTEN: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": 1, "detokenize": False}
"""Of a request for what the model says of given tokens; vLLM writes one at least, which is dropped."""


@lru_cache(maxsize=256)
def grammar_of(schema: str) -> str:
    """Return a JSON schema as the grammar by which the `transformers` teacher follows it: vLLM's own spelling of JSON has other blanks.

    Raises:
        RowError: it is not a JSON schema, or asks for what a grammar cannot express.
    """
    try:
        return str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False))
    except (RuntimeError, ValueError) as error:
        raise RowError(f"the schema cannot be followed: {error}") from error


# --- outputs to answers ----------------------------------------------------------------------------------------------


def answer_of(going: Going, tokenizer: PreTrainedTokenizerBase) -> Answer:
    """Return the answer of an ask all of whose requests came back."""
    strange = [out.outputs[0].finish_reason for out in going.outputs.values() if out.outputs[0].finish_reason not in _ENDED]
    if strange:
        return failure(f"vLLM gave it up: {strange[0]}", going.num_prompt_tokens)
    give = {Operation.GENERATE: _written, Operation.CHOOSE: _chosen, Operation.READ: _read}[going.ask.operation]
    return give(going, tokenizer) or failure("the model's logits are not numbers", going.num_prompt_tokens)


def _written(going: Going, tokenizer: PreTrainedTokenizerBase) -> Answer | None:
    out = going.outputs[0].outputs[0]
    tokens = list(out.token_ids)
    logprob = None if going.ask.schema is not None else sum(out.logprobs.logprobs)
    if logprob is not None and not math.isfinite(logprob):
        return None
    return Answer(
        before_stop(text_of(tokens, tokenizer), going.ask.stop),
        _ENDED[out.finish_reason],
        going.num_prompt_tokens,
        len(tokens),
        logprob=None if logprob is None else rounded(logprob),
    )


def _chosen(going: Going, tokenizer: PreTrainedTokenizerBase) -> Answer | None:
    single: dict[int, float] = {}
    longer: list[float] = []
    for number, request in enumerate(going.requests):
        out = going.outputs[number]
        if "logprob_token_ids" in request.options:
            named = out.outputs[0].logprobs
            single |= dict(zip(named.token_ids, named.logprobs, strict=True))
        else:
            said = out.prompt_logprobs
            longer.append(sum(said.logprobs[said.start_indices[i]] for i in range(going.num_prompt_tokens, len(request.tokens))))
    rest = iter(longer)
    logprob_C = [single[choice[0]] if len(choice) == 1 else next(rest) for choice in going.choices]
    if not all(map(math.isfinite, logprob_C)):
        return None
    counts = tuple(map(len, going.choices))
    return Answer("", True, going.num_prompt_tokens, 0, logprobs=tuple(map(rounded, logprob_C)), num_choice_tokens=counts)


def _read(going: Going, tokenizer: PreTrainedTokenizerBase) -> Answer | None:
    said, k = going.outputs[0].prompt_logprobs, going.requests[0].options["prompt_logprobs"]
    # At each position vLLM tells of the token that stands there, then of the k likeliest.
    starts = [said.start_indices[i] for i in going.trained]
    answer_nats = -sum(said.logprobs[start] for start in starts)
    named = [slice(start + 1, start + 1 + k) for start in starts]
    ids_TK = np.array([said.token_ids[some] for some in named], np.int32)
    logprobs_TK = np.array([said.logprobs[some] for some in named])
    tokens_T = np.array([going.requests[0].tokens[i] for i in going.trained], np.int32)
    if not (math.isfinite(answer_nats) and np.isfinite(logprobs_TK).all()):
        return None
    payload = _features.encode_top_k(ids_TK, logprobs_TK, tokens_T, answer_nats)
    return Answer("", True, going.num_prompt_tokens, 0, payload=payload)


# --- the engine ------------------------------------------------------------------------------------------------------


class EngineSession(Session):
    """An engine that runs."""

    def __init__(self, llm: LLM, prompts: Prompts) -> None:
        self.llm = llm
        self._prompts = prompts
        self._num_asked = 0

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) as each ends; `asks` may grow meanwhile."""
        incoming = Incoming(asks)
        going: dict[str, tuple[Going, int]] = {}
        try:
            while (fresh := incoming.take()) or going:
                yield from self._submit(fresh, going)
                for output in self._step() if going else []:
                    yield from self._finish(output, going)
        finally:
            with suppress(Exception):  # an engine that failed cannot be told, and what it failed of is being raised
                self.llm.llm_engine.abort_request(list(going))

    def _submit(self, fresh: list[tuple[int, Ask]], going: dict[str, tuple[Going, int]]) -> Iterator[tuple[int, Answer]]:
        """Hand all asks to the engine, and answer those that it cannot be asked: long ones first, those that begin alike side by side."""
        prepared = []
        for index, ask in fresh:
            try:
                prepared.append(self._prompts.prepare(index, ask))
            except Unanswerable as error:
                yield index, error.answer
        for one in sorted(prepared, key=lambda one: (-one.ask.max_new_tokens, one.requests[0].tokens)):
            names = [f"{self._num_asked}-{number}" for number in range(len(one.requests))]
            self._num_asked += 1
            try:
                for number, (name, request) in enumerate(zip(names, one.requests, strict=True)):
                    self._add(name, request, one.num_prompt_tokens)
                    going[name] = (one, number)
            except Unanswerable as error:
                self._drop(names, going)
                yield one.index, error.answer

    def _add(self, name: str, request: Request, num_prompt_tokens: int) -> None:
        from vllm.exceptions import VLLMClientError

        with _failing("stopped"):
            try:
                self.llm.llm_engine.add_request(name, {"prompt_token_ids": request.tokens}, _params(request))
            except (VLLMClientError, ValueError) as error:
                # The first argument is the sentence; the whole text may repeat the prompt.
                raise Unanswerable(f"vLLM refuses it: {error.args[0] if error.args else error}", num_prompt_tokens) from error

    def _drop(self, names: list[str], going: dict[str, tuple[Going, int]]) -> None:
        self.llm.llm_engine.abort_request([name for name in names if going.pop(name, None)])

    def _step(self) -> list[RequestOutput]:
        with _failing("stopped"):
            outputs: list[RequestOutput] = self.llm.llm_engine.step()
            return outputs

    def _finish(self, output: RequestOutput, going: dict[str, tuple[Going, int]]) -> Iterator[tuple[int, Answer]]:
        """Yield the answer of the ask whose last request this output ends."""
        if not output.finished:
            return
        one, number = going.pop(output.request_id)
        one.outputs[number] = output
        if len(one.outputs) == len(one.requests):
            yield one.index, answer_of(one, self._prompts.tokenizer)


def _params(request: Request) -> SamplingParams:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    structured = None if request.schema is None else StructuredOutputsParams(grammar=request.schema)
    return SamplingParams(
        **request.options, structured_outputs=structured, flat_logprobs=True, output_kind=RequestOutputKind.FINAL_ONLY, skip_clone=True
    )


@contextmanager
def engine(teacher: Vllm, weights: Path | None, template: str | None) -> Iterator[EngineSession]:
    """Start vLLM on a model, and end it with all it holds.

    Raises:
        SourceError: there is no model, or it has no chat template.
        StageError: vLLM cannot run it here.
    """
    where, tokenizer = chat_tokenizer(weights, template)
    _quiet()
    set_num_threads = torch.set_num_threads
    with _failing("cannot start"):
        llm = _start(teacher, where)
    try:
        config = llm.model_config
        eos = config.try_get_generation_config().get("eos_token_id")
        named = [eos] if isinstance(eos, int) else list(eos or ())
        ends = frozenset(int(end) for end in (*named, tokenizer.eos_token_id) if end is not None)
        yield EngineSession(llm, Prompts(tokenizer, ends, config.max_model_len))
    finally:
        torch.set_num_threads = set_num_threads
        _end(llm)


def _quiet() -> None:
    """Tell vLLM, before it is imported, to stay in this process, to log errors only, and to tell nobody that it is used."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def _start(teacher: Vllm, weights: Path) -> LLM:
    from vllm import LLM
    from vllm.platforms import current_platform

    name, _, revision = str(weights).removeprefix(HUB).partition("@") if str(weights).startswith(HUB) else (str(weights), "", "")
    on_cpu = current_platform.is_cpu()
    cache_gb = teacher.kv_cache_gb or (_CPU_CACHE_GB if on_cpu else None)
    return LLM(
        name,
        revision=revision or None,
        tokenizer_revision=revision or None,
        trust_remote_code=False,
        load_format="safetensors",
        use_tqdm_on_load=False,
        dtype=teacher.dtype,
        tensor_parallel_size=teacher.tensor_parallel_size,
        gpu_memory_utilization=teacher.gpu_memory_frac,
        kv_cache_memory_bytes=None if cache_gb is None else int(cache_gb * 2**30),
        max_model_len=teacher.max_model_len,
        enforce_eager=teacher.enforce_eager,
        enable_prefix_caching=True,
        # On a CPU the engine dies of a prompt read in parts whose answer is drawn with a seed: it cannot take back the part's number.
        enable_chunked_prefill=False if on_cpu else None,
        max_logprobs=-1,
        structured_outputs_config={"backend": "xgrammar"},
        **({} if teacher.max_num_seqs is None else {"max_num_seqs": teacher.max_num_seqs}),
    )


def _end(llm: LLM) -> None:
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()


@contextmanager
def _failing(how: str) -> Iterator[None]:
    """Turn what vLLM raises into one sentence: its errors share no base class."""
    try:
        yield
    except (KdbuildError, Unanswerable):
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        hint = "lower the teacher's `max_num_seqs`, `max_model_len` or `gpu_memory_frac` in params.yaml; every answer so far is stored"
        raise StageError("the teacher ran out of memory", hint=hint) from error
    except Exception as error:
        cause = " ".join(str(error).split())[:500]
        hint = "`VLLM_LOGGING_LEVEL=INFO` shows what vLLM says of it; every answer so far is stored, and the next build goes on from there"
        raise StageError(f"vLLM {how}: {type(error).__name__}: {cause}", hint=hint) from error
