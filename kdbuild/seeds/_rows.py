"""From a record to a row: which columns are the prompt and the answer, and what the row is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from kdbuild import canonical, records
from kdbuild.errors import RowError
from kdbuild.kinds import nearest
from kdbuild.records import Message, Row
from kdbuild.seeds import _fields
from kdbuild.seeds._fields import PROMPTLESS, Columns, clean, shown
from kdbuild.seeds._files import Place, Record

GOLD = "gold"
ROLES = ("system", "user", "assistant", "tool")
PROMPTS, ANSWERS = ("messages", "prompt", "instruction"), ("answer", "output", GOLD)


def to_row(record: Record, place: Place, prompt: str | None, answer: str | None, columns: Columns, *, learn: bool = False) -> Row:
    """Return the row a record makes; its id is the record's own, or empty where it has none.

    `prompt` and `answer` name columns; absent, the prompt is `messages`, `prompt` or `instruction` (with `input`), and the answer
    `answer`, `output` or `gold`. A record without a prompt is a row where it has something else to ask about. `learn` makes the known
    answer a turn the student learns; a column `gold` beside it stays the right answer.

    Raises:
        RowError: there is nothing to ask about, no answer to learn, or a column is of the wrong type; names the place.
    """
    fields = _fields.read(record, place, columns)
    row = replace(_asked(record, place, prompt, answer, fields), **fields)
    if not learn:
        return row
    if row.gold is None or not row.messages:
        raise RowError(f"{place} has no {'answer' if row.messages else 'prompt'} to learn: {shown(record)}")
    # What is learnt need not be right: a column `gold` beside the answer is what it is held against.
    gold = _answer(record, place, GOLD) if record.get(GOLD) is not None else row.gold
    return replace(row, gold=gold).with_answer(row.gold, ended=True, keys=())


def _asked(record: Record, place: Place, prompt: str | None, answer: str | None, fields: Mapping[str, Any]) -> Row:
    if prompt is None and not any(record.get(name) is not None for name in PROMPTS) and any(name in fields for name in PROMPTLESS):
        return Row(_id(record, place), gold=_answer(record, place, answer))
    messages = _prompt(record, place, prompt)
    gold = _answer(record, place, answer)
    if messages[-1].role == "assistant":
        # A conversation that has its answer already: the teacher is asked for that turn, not for one after it.
        messages, gold = messages[:-1], gold if gold is not None else messages[-1].content
    if not any(message.role == "user" and message.content.strip() for message in messages):
        raise RowError(f"{place} has no user turn with text: {shown(record)}")
    if messages[-1].role not in ("user", "tool"):
        raise RowError(f"{place} does not end with a user turn: {shown(record)}")
    return Row(_id(record, place), messages, gold=gold)


def _prompt(record: Record, place: Place, column: str | None) -> tuple[Message, ...]:
    if column is not None and column not in record:
        raise RowError(f"{place} has no column `{column}`: {shown(record)}", hint=_columns(record, column))
    name = column or next((name for name in PROMPTS if record.get(name) is not None), None)
    if name is None:
        hint = "a row has `messages`, `prompt` or `instruction`; if the prompt's column has another name, say so: `prompt: <column>`"
        raise RowError(f"{place} has no prompt: {shown(record)}", hint=hint)
    value = record[name]
    if isinstance(value, list):
        return tuple(_message(turn, place, name, record) for turn in value) or _wrong(place, name, "a text or a list of turns", record)
    text = _text(value, place, name, record)
    if name == "instruction" and column is None and record.get("input") not in (None, ""):
        text = f"{text}\n\n{_text(record['input'], place, 'input', record)}"
    return (Message("user", text),)


def _message(turn: Any, place: Place, column: str, record: Record) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
        _wrong(place, column, f"a list of {{role, content}}, the role one of {', '.join(ROLES)}", record)
    return Message(turn["role"], clean(turn["content"], place, column))


def _text(value: Any, place: Place, column: str, record: Record) -> str:
    if not isinstance(value, str) or not value.strip():
        _wrong(place, column, "a text", record)
    return clean(value, place, column)


def _answer(record: Record, place: Place, column: str | None) -> str | None:
    if column is not None and column not in record:
        raise RowError(f"{place} has no column `{column}`: {shown(record)}", hint=_columns(record, column))
    name = column or next((name for name in ANSWERS if record.get(name) is not None), None)
    value = record[name] if name else None
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return canonical.dumps(value)
    if not isinstance(value, str):
        _wrong(place, name or "", "a text or a number", record)
    return clean(value, place, name or "")


def _id(record: Record, place: Place) -> str:
    return own_id(record.get("id"), place)


def own_id(value: Any, place: Place) -> str:
    """Return the id that a record gives itself, empty where it gives none.

    Raises:
        RowError: it is not a short text or a whole number; names the place.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip() or not str(value).isprintable():
        _wrong(place, "id", "a short text or a whole number", {"id": value})
    return str(value)


def _wrong(place: Place, column: str, wanted: str, record: Record) -> Any:
    raise RowError(f"{place}: `{column}` is not {wanted}: {shown({column: record.get(column)})}")


def _columns(record: Record, column: str) -> str:
    near = nearest(column, [str(key) for key in record])
    return (f"did you mean `{near}`? " if near else "") + f"columns: {', '.join(map(str, record)) or 'none'}"


# --- names -----------------------------------------------------------------------------------------------------------


def content_of(row: Row) -> dict[str, Any]:
    """Return what of a seed row its id is the digest of: what was read of it, and of a turn the student learns what is not `gold`."""
    messages = [[message.role, message.content] for message in row.prompt]
    learnt = {} if row.answer in (None, row.gold) else {"answer": row.answer}
    others = {name: value for name, value in records.as_json(row).items() if name not in ("id", "messages", "gold")}
    return {"messages": messages, "gold": row.gold, **learnt, **others}


def named(rows: Iterable[tuple[Place, Row]], content_of: Callable[[Row], Any] = content_of) -> Iterator[Row]:
    """Yield the rows with ids that are unique: their own, else a digest of their content; equal rows get `-2`, `-3`.

    Raises:
        RowError: different rows have one id; names both places.
    """
    seen: dict[str, tuple[str, Place, int]] = {}
    for place, row in rows:
        content = content_of(row)
        digest = canonical.digest(content)
        own = row.id or records.row_id(content)
        before = seen.get(own)
        if before is None:
            seen[own] = (digest, place, 1)
            yield replace(row, id=own)
            continue
        if before[0] != digest:
            raise _clash(own, before[1], place)
        count = before[2] + 1
        again = f"{own}-{count}"
        if again in seen:
            raise _clash(again, seen[again][1], place)
        seen[own], seen[again] = (digest, before[1], count), ("", place, 1)
        yield replace(row, id=again)


def _clash(name: str, one: Place, other: Place) -> RowError:
    return RowError(f"two different rows have the id `{name}`: {one} and {other}", hint="give one of them another id, or leave `id` out")
