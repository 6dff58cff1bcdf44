"""Greedy answers, decoded as a local teacher decodes its own: the teacher on trial then writes what it wrote for the data."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from kdbuild.errors import StageError
from kdbuild.evaluators import Subject
from kdbuild.records import Message, Row
from kdbuild.teachers import Ask
from kdbuild.teachers._generate import Engine


def question(row: Row) -> tuple[Message, ...]:
    """Return the turns before the last one the student learns: what it is asked when it writes."""
    last = max((i for i, message in enumerate(row.messages) if message.train), default=len(row.messages))
    return row.messages[:last]


def write(subject: Subject, rows: Sequence[Row], max_new_tokens: int, *, skip_failures: bool = False) -> dict[str, str]:
    """Return row id -> what the subject answers, at most `max_new_tokens` tokens; rows it cannot answer are left out if `skip_failures`.

    Raises:
        StageError: a row cannot be answered, because it is longer than the model's context for instance.
    """
    engine = Engine(subject.model, subject.tokenizer, batch_tokens=subject.batch_tokens)
    asks = [Ask(row.id, question(row), max_new_tokens) for row in rows]
    texts = {}
    progress = tqdm(engine.generate(asks), desc=f"{subject.name}: writing", total=len(asks), delay=2, leave=False, disable=None, unit="row")
    for index, answer in progress:
        if answer.failed is None:
            texts[rows[index].id] = answer.text
        elif not skip_failures:
            raise StageError(
                f"`{subject.name}` cannot answer held-out row `{rows[index].id}`: {answer.failed}",
                hint="lower the evaluator's `max_new_tokens`, or take the seed out",
            )
    return texts
