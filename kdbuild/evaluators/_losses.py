"""Sums of losses over the trained tokens of rows. Logits exist for a few hundred positions at a time only."""

# Shape suffixes: T trained positions of one row, C positions of one chunk, D width, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kdbuild.errors import StageError
from kdbuild.evaluators import Subject
from kdbuild.evaluators._scoring import Scored, batches, chunks, encode_rows, labels, logits, progress, states
from kdbuild.records import Row


@torch.inference_mode()
def nll_sums(subject: Subject, rows: Sequence[Row], max_tokens: int) -> dict[str, tuple[float, int]]:
    """Return row id -> (sum of negative log-likelihoods in nats, number of trained tokens)."""
    scored = encode_rows(subject, rows, max_tokens)
    sums = {}
    for indices in progress(batches([len(row.ids) for row in scored], subject.batch_tokens), f"{subject.name}: loss"):
        batch = [scored[i] for i in indices]
        for row, hidden_TD in zip(batch, states(subject, batch), strict=True):
            labels_T = labels(row, hidden_TD.device)
            total = 0.0
            for part in chunks(len(row.at)):
                logits_CV = logits(subject, hidden_TD[part])
                total += float(torch.nn.functional.cross_entropy(logits_CV, labels_T[part], reduction="sum"))
            sums[row.id] = (total, len(row.at))
    return sums


@dataclass
class Divergence:
    """One row's sums."""

    kl: float = 0.0
    """Of KL(teacher || subject), in nats."""
    agreed: int = 0
    """Of positions where both find the same word likeliest."""
    count: int = 0
    """Trained tokens."""


@torch.inference_mode()
def divergence_sums(subject: Subject, teacher: Subject, rows: Sequence[Row], max_tokens: int) -> dict[str, Divergence]:
    """Return row id -> sums over its trained tokens.

    Raises:
        StageError: the two tokenizers cut a row into different tokens.
    """
    scored = encode_rows(subject, rows, max_tokens)
    if teacher.tokenizer is not subject.tokenizer:
        _check_same_tokens(subject, scored, encode_rows(teacher, rows, max_tokens))
    sums = {}
    for indices in progress(batches([len(row.ids) for row in scored], subject.batch_tokens), f"{subject.name}: agreement"):
        batch = [scored[i] for i in indices]
        ours = states(subject, batch)
        theirs = ours if teacher is subject else states(teacher, batch)
        for row, student_TD, teacher_TE in zip(batch, ours, theirs, strict=True):
            sums[row.id] = _divergence(subject, student_TD, teacher, teacher_TE)
    return sums


def _divergence(subject: Subject, student_TD: torch.Tensor, teacher: Subject, teacher_TE: torch.Tensor) -> Divergence:
    found = Divergence(count=len(student_TD))
    for part in chunks(found.count):
        student_CV, teacher_CV = logits(subject, student_TD[part]), logits(teacher, teacher_TE[part].to(teacher.model.device))
        teacher_CV = teacher_CV.to(student_CV.device)
        # Heads are padded to different widths in one family of models; no tokenizer ever gives the ids past the narrower one.
        width = min(student_CV.shape[1], teacher_CV.shape[1])
        student_CV, teacher_CV = student_CV[:, :width], teacher_CV[:, :width]
        found.agreed += int((student_CV.argmax(1) == teacher_CV.argmax(1)).sum())
        found.kl += float(
            torch.nn.functional.kl_div(student_CV.log_softmax(1), teacher_CV.log_softmax(1), reduction="sum", log_target=True)
        )
    return found


def _check_same_tokens(subject: Subject, ours: list[Scored], theirs: list[Scored]) -> None:
    of_teacher = {row.id: row for row in theirs}
    for row in ours:
        if of_teacher.get(row.id) != row:
            raise StageError(
                f"the teacher's tokenizer or chat template cuts row `{row.id}` into other tokens than that of `{subject.name}`, "
                "so their distributions are not over the same words",
                hint="start the student from the teacher or from a model of its family, or leave teacher-agreement out",
            )
