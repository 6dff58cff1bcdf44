"""Losses against a teacher of whom some tokens are known, against autograd on the plain formulas in float64."""

import math

import pytest
import torch

from kdbuild.objectives import Head, Named, Signals, Stored, _reduced
from kdbuild.objectives.forward_kl import ForwardKl
from kdbuild.teachers import Reading

K = 7


def doubled(signals):
    return (
        signals.student.hidden_TD.detach().double().requires_grad_(),
        signals.student.weight_VD.detach().double().requires_grad_(),
        (signals.teacher.hidden_TD @ signals.teacher.weight_VD.T).double(),
    )


def plain_top_k(student_logits, ids, log_p, log_tail, temperature):
    """The formula as it stands: softmax, the named ones, 1 less their sum, both to the power 1 / temperature and normalised."""
    q = student_logits.softmax(1)
    named = q.gather(1, ids)
    outcomes_q = torch.cat([named, 1 - named.sum(1, keepdim=True)], 1) ** (1 / temperature)
    outcomes_p = torch.cat([log_p, log_tail[:, None]], 1).exp() ** (1 / temperature)
    q, p = (outcomes / outcomes.sum(1, keepdim=True) for outcomes in (outcomes_q, outcomes_p))
    return temperature**2 * (p * (p / q).log()).sum()


def stored(teacher_logits, k=K):
    log_p, ids = teacher_logits.log_softmax(1).topk(k, 1)
    return Named(ids, log_p.float(), torch.log1p(-log_p.exp().sum(1)).float())


def assert_gradients(given, hidden, weight):
    assert torch.allclose(given.student.hidden_TD.grad, hidden.grad.float(), rtol=1e-4, atol=1e-5)
    assert torch.allclose(given.student.weight_VD.grad, weight.grad.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.7])
def test_stored_top_k_is_autograd_on_the_formula(signals, temperature):
    given = signals()
    hidden, weight, teacher = doubled(given)
    named = stored(teacher)
    expected = plain_top_k(hidden @ weight.T, named.ids_TK, named.logprobs_TK.double(), named.tail_T.double(), temperature)
    expected.backward()
    total = ForwardKl(temperature=temperature).term(with_stored(given, Reading("top-k", K), named=named)).total
    total.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_gradients(given, hidden, weight)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_an_online_teacher_reduced_is_the_stored_one(signals, temperature):
    online, offline = signals(), signals()
    named = stored(doubled(offline)[2])
    first = ForwardKl(temperature=temperature, top_k=K).term(online).total
    second = ForwardKl(temperature=temperature, top_k=K).term(with_stored(offline, Reading("top-k", K), named=named)).total
    first.backward()
    second.backward()
    assert first.item() == pytest.approx(second.item(), rel=1e-4)
    assert torch.allclose(online.student.hidden_TD.grad, offline.student.hidden_TD.grad, rtol=1e-4, atol=1e-5)
    assert torch.allclose(online.student.weight_VD.grad, offline.student.weight_VD.grad, rtol=1e-4, atol=1e-4)


def test_all_tokens_named_is_the_whole_divergence(signals):
    for temperature in (1.0, 8.0):
        reduced, whole = signals(), signals()
        one = ForwardKl(temperature=temperature, top_k=10_000).term(reduced).total
        other = ForwardKl(temperature=temperature).term(whole).total
        one.backward()
        other.backward()
        assert one.item() == pytest.approx(other.item(), rel=1e-4)
        assert torch.allclose(reduced.student.hidden_TD.grad, whole.student.hidden_TD.grad, rtol=1e-4, atol=1e-5)


def with_stored(given, reading, **said):
    return Signals(given.student, given.labels_T, None, Stored(reading, **said))


def test_top_k_by_hand():
    # Teacher: 1/2 named, 1/2 others. Student: 1/4, 1/4, 1/2: outcomes 1/4 and 3/4. KL = 1/2 log 2 + 1/2 log 2/3.
    # Gradient: of the named 1/4 - 1/2; of the others (3/4 - 1/2) in shares 1/3 and 2/3.
    weight = torch.tensor([[math.log(1 / 4)], [math.log(1 / 4)], [math.log(1 / 2)]], requires_grad=True)
    named = Named(torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]), torch.tensor([math.log(0.5)]))
    total = _reduced.top_k_kl(Head(torch.ones(1, 1, requires_grad=True), weight), named, 1.0)
    total.backward()
    assert total.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)
    assert weight.grad.flatten().tolist() == pytest.approx([-1 / 4, 1 / 12, 2 / 12], abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_divergence_is_zero_where_both_are_equal(signals, temperature):
    given = signals()
    same = Signals(given.student, given.labels_T, Head(given.student.hidden_TD.detach(), given.student.weight_VD.detach()))
    total = ForwardKl(temperature=temperature, top_k=K).term(same).total
    total.backward()
    assert total.item() == pytest.approx(0, abs=1e-3)
    assert given.student.hidden_TD.grad.abs().max() < 1e-4


def test_fillers_play_no_part(signals):
    plain, filled = signals(), signals()
    named = stored(doubled(plain)[2])
    wide = Named(
        torch.cat([named.ids_TK, named.ids_TK[:, :1].expand(-1, 3)], 1),
        torch.cat([named.logprobs_TK, torch.full((len(named.ids_TK), 3), -torch.inf)], 1),
        named.tail_T,
    )
    one, other = _reduced.top_k_kl(plain.student, named, 2.0), _reduced.top_k_kl(filled.student, wide, 2.0)
    one.backward()
    other.backward()
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
    assert torch.allclose(plain.student.weight_VD.grad, filled.student.weight_VD.grad, rtol=1e-5, atol=1e-6)


def test_a_single_certain_token_is_cross_entropy(signals):
    given = signals()
    certain = Named(given.labels_T[:, None], torch.zeros(len(given.labels_T), 1), torch.full((len(given.labels_T),), -torch.inf))
    total = _reduced.top_k_kl(given.student, certain, 1.0)
    total.backward()
    hidden, weight, _ = doubled(given)
    expected = torch.nn.functional.cross_entropy(hidden @ weight.T, given.labels_T, reduction="sum")
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_gradients(given, hidden, weight)


def test_a_student_who_rules_out_the_tail_stays_finite():
    weight = torch.tensor([[0.0], [-1e4], [-1e4]], requires_grad=True)
    named = Named(torch.tensor([[0]]), torch.tensor([[math.log(0.5)]]), torch.tensor([math.log(0.5)]))
    total = _reduced.top_k_kl(Head(torch.ones(1, 1, requires_grad=True), weight), named, 1.0)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(weight.grad).all()


def test_sampled_is_the_cross_entropy_of_the_draws(signals):
    given = signals()
    hidden, weight, _ = doubled(given)
    ids = torch.randint(0, len(weight), (len(hidden), 12), generator=torch.Generator().manual_seed(4))
    named = Named(ids, torch.full(ids.shape, -math.log(12)), torch.full((len(ids),), -torch.inf))
    total = ForwardKl().term(with_stored(given, Reading("sampled", 12), named=named)).total
    total.backward()
    expected = -(hidden @ weight.T).log_softmax(1).gather(1, ids).mean(1).sum()
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_gradients(given, hidden, weight)


def test_whole_stored_distributions_are_those_of_an_online_teacher(signals):
    online, offline = signals(), signals()
    logprobs = (offline.teacher.hidden_TD @ offline.teacher.weight_VD.T).log_softmax(1)
    first = ForwardKl(temperature=2.0).term(online).total
    second = ForwardKl(temperature=2.0).term(with_stored(offline, Reading("full"), full_CV=lambda rows: logprobs[rows].clone())).total
    first.backward()
    second.backward()
    assert first.item() == pytest.approx(second.item(), rel=1e-5)
    assert torch.allclose(online.student.weight_VD.grad, offline.student.weight_VD.grad, rtol=1e-4, atol=1e-5)


def test_readings_that_do_not_fit_are_refused():
    assert ForwardKl().refuses(Reading("top-k", 64)) is None
    assert ForwardKl(temperature=2.0).refuses(Reading("full")) is None
    assert ForwardKl(top_k=64).refuses(Reading("top-k", 64)) is None
    assert "32" in ForwardKl(top_k=64).refuses(Reading("top-k", 32))
    assert "temperature" in ForwardKl(temperature=2.0).refuses(Reading("sampled", 12))
    assert "hidden" in ForwardKl().refuses(Reading("hidden", layers=(-1,)))


def test_no_positions_are_zero():
    student = Head(torch.zeros(0, 3, requires_grad=True), torch.ones(5, 3, requires_grad=True))
    total = _reduced.top_k_kl(student, Named(torch.zeros(0, 1, dtype=torch.long), torch.zeros(0, 1), torch.zeros(0)), 1.0)
    total.backward()
    assert total.item() == 0
    assert student.weight_VD.grad.abs().max() == 0
