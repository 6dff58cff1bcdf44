"""A language-model head and its loss in one pass over chunks of rows, so that logits never exist as a whole.

The gradient is analytic and computed in the forward pass, chunk by chunk, into buffers that are used again; what stays is the
gradient of the states and, where the head is trained, of its weight. All of it is float32, whatever the precision of the model.
"""

# Shape suffixes: T trained positions, C positions of one chunk, B positions of one block of it, D student width, E teacher width,
# V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from kdbuild.objectives import Head

CHUNK_ROWS = 96
"""Rows of one chunk: enough for a matrix product to run at full speed, few enough for the buffers to stay small."""

BLOCK_ROWS = 16
"""Rows on which elementwise work is done at a time: few enough to stay in a CPU's cache, and to need next to no scratch."""

Score = Callable[[torch.Tensor, slice], torch.Tensor]
"""Takes a chunk's student logits (CV) and its rows; returns the sum of the loss and leaves d loss / d logits in their place."""


def cross_entropy(student: Head, labels_T: torch.Tensor) -> torch.Tensor:
    """Return the sum over positions of -log softmax(logits)[label], in nats; a scalar, differentiable once."""

    def score(logits_CV: torch.Tensor, rows: slice) -> torch.Tensor:
        labels_C1 = labels_T[rows].unsqueeze(1)
        picked_C1 = logits_CV.gather(1, labels_C1)
        log_sum_C1 = softmax_(logits_CV)
        logits_CV.scatter_add_(1, labels_C1, torch.full_like(picked_C1, -1.0))
        return (log_sum_C1 - picked_C1).sum()

    return run(student, score)


def forward_kl(student: Head, teacher: Head, temperature: float) -> torch.Tensor:
    """Return the sum over positions of temperature^2 * KL(teacher || student), in nats; a scalar, differentiable once.

    Both distributions are softmax(logits / temperature). The teacher's entropy is part of it, so it is 0 where the two are equal.
    """
    weight_VE = teacher.weight_VD.detach().float()
    buffer = weight_VE.new_empty((min(CHUNK_ROWS, len(teacher.hidden_TD)), len(weight_VE)))
    scratch = buffer.new_empty((min(BLOCK_ROWS, len(buffer)), len(weight_VE)))

    def score(logits_CV: torch.Tensor, rows: slice) -> torch.Tensor:
        hidden_CE = teacher.hidden_TD[rows].detach().float()
        teacher_CV = buffer[: len(hidden_CE)]
        torch.mm(hidden_CE, weight_VE.T, out=teacher_CV)
        total = logits_CV.new_zeros(())
        for student_BV, teacher_BV in zip(torch.split(logits_CV, BLOCK_ROWS), torch.split(teacher_CV, BLOCK_ROWS), strict=True):
            total += forward_kl_(student_BV, teacher_BV, scratch[: len(student_BV)], temperature)
        return total

    return run(student, score)


def forward_kl_(student_BV: torch.Tensor, teacher_BV: torch.Tensor, scratch_BV: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the sum of the divergence; put its gradient in place of the student's logits. The teacher's are used up."""
    teacher_BV.div_(temperature)
    student_BV.div_(temperature)
    torch.sub(teacher_BV, student_BV, out=scratch_BV)
    # sum p (log p - log q) = sum p (t - s) - log Z_t + log Z_s: exactly 0 where t = s
    log_sum_teacher_B1 = softmax_(teacher_BV)
    log_sum_student_B1 = softmax_(student_BV)
    kl_B1 = scratch_BV.mul_(teacher_BV).sum(1, keepdim=True) - log_sum_teacher_B1 + log_sum_student_B1
    student_BV.sub_(teacher_BV).mul_(temperature)
    return kl_B1.sum() * temperature**2


def softmax_(logits_CV: torch.Tensor) -> torch.Tensor:
    """Turn logits into probabilities in place; return the logarithm of the sum of their exponentials (C1)."""
    largest_C1 = logits_CV.amax(1, keepdim=True)
    sum_C1 = logits_CV.sub_(largest_C1).exp_().sum(1, keepdim=True)
    logits_CV.div_(sum_C1)
    return sum_C1.log_().add_(largest_C1)


def run(student: Head, score: Score) -> torch.Tensor:
    total: torch.Tensor = _HeadAndLoss.apply(student.hidden_TD, student.weight_VD, score)  # type: ignore[no-untyped-call]
    return total


def _chunks(length: int) -> Iterator[slice]:
    for start in range(0, length, CHUNK_ROWS):
        yield slice(start, min(start + CHUNK_ROWS, length))


class _HeadAndLoss(torch.autograd.Function):
    """Sum of a loss over `hidden_TD @ weight_VD.T`, with the gradients of both made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: torch.Tensor, weight_VD: torch.Tensor, score: Score) -> torch.Tensor:
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        weight_float_VD = weight_VD.float()
        buffer = hidden_TD.new_empty((min(CHUNK_ROWS, len(hidden_TD)), len(weight_VD)), dtype=torch.float32)
        grad_hidden_TD = torch.empty_like(hidden_TD, dtype=torch.float32) if wants_hidden else None
        grad_weight_VD = torch.zeros_like(weight_float_VD) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_TD.device)
        for rows in _chunks(len(hidden_TD)):
            hidden_CD = hidden_TD[rows].float()
            logits_CV = buffer[: len(hidden_CD)]
            torch.mm(hidden_CD, weight_float_VD.T, out=logits_CV)
            total += score(logits_CV, rows)
            if grad_hidden_TD is not None:
                torch.mm(logits_CV, weight_float_VD, out=grad_hidden_TD[rows])
            if grad_weight_VD is not None:
                grad_weight_VD.addmm_(logits_CV.T, hidden_CD)
        ctx.dtypes = (hidden_TD.dtype, weight_VD.dtype)
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: a second backward pass would scale twice, which autograd's own version check refuses.
        scaled = [
            None if grad is None else grad.mul_(grad_total).to(dtype) for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return scaled[0], scaled[1], None
