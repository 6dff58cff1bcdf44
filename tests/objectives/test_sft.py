import math

import numpy as np
import pytest
import torch

from kdbuild.objectives import Head, Signals
from kdbuild.objectives.sft import Sft


def test_by_hand():
    # Logits (0, log 3) at one position: probabilities 1/4 and 3/4, the label is the second: -log 3/4. Gradient of the logits: (1/4, -1/4).
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    term = Sft().term(Signals(Head(hidden, weight), torch.tensor([1]), None))
    term.total.backward()
    assert term.total.item() == pytest.approx(-math.log(3 / 4), abs=1e-6)
    assert weight.grad.flatten().tolist() == pytest.approx([1 / 4, -1 / 4], abs=1e-6)
    assert hidden.grad.item() == pytest.approx(-math.log(3) / 4, abs=1e-6)


def numpy_reference(signals):
    hidden, weight = (t.detach().double().numpy() for t in (signals.student.hidden_TD, signals.student.weight_VD))
    labels = signals.labels_T.numpy()
    logits = hidden @ weight.T
    logits -= logits.max(1, keepdims=True)
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(q[rows, labels]).sum()
    q[rows, labels] -= 1
    return loss, q @ weight, q.T @ hidden


def test_loss_and_gradients_are_those_of_numpy(signals):
    given = signals()
    total = Sft().term(given).total
    total.backward()
    loss, grad_hidden, grad_weight = numpy_reference(given)
    assert total.item() == pytest.approx(loss, rel=1e-5)
    assert np.allclose(given.student.hidden_TD.grad, grad_hidden, rtol=1e-5, atol=1e-5)
    assert np.allclose(given.student.weight_VD.grad, grad_weight, rtol=1e-5, atol=1e-5)


def test_loss_and_gradients_are_those_of_autograd(signals):
    given, other = signals(), signals()
    Sft().term(given).total.backward()
    logits = other.student.hidden_TD @ other.student.weight_VD.T
    torch.nn.functional.cross_entropy(logits, other.labels_T, reduction="sum").backward()
    for name in ("hidden_TD", "weight_VD"):
        assert torch.allclose(getattr(given.student, name).grad, getattr(other.student, name).grad, rtol=1e-5, atol=1e-5)


def test_huge_logits_stay_finite():
    hidden = torch.tensor([[1e4]], requires_grad=True)
    total = Sft().term(Signals(Head(hidden, torch.tensor([[1.0], [-1.0]])), torch.tensor([1]), None)).total
    assert total.item() == pytest.approx(2e4)


def test_bfloat16_models_get_a_float32_loss(signals):
    low, full = signals(dtype=torch.bfloat16), signals(dtype=torch.bfloat16)
    total = Sft().term(low).total
    total.backward()
    logits = full.student.hidden_TD.float() @ full.student.weight_VD.float().T
    expected = torch.nn.functional.cross_entropy(logits, full.labels_T, reduction="sum")
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert low.student.hidden_TD.grad.dtype == low.student.weight_VD.grad.dtype == torch.bfloat16


def test_a_second_backward_pass_is_refused(signals):
    total = Sft().term(signals()).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()
