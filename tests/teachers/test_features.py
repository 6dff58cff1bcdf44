"""Signals as bytes: what is written is read back, in few bytes, with little error."""

import math
import struct

import numpy as np
import pytest
import torch

from kdbuild.errors import RowError
from kdbuild.teachers import Reading, _features


def some_logits(length, words, spread=3.0, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(length, words, generator=chance) * spread, torch.randint(0, words, (length,), generator=chance)


def top_k_reference(logits, k):
    """Ids ascending, log-probabilities and log tail mass in float64."""
    p = torch.softmax(logits.double(), 1).numpy()
    ids = np.sort(np.argsort(-p, axis=1, kind="stable")[:, :k], axis=1)
    named = np.take_along_axis(p, ids, 1)
    rest = p.copy()
    np.put_along_axis(rest, ids, 0.0, 1)
    return ids, np.log(named), rest.sum(1)


@pytest.mark.parametrize(("length", "words", "k"), [(7, 1000, 64), (1, 300, 1), (5, 70_000, 64), (3, 50, 49), (130, 4096, 10), (0, 100, 8)])
def test_top_k_is_read_back(length, words, k):
    logits, tokens = some_logits(length, words)
    got = _features.decode(_features.encode_distributions(logits, tokens, Reading("top-k", k)))
    ids, logprobs, tail = top_k_reference(logits, k)
    assert got.form == "top-k"
    assert got.token_ids_T.tolist() == tokens.tolist()
    assert np.array_equal(got.ids_TK, ids)
    spread = np.ptp(logprobs, axis=1, keepdims=True) if length else np.zeros((0, 1))
    assert (np.abs(got.logprobs_TK - logprobs) <= spread / 511 + 2e-3).all()
    assert np.allclose(np.exp(got.tail_T), tail, rtol=5e-3)
    assert np.allclose(np.exp(got.logprobs_TK.astype(float)).sum(1) + np.exp(got.tail_T), 1, atol=1e-6)


def test_k_beyond_the_vocabulary_names_every_token():
    logits, tokens = some_logits(4, 9)
    got = _features.decode(_features.encode_distributions(logits, tokens, Reading("top-k", 64)))
    assert np.array_equal(got.ids_TK, np.tile(np.arange(9), (4, 1)))
    assert (got.tail_T == -np.inf).all()
    assert np.allclose(np.exp(got.logprobs_TK).sum(1), 1, atol=1e-6)


def test_what_the_answer_costs_is_its_cross_entropy():
    logits, tokens = some_logits(9, 500)
    expected = torch.nn.functional.cross_entropy(logits.double(), tokens, reduction="sum").item()
    for form, k in (("top-k", 5), ("sampled", 5), ("full", 0)):
        payload = _features.encode_distributions(logits, tokens, Reading(form, k))
        assert _features.decode(payload).answer_nats == pytest.approx(expected, rel=1e-5)


def test_the_bytes_by_hand():
    # 8 words, k = 2: 2 low bits, and 1 + 2 bits in unary. Ids 1 and 4: high parts 0 and 1 set bits 0 and 1 + 1; low parts 1 and 0.
    # Probabilities 1/2 and 1/4, tail 1/4: the second lies log 2 below the first, which is the range: step 511.
    header = struct.pack("<cBHIIf", b"D", 9, 2, 1, 8, 1.5)
    ids = bytes([0b10100000, 0b10000000, 0b00000000])
    codes = bytes([0, 511 & 255, 0b01000000])
    payload = header + struct.pack("<H", 4) + ids + codes + struct.pack("<ee", math.log(2), math.log(1 / 4))
    got = _features.decode(payload)
    assert got.token_ids_T.tolist() == [4]
    assert got.ids_TK.tolist() == [[1, 4]]
    assert np.exp(got.logprobs_TK[0]).tolist() == pytest.approx([1 / 2, 1 / 4], abs=2e-4)
    assert math.exp(got.tail_T[0]) == pytest.approx(1 / 4, abs=2e-4)
    logits = torch.full((1, 8), math.log(1 / 24))
    logits[0, 1], logits[0, 4] = math.log(1 / 2), math.log(1 / 4)
    again = _features.encode_distributions(logits, torch.tensor([4]), Reading("top-k", 2))
    assert again[20:25] == payload[20:25]
    assert abs(len(again) - len(payload)) == 0


def kl(ids, logprobs, tail, got):
    """KL of the unquantised k + 1 outcomes against decoded ones, a token."""
    p = np.concatenate([np.exp(logprobs), tail[:, None]], 1)
    q = np.concatenate([np.exp(got[0].astype(float)), np.exp(got[1].astype(float))[:, None]], 1)
    return (p * np.log(p / q)).sum(1).mean()


def uniform_8_bit(logprobs, tail):
    """Each log-probability in 256 steps between the position's least and largest, as is the tail's; normalised."""
    low, high = logprobs.min(1, keepdims=True), logprobs.max(1, keepdims=True)
    code = np.rint((logprobs - low) / (high - low) * 255)
    q = np.exp(low + code / 255 * (high - low))
    whole = q.sum(1) + tail
    return np.log(q / whole[:, None]), np.log(tail / whole)


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
def test_the_error_is_below_that_of_8_bits_and_the_size_in_bounds(spread):
    logits, tokens = some_logits(60, 49_152, spread)
    payload = _features.encode_distributions(logits, tokens, Reading("top-k", 64))
    got = _features.decode(payload)
    ids, logprobs, tail = top_k_reference(logits, 64)
    ours, theirs = kl(ids, logprobs, tail, (got.logprobs_TK, got.tail_T)), kl(ids, logprobs, tail, uniform_8_bit(logprobs, tail))
    assert 0 <= ours <= theirs
    assert len(payload) / 60 <= 0.45 * 64 * (4 + 2)
    assert len(_features.encode_distributions(logits, tokens, Reading("sampled", 12))) / 60 <= 36


def test_draws_are_an_unbiased_estimate():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]))
    counts = np.zeros((2, 4))
    for seed in range(400):
        got = _features.decode(_features.encode_distributions(logits, torch.tensor([0, 1]), Reading("sampled", 12), seed))
        assert got.form == "sampled"
        assert (np.diff(got.ids_TK, axis=1) >= 0).all()
        assert np.allclose(np.exp(got.logprobs_TK), 1 / 12)
        for row in range(2):
            counts[row] += np.bincount(got.ids_TK[row], minlength=4)
    # 4,800 draws of each position: a share strays by 0.0072 at most (one standard deviation); four of them are allowed
    assert np.abs(counts / counts.sum(1, keepdims=True) - np.exp(logits.numpy())).max() < 0.029


def test_draws_depend_on_the_seed_alone():
    logits, tokens = some_logits(70, 300)
    one, same, other = (_features.encode_distributions(logits, tokens, Reading("sampled", 12), seed) for seed in (1, 1, 2))
    assert one == same != other
    assert _features.decode(one).ids_TK.shape == (70, 12)


def test_whole_distributions_are_read_back():
    logits, tokens = some_logits(6, 40)
    got = _features.decode(_features.encode_distributions(logits, tokens, Reading("full")))
    assert got.ids_TK is None
    assert got.token_ids_T.tolist() == tokens.tolist()
    assert np.allclose(got.logprobs_TK.astype(float), logits.double().log_softmax(1).numpy(), rtol=1e-3, atol=1e-3)


def test_named_tokens_come_in_any_order():
    logits, tokens = some_logits(5, 200)
    logprobs, ids = logits.log_softmax(1).topk(16, 1)
    shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    one = _features.encode_top_k(ids.numpy(), logprobs.numpy(), tokens.numpy())
    assert one == _features.encode_top_k(ids[:, shuffled].numpy(), logprobs[:, shuffled].numpy(), tokens.numpy())
    got, whole = _features.decode(one), _features.decode(_features.encode_distributions(logits, tokens, Reading("top-k", 16)))
    assert np.array_equal(got.ids_TK, whole.ids_TK)
    assert np.allclose(got.logprobs_TK, whole.logprobs_TK, atol=1e-3)
    assert np.allclose(np.exp(got.tail_T), np.exp(whole.tail_T), atol=1e-3)


def test_an_answer_token_that_is_not_named_costs_the_tail():
    # Named: 1/2 and 1/4. The answer is a named token (1/4) and one that is not (tail 1/4).
    logprobs = np.log([[0.5, 0.25], [0.5, 0.25]])
    got = _features.decode(_features.encode_top_k(np.array([[3, 7], [3, 7]]), logprobs, np.array([7, 9])))
    assert got.answer_nats == pytest.approx(2 * math.log(4), abs=1e-6)
    assert np.exp(got.tail_T).tolist() == pytest.approx([0.25, 0.25], abs=2e-4)


def test_named_tokens_with_all_of_the_mass_have_no_tail():
    got = _features.decode(_features.encode_top_k(np.array([[1, 2]]), np.log([[0.75, 0.25]]), np.array([1])))
    assert np.exp(got.logprobs_TK[0]).tolist() == pytest.approx([0.75, 0.25], abs=1e-5)
    assert np.exp(got.tail_T[0]) < 1e-9


def test_a_token_without_probability_stays_finite():
    got = _features.decode(_features.encode_top_k(np.array([[1, 2]]), np.array([[0.0, -np.inf]]), np.array([1])))
    assert np.isfinite(got.logprobs_TK).all()
    assert np.exp(got.logprobs_TK[0]).tolist() == pytest.approx([1, 0], abs=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_hidden_states_are_read_back(dtype):
    chance = torch.Generator().manual_seed(0)
    states = {layer: torch.randn(5, 8, generator=chance) for layer in (0, -1)}
    maps = {-1: torch.rand(2, 5, 5, generator=chance)}
    got = _features.decode(_features.encode_hidden(states, maps, torch.arange(5), dtype))
    assert got.token_ids_T.tolist() == [0, 1, 2, 3, 4]
    assert got.states.keys() == {0, -1}
    assert all(got.states[layer].dtype == dtype for layer in states)
    close = {"atol": 2e-3} if dtype == "float16" else {"atol": 0, "rtol": 0}
    assert all(np.allclose(got.states[layer], states[layer].numpy(), **close) for layer in states)
    assert np.allclose(got.maps[-1], maps[-1].numpy(), **close)


def test_states_too_large_for_float16_are_refused():
    large = {0: torch.full((1, 2), 1e6)}
    with pytest.raises(RowError, match="float16"):
        _features.encode_hidden(large, None, torch.tensor([1]))
    assert _features.decode(_features.encode_hidden(large, None, torch.tensor([1]), "float32")).states[0].tolist() == [[1e6, 1e6]]


@pytest.mark.parametrize("form", ["top-k", "sampled", "full"])
def test_the_same_signals_have_the_same_bytes_and_arrays_are_written_back(form):
    logits, tokens = some_logits(4, 100)
    payload = _features.encode_distributions(logits, tokens, Reading(form, 6), 9)
    assert payload == _features.encode_distributions(logits, tokens, Reading(form, 6), 9)
    assert _features.token_ids(payload).tolist() == tokens.tolist()
    assert _features.is_tensors(payload) == (form == "full")
    if form == "full":
        assert _features.payload_of(_features.tensors_of(payload)) == payload


@pytest.mark.parametrize("form", ["top-k", "sampled", "full"])
def test_torn_bytes_are_an_error_of_the_row(form):
    logits, tokens = some_logits(3, 50)
    payload = _features.encode_distributions(logits, tokens, Reading(form, 6))
    for length in range(len(payload)):
        with pytest.raises(RowError):
            _features.decode(payload[:length])
    with pytest.raises(RowError):
        _features.decode(payload + b"x")


def test_digests_tell_answers_apart():
    assert _features.digest_of_tokens([1, 2]) != _features.digest_of_tokens([1, 2, 3])
    logits, tokens = some_logits(3, 50)
    payload = _features.encode_distributions(logits, tokens, Reading("top-k", 6))
    assert _features.tokens_digest(payload) == _features.digest_of_tokens(tokens.tolist())
