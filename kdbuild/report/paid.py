"""What the answers of a phase took."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kdbuild.records import Call
from kdbuild.rows.answers import decode

Asked = tuple[str, int]
"""(key, max_new_tokens)."""


@dataclass(frozen=True)
class Paid:
    """The answers of a step; an answer that two rows share was paid for once and counts once."""

    num_answers: int
    num_cut: int
    """Answers that reached the token limit."""
    num_prompt_tokens: int
    num_answer_tokens: int
    lengths: tuple[int, ...]
    """Tokens of each answer, sorted."""


def paid(calls: Iterable[Call], *, but: Collection[Asked] = ()) -> Paid:
    """Return what these calls took, without those that were counted elsewhere."""
    answers = [decode(text) for asked, text in {(call.key, call.max_new_tokens): call.answer for call in calls}.items() if asked not in but]
    answered = [answer for answer in answers if answer.failed is None]
    return Paid(
        num_answers=len(answered),
        num_cut=sum(not answer.ended for answer in answered),
        num_prompt_tokens=sum(answer.num_prompt_tokens for answer in answered),
        num_answer_tokens=sum(answer.num_new_tokens for answer in answered),
        lengths=tuple(sorted(answer.num_new_tokens for answer in answered)),
    )
