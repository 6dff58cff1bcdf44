"""The signals of a reading as bytes: next-token distributions in a few bits an entry, hidden states as safetensors.

A payload starts with one byte that says which of two forms follows.

`D`, packed rows of constant width, for `top-k` and `sampled`. The ids of a position ascend and are written as Elias and Fano did: the
low bits as they are, the high bits in unary, about 11.5 bits an id where 64 of 49,152 words are kept. A log-probability is 9 bits of the
distance to the likeliest token, in steps of that position's range; what all entries of a position have in common is not written but
follows from their sum, which is 1 less the tail. A `sampled` position holds its draws, with repetition; each stands for 1 / k.

`S`, safetensors, for `full` (float16 log-probabilities) and `hidden`.
"""

# Shape suffixes: T trained tokens of the row, K tokens kept at each position, V vocabulary, H width, A attention heads.

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdbuild import canonical
from kdbuild.errors import RowError
from kdbuild.teachers import Reading

Array = npt.NDArray[Any]

_PACKED, _TENSORS = b"D", b"S"
_HEADER = struct.Struct("<cBHIIf")
"""Which form, bits of a log-probability (0 for `sampled`), K, T, words, nats of the answer."""
_CODE_BITS = 9
_WIDEST_NATS = 60.0
"""Log-probabilities further below the likeliest token's are written as if they were this far."""
_LEAST_NATS = -6e4


@dataclass(frozen=True)
class Distributions:
    """What a teacher said of each trained token of a row."""

    form: str
    """`full`, `top-k` or `sampled`."""
    token_ids_T: Array
    """The answer's tokens, by the teacher's tokenizer (int32)."""
    ids_TK: Array | None
    """Tokens that are named, ascending at each position (int32); None for `full`: all. `sampled` names a token once for each draw."""
    logprobs_TK: Array
    """Their log-probabilities, nats (float32; `full`: float16); of a draw: -log K."""
    tail_T: Array
    """Logarithm of the mass of all other tokens, nats (float32); -inf where there is none."""
    answer_nats: float
    """Sum of -log p(token) over the answer's tokens, or a lower bound of it where a teacher names few tokens."""


@dataclass(frozen=True)
class Hidden:
    """A row's hidden states and attention maps at the positions that predict its trained tokens."""

    token_ids_T: Array
    """The answer's tokens (int32)."""
    states: dict[int, Array] = field(default_factory=dict)
    """Layer to its states, [T, H]."""
    maps: dict[int, Array] = field(default_factory=dict)
    """Layer to its attention among these positions, [A, T, T]."""


# --- writing ---------------------------------------------------------------------------------------------------------------


def encode_distributions(logits_TV: torch.Tensor, token_ids_T: torch.Tensor, reading: Reading, seed: int = 0) -> bytes:
    """Return the payload of next-token logits.

    Args:
        logits_TV: finite logits, on any device, at the positions that predict the trained tokens.
        token_ids_T: the trained tokens.
        reading: its `form` (`full`, `top-k`, `sampled`) and `k`; a `k` beyond the vocabulary is the vocabulary.
        seed: decides what is drawn, for `sampled`.

    Source of `sampled`: Anshumann et al. 2025, Sparse Logit Sampling, ACL 2025 long.885: k draws with replacement from p itself, so that
    the share of the draws is an unbiased estimate of p, and every importance weight is 1.
    """
    logits_TV = logits_TV.float()
    total_T = logits_TV.logsumexp(1)
    tokens_T = token_ids_T.to(logits_TV.device).long()
    answer_nats = float((total_T - logits_TV.gather(1, tokens_T.unsqueeze(1)).squeeze(1)).double().sum())
    tokens = _array(tokens_T, np.int32)
    num_words = logits_TV.shape[1]
    if reading.form == "full":
        logprobs_TV = (logits_TV - total_T.unsqueeze(1)).clamp_(min=_LEAST_NATS).half()
        return _tensors({"token_ids": tokens, "logprobs": _array(logprobs_TV), "answer_nats": np.array([answer_nats], np.float32)})
    if reading.form == "sampled":
        return _packed(_draw(logits_TV, reading.k, seed), None, None, tokens, num_words, answer_nats)
    top_TK, ids_TK = logits_TV.topk(min(reading.k, num_words), dim=1)
    tail_T = logits_TV.scatter(1, ids_TK, -torch.inf).logsumexp(1) - total_T
    logprobs_TK = top_TK - total_T.unsqueeze(1)
    return _packed(_array(ids_TK, np.int32), _array(logprobs_TK), _array(tail_T), tokens, num_words, answer_nats)


def encode_top_k(ids_TK: Array, logprobs_TK: Array, token_ids_T: Array, answer_nats: float | None = None) -> bytes:
    """Return the payload of a teacher that names some tokens of each position, in any order, with their log-probabilities.

    Ids of a position differ. The tail is what they leave of 1. Where the teacher does not say `answer_nats`, an answer's token that is not
    among the named counts with all of the tail, and what is written is a lower bound.
    """
    ids, logprobs, tokens = np.asarray(ids_TK, np.int32), np.asarray(logprobs_TK, np.float64), np.asarray(token_ids_T, np.int32)
    with np.errstate(divide="ignore"):
        tail_T = np.log1p(-np.minimum(np.exp(logprobs).sum(1), 1.0))
    if answer_nats is None:
        named_TK = ids == tokens[:, None]
        unnamed_T = np.maximum(tail_T[~named_TK.any(1)], -_WIDEST_NATS)
        answer_nats = float(-logprobs[named_TK].sum() - unnamed_T.sum())
    num_words = int(max(ids.max(initial=0), tokens.max(initial=0))) + 1
    return _packed(ids, logprobs, tail_T, tokens, num_words, answer_nats)


def encode_hidden(
    states: Mapping[int, torch.Tensor], maps: Mapping[int, torch.Tensor] | None, token_ids_T: torch.Tensor, dtype: str = "float16"
) -> bytes:
    """Return the payload of hidden states ([T, H] a layer) and attention maps ([A, T, T] a layer), in `float16` or `float32`.

    Raises:
        RowError: a state is too large for float16.
    """
    kind = {"float16": torch.float16, "float32": torch.float32}[dtype]
    named = {f"hidden.{layer}": state for layer, state in states.items()} | {f"attention.{layer}": m for layer, m in (maps or {}).items()}
    arrays = {name: _array(tensor.to(kind)) for name, tensor in named.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise RowError("a hidden state is too large for float16", hint="say `dtype: float32` in the operator")
    return _tensors({"token_ids": _array(token_ids_T, np.int32), **arrays})


def _array(tensor: torch.Tensor, dtype: type | None = None) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array if dtype is None else array.astype(dtype)


def _draw(logits_TV: torch.Tensor, k: int, seed: int) -> Array:
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for logits_CV in torch.split(logits_TV, 64):
        total_CV = torch.softmax(logits_CV.double().cpu(), 1).cumsum(1)
        points_CK = torch.rand((len(logits_CV), k), generator=generator, dtype=torch.float64) * total_CV[:, -1:]
        drawn.append(torch.searchsorted(total_CV, points_CK, right=True).clamp_(max=logits_CV.shape[1] - 1))
    return _array(torch.cat(drawn), np.int32) if drawn else np.zeros((0, k), np.int32)


def _packed(ids: Array, logprobs: Array | None, tail: Array | None, tokens: Array, num_words: int, answer_nats: float) -> bytes:
    """Return a payload of packed rows: header, tokens, ids, then codes, ranges and tails where there are log-probabilities."""
    bits = 0 if logprobs is None else _CODE_BITS
    header = _HEADER.pack(_PACKED, bits, ids.shape[1], len(tokens), num_words, answer_nats)
    order = np.argsort(ids, axis=1, kind="stable")
    parts = [header, tokens.astype(_token_type(num_words)).tobytes(), _pack_ids(np.take_along_axis(ids, order, 1), num_words)]
    if logprobs is not None and tail is not None:
        codes, range_T = _quantised(np.take_along_axis(logprobs, order, 1))
        parts += [_pack(codes, bits), range_T.tobytes(), np.maximum(tail, _LEAST_NATS).astype(np.float16).tobytes()]
    return b"".join(parts)


def _quantised(logprobs_TK: Array) -> tuple[Array, Array]:
    """Return each entry's distance from the likeliest in steps, and each position's range in nats (float16)."""
    below = np.asarray(logprobs_TK, np.float64)
    below = np.minimum(below.max(1, keepdims=True, initial=-np.inf) - below, _WIDEST_NATS)
    exact_T = below.max(1, initial=0.0)
    range_T = exact_T.astype(np.float16)
    range_T = np.where(range_T < exact_T, np.nextafter(range_T, np.float16(np.inf)), range_T)
    step_T1 = np.maximum(range_T.astype(np.float64), 1e-9)[:, None] / (2**_CODE_BITS - 1)
    return np.rint(below / step_T1).astype(np.uint32), range_T


def _tensors(arrays: Mapping[str, Array]) -> bytes:
    from safetensors.numpy import save

    return _TENSORS + save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


# --- reading ---------------------------------------------------------------------------------------------------------------


def decode(payload: bytes) -> Distributions | Hidden:
    """Return what a payload holds.

    Raises:
        RowError: it is no payload, or is torn.
    """
    try:
        if payload[:1] == _PACKED:
            return _decode_packed(payload)
        if payload[:1] == _TENSORS:
            return decode_tensors(tensors_of(payload))
    except (ValueError, KeyError, struct.error) as error:
        raise RowError(f"stored signals are torn: {error}", hint="`kdbuild doctor` finds what is broken") from error
    raise RowError(f"stored signals are of no known form: {payload[:1]!r}", hint="they were written by another version of kdbuild")


def decode_tensors(arrays: Mapping[str, Array]) -> Distributions | Hidden:
    """Return what the arrays of a `full` or `hidden` payload say."""
    tokens = arrays["token_ids"]
    if "logprobs" in arrays:
        none = np.full(len(tokens), -np.inf, np.float32)
        return Distributions("full", tokens, None, arrays["logprobs"], none, float(np.asarray(arrays["answer_nats"])[0]))
    found: dict[str, dict[int, Array]] = {"hidden": {}, "attention": {}}
    for name in arrays:
        what, _, layer = name.partition(".")
        if what in found:
            found[what][int(layer)] = arrays[name]
    return Hidden(tokens, found["hidden"], found["attention"])


def is_tensors(payload: bytes) -> bool:
    """Return whether a payload is safetensors, which a data set keeps in files of their own."""
    return payload[:1] == _TENSORS


def tensors_of(payload: bytes) -> dict[str, Array]:
    """Return the arrays of a `full` or `hidden` payload.

    Raises:
        ValueError: it is torn.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found: dict[str, Array] = load(payload[1:])
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return found


def payload_of(arrays: Mapping[str, Array]) -> bytes:
    """Return the payload that `tensors_of` gives these arrays for."""
    return _tensors(arrays)


def tokens_digest(payload: bytes) -> str:
    """Return the digest of the token ids of the answer that a payload is about (the first 16 hex digits)."""
    return digest_of_tokens(token_ids(payload).tolist())


def token_ids(payload: bytes) -> Array:
    """Return the token ids (int32) of the answer that a payload is about.

    Raises:
        RowError: it is no payload, or is torn.
    """
    if payload[:1] != _PACKED or len(payload) < _HEADER.size:
        return decode(payload).token_ids_T
    _, _, _, length, num_words, _ = _HEADER.unpack_from(payload)
    return _Reader(payload, _HEADER.size).take(length, _token_type(num_words)).astype(np.int32)


def digest_of_tokens(token_ids: list[int]) -> str:
    """Return the digest of an answer's token ids (the first 16 hex digits)."""
    return canonical.digest(["kdbuild-tokens/1", token_ids])[:16]


def _decode_packed(payload: bytes) -> Distributions:
    _, bits, k, length, num_words, answer_nats = _HEADER.unpack_from(payload)
    reader = _Reader(payload, _HEADER.size)
    tokens = reader.take(length, _token_type(num_words)).astype(np.int32)
    ids = _unpack_ids(reader, length, k, num_words)
    if not bits:
        tail, logprobs = np.full(length, -np.inf, np.float32), np.full((length, k), -math.log(max(k, 1)), np.float32)
        form = "sampled"
    else:
        codes = _unpack(reader, length * k, bits).reshape(length, k)
        range_T, tail = reader.take(length, np.float16).astype(np.float32), reader.take(length, np.float16).astype(np.float32)
        tail = np.where(tail <= _LEAST_NATS, -np.inf, tail).astype(np.float32)
        logprobs, form = _restored(codes, range_T / np.float32(2**bits - 1), tail), "top-k"
    if reader.at != len(payload):
        raise ValueError(f"{len(payload)} bytes where {reader.at} were expected")
    return Distributions(form, tokens, ids, logprobs, tail, answer_nats)


def _restored(codes_TK: Array, step_T: Array, tail_T: Array) -> Array:
    """Return log-probabilities from steps below the likeliest: at each position they sum to 1 less the tail."""
    logprobs_TK = np.multiply(codes_TK, -step_T[:, None], dtype=np.float32)
    with np.errstate(divide="ignore"):
        shift_T = np.log(-np.expm1(tail_T.astype(np.float64))) - np.log(np.exp(logprobs_TK).sum(1, dtype=np.float64))
    logprobs_TK += shift_T[:, None].astype(np.float32)
    return logprobs_TK


# --- bits ------------------------------------------------------------------------------------------------------------------


@dataclass
class _Reader:
    payload: bytes
    at: int

    def take(self, count: int, dtype: type | str) -> Array:
        found: Array = np.frombuffer(self.payload, dtype, count, self.at)
        self.at += found.nbytes
        return found


def _token_type(num_words: int) -> str:
    return "<u2" if num_words <= 2**16 else "<u4"


def _low_bits(k: int, num_words: int) -> int:
    """Return how many low bits of an id are written as they are: those that k ids in ascending order tell nothing of."""
    return max(0, (num_words // k).bit_length() - 1) if k else 0


def _unary_bits(k: int, num_words: int) -> int:
    return ((num_words - 1) >> _low_bits(k, num_words)) + k if k else 0


def _pack_ids(ids_TK: Array, num_words: int) -> bytes:
    """Return ascending ids: high bits in unary (id i of a position sets bit high + i), then low bits."""
    length, k = ids_TK.shape
    low = _low_bits(k, num_words)
    unary = np.zeros((length, _unary_bits(k, num_words)), np.uint8)
    np.put_along_axis(unary, (ids_TK >> low) + np.arange(k), 1, 1)
    return np.packbits(unary).tobytes() + _pack((ids_TK & ((1 << low) - 1)).astype(np.uint32), low)


def _unpack_ids(reader: _Reader, length: int, k: int, num_words: int) -> Array:
    low, width = _low_bits(k, num_words), _unary_bits(k, num_words)
    unary = np.unpackbits(reader.take(-(-length * width // 8), np.uint8), count=length * width)
    set_TK = np.flatnonzero(unary.view(bool))
    if len(set_TK) != length * k:
        raise ValueError("ids are not whole")
    starts_T1 = np.arange(length)[:, None] * width
    high_TK = set_TK.reshape(length, k) - (starts_T1 + np.arange(k))
    return ((high_TK << low) + _unpack(reader, length * k, low).reshape(length, k)).astype(np.int32)


def _pack(values: Array, bits: int) -> bytes:
    """Return numbers below 2^bits as planes: whole bytes, then single bits."""
    flat = values.reshape(-1)
    planes = [(flat >> (8 * i) & 255).astype(np.uint8).tobytes() for i in range(bits // 8)]
    planes += [np.packbits((flat >> i & 1).astype(np.uint8)).tobytes() for i in range(bits - bits % 8, bits)]
    return b"".join(planes)


def _unpack(reader: _Reader, count: int, bits: int) -> Array:
    found: Array = np.zeros(count, np.uint16 if bits <= 16 else np.uint32)
    for i in range(bits // 8):
        np.bitwise_or(found, reader.take(count, np.uint8).astype(found.dtype) << (8 * i), out=found)
    for i in range(bits - bits % 8, bits):
        plane = np.unpackbits(reader.take(-(-count // 8), np.uint8), count=count)
        np.bitwise_or(found, plane.astype(found.dtype) << i, out=found)
    return found
