import math

import numpy as np
import pytest
import torch

from kdbuild.objectives import Head, Signals
from kdbuild.objectives.forward_kl import ForwardKl


def test_by_hand():
    # Teacher (1/2, 1/2), student (1/4, 3/4): KL = 1/2 log 2 + 1/2 log 2/3 = 1/2 log 4/3. Gradient of the logits: q - p.
    student = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    teacher = torch.zeros(2, 1)
    one = torch.ones(1, 1)
    term = ForwardKl().term(Signals(Head(one.clone().requires_grad_(), student), torch.tensor([0]), Head(one, teacher)))
    term.total.backward()
    assert term.total.item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert student.grad.flatten().tolist() == pytest.approx([-1 / 4, 1 / 4], abs=1e-6)


def test_the_temperature_by_hand():
    # At temperature 2 the student's logits (0, 2 log 3) are those above; the loss is 4 times as large, its gradient 2 times.
    student = torch.tensor([[0.0], [2 * math.log(3)]], requires_grad=True)
    one = torch.ones(1, 1)
    signals = Signals(Head(one.clone().requires_grad_(), student), torch.tensor([0]), Head(one, torch.zeros(2, 1)))
    term = ForwardKl(temperature=2.0).term(signals)
    term.total.backward()
    assert term.total.item() == pytest.approx(4 * 0.5 * math.log(4 / 3), abs=1e-6)
    assert student.grad.flatten().tolist() == pytest.approx([-2 / 4, 2 / 4], abs=1e-6)


def numpy_reference(signals, temperature):
    def softmax(head):
        hidden, weight = head.hidden_TD.detach().double().numpy(), head.weight_VD.detach().double().numpy()
        logits = hidden @ weight.T / temperature
        logits -= logits.max(1, keepdims=True)
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    p, q = softmax(signals.teacher), softmax(signals.student)
    hidden, weight = (t.detach().double().numpy() for t in (signals.student.hidden_TD, signals.student.weight_VD))
    grad_logits = temperature * (q - p)
    return temperature**2 * (p * np.log(p / q)).sum(), grad_logits @ weight, grad_logits.T @ hidden


@pytest.mark.parametrize("temperature", [1.0, 2.5, 0.7])
def test_loss_and_gradients_are_those_of_numpy(signals, temperature):
    given = signals()
    total = ForwardKl(temperature=temperature).term(given).total
    total.backward()
    loss, grad_hidden, grad_weight = numpy_reference(given, temperature)
    assert total.item() == pytest.approx(loss, rel=1e-5)
    assert np.allclose(given.student.hidden_TD.grad, grad_hidden, rtol=1e-5, atol=1e-5)
    assert np.allclose(given.student.weight_VD.grad, grad_weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_loss_and_gradients_are_those_of_autograd(signals, temperature):
    given, other = signals(), signals()
    total = ForwardKl(temperature=temperature).term(given).total
    total.backward()
    p = (other.teacher.hidden_TD @ other.teacher.weight_VD.T / temperature).log_softmax(-1)
    q = (other.student.hidden_TD @ other.student.weight_VD.T / temperature).log_softmax(-1)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum") * temperature**2
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    for name in ("hidden_TD", "weight_VD"):
        assert torch.allclose(getattr(given.student, name).grad, getattr(other.student, name).grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_loss_and_gradients_are_zero_where_student_and_teacher_are_equal(signals, temperature):
    student = signals().student
    same = Signals(student, signals().labels_T, Head(student.hidden_TD.detach().clone(), student.weight_VD.detach().clone()))
    total = ForwardKl(temperature=temperature).term(same).total
    total.backward()
    assert total.item() == 0
    assert student.hidden_TD.grad.abs().max() == 0
    assert student.weight_VD.grad.abs().max() == 0


def test_labels_play_no_part(signals):
    given = signals()
    other = Signals(given.student, given.labels_T.flip(0), given.teacher)
    assert ForwardKl().term(given).total.item() == ForwardKl().term(other).total.item()


def test_the_teacher_gets_no_gradient(signals):
    given = signals()
    teacher = Head(given.teacher.hidden_TD.requires_grad_(), given.teacher.weight_VD.requires_grad_())
    ForwardKl().term(Signals(given.student, given.labels_T, teacher)).total.backward()
    assert teacher.hidden_TD.grad is None
    assert teacher.weight_VD.grad is None


def test_words_the_teacher_rules_out_stay_finite():
    one = torch.ones(1, 1)
    teacher = Head(one, torch.tensor([[0.0], [-1e5]]))
    student = torch.tensor([[0.0], [0.0]], requires_grad=True)
    total = ForwardKl().term(Signals(Head(one.clone().requires_grad_(), student), torch.tensor([0]), teacher)).total
    total.backward()
    assert total.item() == pytest.approx(math.log(2), abs=1e-5)
    assert student.grad.flatten().tolist() == pytest.approx([-0.5, 0.5], abs=1e-6)


def test_bfloat16_models_get_a_float32_loss(signals):
    given = signals(dtype=torch.bfloat16)
    total = ForwardKl().term(given).total
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(numpy_reference(given, 1.0)[0], rel=1e-5)
