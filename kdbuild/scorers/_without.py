"""A row with and without what may help to its answer: passages, calls of tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdbuild.elicitors._insertion import call_text
from kdbuild.elicitors._steps import Step
from kdbuild.records import Message, Row
from kdbuild.scorers._likelihood import before_answer, passages


@dataclass(frozen=True)
class CallIn:
    """A call of a tool that a text holds."""

    offset: int
    """Where it stands: characters of the text without any calls before it."""
    step: Step


def with_context(row: Row) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """Return the turns before the answer with the row's passages, and without them.

    Passages that the turns hold already are taken out of them; others are put before what the user says last.
    """
    turns = before_answer(row)
    texts = [str(passage.get("text") or "").strip() for passage in row.context]
    without = tuple(replace(turn, content=_free_of(turn.content, texts)) for turn in turns)
    if without != turns:
        return turns, without
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is None:
        return (Message("user", passages(row)), *turns), turns
    shown = replace(turns[last], content=f"{passages(row)}\n\n{turns[last].content}")
    return (*turns[:last], shown, *turns[last + 1 :]), turns


def _free_of(text: str, passages: Sequence[str]) -> str:
    for passage in passages:
        if passage and passage in text:
            text = text.replace(passage, "").strip()
    return text


def without_results(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return turns with what tools said left empty."""
    return tuple(replace(turn, content="") if turn.role == "tool" else turn for turn in turns)


def without_calls(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Return turns without those of tools, and without the turns that called them."""
    next_role = [turn.role for turn in turns[1:]] + [""]
    return tuple(turn for turn, after in zip(turns, next_role, strict=True) if "tool" not in (turn.role, after))


def calls_in(text: str, trajectory: Sequence[dict[str, str]]) -> tuple[str, list[CallIn]]:
    """Return a text without its calls, and those of the trajectory that stand in it as `[name(arguments) -> result]`, in order."""
    plain, found = "", []
    for values in trajectory:
        step = Step(**{name: values.get(name) or "" for name in ("thought", "action", "args", "observation")})
        before, shown, after = text.partition(f"{call_text(step, step.observation)} ") if step.args else (text, "", "")
        if shown:
            plain += before
            found.append(CallIn(len(plain), step))
            text = after
    return plain + text, found
