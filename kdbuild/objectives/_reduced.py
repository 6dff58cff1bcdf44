"""Forward KL to a teacher of whom some tokens of each position are known: the head and the loss in chunks, as in `_chunked`.

`top-k` and its tail are one distribution over k + 1 outcomes: the named tokens, and any other. The student's distribution is reduced to
the same outcomes. A temperature softens the reduced distributions, for what lies in a tail is not known one by one.
"""

# Shape suffixes: T trained positions, C positions of one chunk, B positions of one block of it, K named tokens, V vocabulary.

from __future__ import annotations

from collections.abc import Callable

import torch

from kdbuild.objectives import Head, Named
from kdbuild.objectives._chunked import BLOCK_ROWS, forward_kl_, run, softmax_


def full_kl(student: Head, teacher_CV: Callable[[slice], torch.Tensor], temperature: float) -> torch.Tensor:
    """Return the sum of temperature^2 * KL(teacher || student), in nats; the teacher's log-probabilities come by chunks."""

    def score(logits_CV: torch.Tensor, rows: slice) -> torch.Tensor:
        total = logits_CV.new_zeros(())
        pairs = zip(torch.split(logits_CV, BLOCK_ROWS), torch.split(teacher_CV(rows), BLOCK_ROWS), strict=True)
        for student_BV, teacher_BV in pairs:
            total += forward_kl_(student_BV, teacher_BV, torch.empty_like(student_BV), temperature)
        return total

    return run(student, score)


def top_k_kl(student: Head, teacher: Named, temperature: float) -> torch.Tensor:
    """Return the sum over positions of temperature^2 * KL(teacher || student) between the distributions over k + 1 outcomes.

    At temperature 1: sum_k p log(p / q) + p_tail log(p_tail / q_tail), q_tail = 1 - sum_k q.
    """

    def score(logits_CV: torch.Tensor, rows: slice) -> torch.Tensor:
        part = Named(teacher.ids_TK[rows], teacher.logprobs_TK[rows], teacher.tail_T[rows])
        return _top_k_kl_(logits_CV, part, temperature)

    return run(student, score)


def online_top_k_kl(student: Head, teacher: Head, k: int, temperature: float) -> torch.Tensor:
    """Return what `top_k_kl` returns for a teacher that is here, reduced to its `k` likeliest tokens and their tail."""
    weight_VE = teacher.weight_VD.detach().float()

    def score(logits_CV: torch.Tensor, rows: slice) -> torch.Tensor:
        return _top_k_kl_(logits_CV, reduced(teacher.hidden_TD[rows].detach().float() @ weight_VE.T, k), temperature)

    return run(student, score)


def sampled_cross_entropy(student: Head, teacher: Named) -> torch.Tensor:
    """Return the sum over positions of -sum_draws weight * log q(draw): an unbiased estimate of the cross-entropy of teacher and student.

    Source: Anshumann et al. 2025, Sparse Logit Sampling, ACL 2025 long.885, section 3.
    """

    def score(logits_CV: torch.Tensor, rows: slice) -> torch.Tensor:
        ids_CK, weights_CK = teacher.ids_TK[rows], teacher.logprobs_TK[rows].exp()
        picked_CK = logits_CV.gather(1, ids_CK)
        log_sum_C1 = softmax_(logits_CV)
        logits_CV.scatter_add_(1, ids_CK, -weights_CK)
        return (weights_CK * (log_sum_C1 - picked_CK)).sum()

    return run(student, score)


def reduced(logits_CV: torch.Tensor, k: int) -> Named:
    """Return the `k` likeliest tokens of each position and the mass of all others. The logits are used up."""
    total_C = logits_CV.logsumexp(1)
    top_CK, ids_CK = logits_CV.topk(min(k, logits_CV.shape[1]), dim=1)
    tail_C = logits_CV.scatter_(1, ids_CK, -torch.inf).logsumexp(1) - total_C
    return Named(ids_CK, top_CK - total_C.unsqueeze(1), tail_C)


def _top_k_kl_(logits_CV: torch.Tensor, teacher: Named, temperature: float) -> torch.Tensor:
    """Return the sum of the divergence; put its gradient in place of the student's logits.

    With the tempered distributions p and q over the outcomes, d loss / d logit is temperature * (q - p) of a named token; the tail's
    goes to the tokens in it by their shares.
    """
    ids_CK, log_p_CK, log_p_tail_C1 = teacher.ids_TK, teacher.logprobs_TK, teacher.tail_T.unsqueeze(1)
    picked_CK = logits_CV.gather(1, ids_CK)
    log_q_CK = picked_CK - softmax_(logits_CV)
    logits_CV.scatter_(1, ids_CK, 0.0)
    # The sum of the others, not 1 less the named: of two nearly equal numbers nothing would be left.
    q_tail_C1 = logits_CV.sum(1, keepdim=True).clamp_(min=torch.finfo(logits_CV.dtype).tiny)
    log_q_tail_C1 = q_tail_C1.log()
    if ids_CK.shape[1] >= logits_CV.shape[1]:
        log_q_tail_C1 = torch.full_like(log_q_tail_C1, -torch.inf)  # all tokens are named
    filler_CK = log_p_CK == -torch.inf
    log_q_CK = log_q_CK.masked_fill(filler_CK, -torch.inf)
    log_p_CO = (torch.cat([log_p_CK, log_p_tail_C1], 1) / temperature).log_softmax(1)
    log_q_CO = (torch.cat([log_q_CK, log_q_tail_C1], 1) / temperature).log_softmax(1)
    p_CO = log_p_CO.exp()
    gap_CO = torch.where(p_CO > 0, log_p_CO - log_q_CO, 0.0)
    gradient_CO = (log_q_CO.exp() - p_CO).mul_(temperature)
    logits_CV.mul_(gradient_CO[:, -1:] / q_tail_C1)
    logits_CV.scatter_add_(1, ids_CK, gradient_CO[:, :-1])
    return (p_CO * gap_CO).sum() * temperature**2
