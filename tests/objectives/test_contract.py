"""What every objective promises."""

import pytest
import torch

from kdbuild import kinds
from kdbuild.objectives import Head, Signals


@pytest.fixture(params=kinds.available("objectives"))
def objective(request):
    return kinds.parse("objectives", {"kind": request.param})


def term_of(objective, given):
    return objective.term(given if objective.needs else Signals(given.student, given.labels_T, None))


def part(given, rows):
    def cut(head):
        return Head(head.hidden_TD.detach()[rows].requires_grad_(), head.weight_VD)

    return Signals(cut(given.student), given.labels_T[rows], Head(given.teacher.hidden_TD[rows], given.teacher.weight_VD))


def test_a_term_is_a_finite_sum_over_tokens_with_gradients(objective, signals):
    given = signals()
    term = term_of(objective, given)
    assert term.count == len(given.labels_T)
    assert term.total.shape == ()
    assert torch.isfinite(term.total)
    term.total.backward()
    assert given.student.hidden_TD.grad.abs().max() > 0
    assert given.student.weight_VD.grad.abs().max() > 0


def test_a_batch_is_the_sum_of_its_parts(objective, signals):
    whole = term_of(objective, signals())
    parts = [term_of(objective, part(signals(), rows)) for rows in (slice(0, 100), slice(100, None))]
    assert whole.count == sum(p.count for p in parts)
    assert whole.total.item() == pytest.approx(sum(p.total.item() for p in parts), rel=1e-5)


def test_no_tokens_are_a_sum_of_zero_with_zero_gradients(objective, signals):
    given = signals(num_positions=0)
    term = term_of(objective, given)
    assert (term.count, term.total.item()) == (0, 0.0)
    term.total.backward()
    assert given.student.weight_VD.grad.abs().max() == 0


def test_gradients_are_those_of_small_changes(objective, signals):
    given = signals(num_positions=9)
    term_of(objective, given).total.backward()
    for tensor in (given.student.hidden_TD, given.student.weight_VD):
        chance = torch.Generator().manual_seed(1)
        direction = torch.randn(tensor.shape, generator=chance)
        slopes = []
        for step in (1e-2, -1e-2):
            moved = (tensor.detach() + step * direction).requires_grad_()
            heads = {"hidden_TD": given.student.hidden_TD, "weight_VD": given.student.weight_VD}
            name = "hidden_TD" if tensor is given.student.hidden_TD else "weight_VD"
            student = Head(**{**heads, name: moved})
            slopes.append(term_of(objective, Signals(student, given.labels_T, given.teacher)).total.item() / step)
        assert (tensor.grad * direction).sum().item() == pytest.approx(sum(slopes) / 2, rel=2e-3)


def test_the_gradient_scales_with_what_follows(objective, signals):
    plain, scaled = signals(), signals()
    term_of(objective, plain).total.backward()
    (term_of(objective, scaled).total * 0.25).backward()
    for name in ("hidden_TD", "weight_VD"):
        assert torch.allclose(getattr(scaled.student, name).grad, 0.25 * getattr(plain.student, name).grad, rtol=1e-6, atol=1e-7)


def test_a_frozen_head_gets_no_gradient(objective, signals):
    given = signals()
    frozen = Head(given.student.hidden_TD, given.student.weight_VD.detach())
    term_of(objective, Signals(frozen, given.labels_T, given.teacher)).total.backward()
    assert frozen.weight_VD.grad is None
    assert given.student.hidden_TD.grad.abs().max() > 0


def test_the_teacher_is_asked_for_exactly_when_declared(objective, signals):
    given = Signals(signals().student, signals().labels_T, None)
    if objective.needs:
        with pytest.raises(TypeError, match="teacher"):
            objective.term(given)
    else:
        assert objective.term(given).count > 0
