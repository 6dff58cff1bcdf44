"""Greedy generation, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from kdbuild.evaluators import Subject
from kdbuild.evaluators._scoring import batches, check_context, context_tokens, progress
from kdbuild.records import Message, Row


def question(row: Row) -> tuple[Message, ...]:
    """Return the turns before the last one the student learns: what it is asked when it writes."""
    last = max((i for i, message in enumerate(row.messages) if message.train), default=len(row.messages))
    return row.messages[:last]


def fits(subject: Subject, row: Row, max_new_tokens: int) -> bool:
    """Return whether a row's prompt and an answer of `max_new_tokens` fit into the model's context."""
    limit = context_tokens(subject)
    return limit is None or len(_prompt_ids(subject, row)) + max_new_tokens <= limit


@torch.inference_mode()
def write(subject: Subject, rows: Sequence[Row], max_new_tokens: int) -> dict[str, str]:
    """Return row id -> what the subject answers, decoded greedily, at most `max_new_tokens` tokens."""
    prompts = [_prompt_ids(subject, row) for row in rows]
    check_context(subject, max(len(ids) for ids in prompts) + max_new_tokens)
    texts = {}
    lengths = [len(ids) + max_new_tokens for ids in prompts]
    for indices in progress(batches(lengths, subject.batch_tokens), f"{subject.name}: writing"):
        answers = _generate(subject, [prompts[i] for i in indices], max_new_tokens)
        texts.update({rows[i].id: answer for i, answer in zip(indices, answers, strict=True)})
    return texts


def _prompt_ids(subject: Subject, row: Row) -> list[int]:
    return list(subject.tokenizer(subject.render(question(row)), add_special_tokens=False)["input_ids"])


def _ends(subject: Subject) -> list[int]:
    """Return the ids of the tokens that end an answer: the model's own and its tokenizer's."""
    ends = getattr(subject.model.generation_config, "eos_token_id", None)
    ends = [ends] if isinstance(ends, int) else list(ends or ())
    return sorted({*ends, *([subject.tokenizer.eos_token_id] if subject.tokenizer.eos_token_id is not None else [])})


def _generate(subject: Subject, prompts: list[list[int]], max_new_tokens: int) -> list[str]:
    device = subject.model.device
    longest = max(len(ids) for ids in prompts)
    ends = _ends(subject)
    pad = subject.tokenizer.pad_token_id
    pad = pad if pad is not None else (ends[0] if ends else 0)
    config = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=pad, eos_token_id=ends or None)
    new_ids = subject.model.generate(
        input_ids=torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts], device=device),
        attention_mask=torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device),
        generation_config=config,
    )[:, longest:]
    return [text.strip() for text in subject.tokenizer.batch_decode(new_ids, skip_special_tokens=True)]
