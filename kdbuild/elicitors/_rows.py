"""What operators do with the rows they are given: the question in it, the question in other words, a row beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Answered, Rejected, Scene
from kdbuild.records import Dropped, Message, Row

_OF_THE_ROW_ITSELF = ("id", "parents", "roots", "held_out")


def unasked(row: Row) -> Rejected | None:
    """Return why a row has no question (its prompt does not end with a turn that is answered), or None where it has one."""
    prompt = row.prompt
    if not prompt or prompt[-1].role in ("assistant", "system") or not prompt[-1].content.strip():
        return Rejected("no question: the last turn is not the user's", text_of(prompt))
    return None


def reworded(prompt: tuple[Message, ...], question: str) -> tuple[Message, ...]:
    """Return a prompt with other words in its last turn."""
    return (*prompt[:-1], replace(prompt[-1], content=question))


def text_of(messages: tuple[Message, ...]) -> str:
    """Return turns as one text, for people."""
    return "\n\n".join(m.content for m in messages)


def variant(scene: Scene, row: Row, **changes: Any) -> Row:
    """Return a new row beside `row`: a child of it with all it has but for `changes`."""
    kept = {f.name: getattr(row, f.name) for f in fields(row) if f.name not in _OF_THE_ROW_ITSELF}
    return scene.child([row], **{**kept, **changes})


def with_system(messages: tuple[Message, ...], system: str) -> tuple[Message, ...]:
    """Return turns under a system message; it goes before the one they have, since chat templates know one system turn."""
    if messages and messages[0].role == "system":
        return (Message("system", f"{system}\n\n{messages[0].content}"), *messages[1:])
    return (Message("system", system), *messages)


def require_drawn(field: str, count: int, temperature: float) -> None:
    """Refuse several samples of one question where decoding is greedy: they would all be the same.

    Raises:
        PydanticCustomError: `count` is over 1 and `temperature` is 0.
    """
    if count > 1 and temperature == 0:
        raise PydanticCustomError(
            "samples_greedy",
            "`{field}: {count}` needs a temperature above 0: at 0 every sample is the same; add `temperature: 0.7`",
            {"field": field, "count": count},
        )


def meta_with(row: Row, more: Mapping[str, object]) -> dict[str, str]:
    """Return a row's meta with further facts, as text."""
    return {**row.meta, **{name: str(value) for name, value in more.items()}}


def dropped(kind: str, row: Row, problems: Iterable[Rejected]) -> list[Dropped]:
    """Return what could not be used of the answers about one row, each under an id of its own: the row's, then `<id>/2` and so on."""
    ids = (row.id if i == 1 else f"{row.id}/{i}" for i in itertools.count(1))
    return [Dropped(name, kind, problem.reason, text=problem.text) for name, problem in zip(ids, problems, strict=False)]


def candidate(answered: Answered, source: str) -> dict[str, Any]:
    """Return an answer as a candidate: its text, who gave it, its log-probability (nats, or None), whether it ended by itself."""
    answer = answered.answer
    return {"text": answer.text, "source": source, "logprob": answer.logprob, "ended": answer.ended}
