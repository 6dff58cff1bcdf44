"""Base of operators that make new rows of one row: one question for each new row, sampled, each answer a row or listed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, create_model

from kdbuild.elicitors import Answered, Conversation, Rejected, Scene, _structured
from kdbuild.elicitors._asking import Asking
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._made import Harvest
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Ask

PARAGRAPH = ("\n\n",)
"""What ends an answer of one paragraph: small teachers go on with an answer to their own question."""

_TITLES = ("question", "instruction", "task", "goal", "query", "search query", "text", "request")
_QUOTES = (('"', '"'), ("\u201c", "\u201d"), ("'", "'"))


@dataclass(frozen=True)
class Draft:
    """A question, and what its answer is read with."""

    text: str
    form: type[BaseModel] | None
    """The form of the answer; None for plain text."""
    values: Mapping[str, Any]
    """What the question was made of."""
    sample: int
    stop: tuple[str, ...] = ()
    """What ends the answer; with plain text."""


class Making(Asking):
    """Base of operators that make new rows of one row."""

    asks_once: ClassVar[bool] = True

    per_row: int = Field(1, ge=1)
    """New rows of each row (of each passage): so many questions, each sampled by itself."""
    temperature: float = Field(0.7, ge=0)
    """0 answers with the likeliest token each time; above, tokens are drawn, seeded by the row's id and the number of the question."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Tokens are drawn from the smallest set with this share of the probability."""
    max_prompt_chars: int = Field(300, ge=8)
    """Longest prompt (instruction, question, query) of a new row."""
    max_answer_chars: int = Field(200, ge=8)
    """Longest answer that the form admits, where prompt and answer come together."""

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=self.per_row, rows=self.per_row)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for every new row at once."""
        drafts = self.drafts(row, scene)
        if isinstance(drafts, Rejected):
            return drafts
        answers = yield [self._put(draft, row, scene) for draft in drafts]
        harvest = Harvest(self.kind)
        for draft, answered in zip(drafts, answers, strict=True):
            read = self._read(draft, answered)
            made = read if isinstance(read, Rejected) else self.row_of(read, draft, row, scene, answered)
            if isinstance(made, Rejected):
                harvest.refuse(row.id, answered, made)
            else:
                harvest.add(made)
        return harvest.result()

    def drafts(self, row: Row, scene: Scene) -> list[Draft] | Rejected:
        """Return the questions about a row."""
        raise NotImplementedError

    def row_of(self, read: dict[str, Any], draft: Draft, row: Row, scene: Scene, answered: Answered) -> Row | Rejected:
        """Return the row that an answer makes; `read` holds its fields, plain text as `text`."""
        raise NotImplementedError

    def _put(self, draft: Draft, row: Row, scene: Scene) -> Ask:
        schema = None if draft.form is None else _structured.schema_of(draft.form)
        return self.ask(scene, row.id, draft.text, sample=draft.sample, schema=schema, stop=draft.stop)

    def _read(self, draft: Draft, answered: Answered) -> dict[str, Any] | Rejected:
        """Return the fields of an answer; plain text is `text`."""
        answer = answered.answer
        if draft.form is not None:
            return _fields(draft.form, answer)
        text = answer.text.strip()
        return {"text": text} if text else Rejected("empty answer")

    def prompt_of(self, answered: Answered) -> str | Rejected:
        """Return the prompt that a plain answer is, without the quotes and the title that small models put around it."""
        text = re.sub(rf"\A(?:{'|'.join(_TITLES)})\s*:\s*", "", answered.answer.text.strip(), flags=re.IGNORECASE)
        if len(text) > 1 and (text[0], text[-1]) in _QUOTES and text.count(text[0]) <= 2:
            text = text[1:-1].strip()
        if not text:
            return Rejected("empty answer")
        if not answered.answer.ended:
            return Rejected("cut at the token limit", text)
        return text if len(text) <= self.max_prompt_chars else Rejected("longer than `max_prompt_chars`", text)


def turns(*texts: str, ended: bool = True) -> tuple[Message, ...]:
    """Return a conversation of user and assistant in turn, of which the student learns the assistant's part."""
    last = len(texts) - 1
    return tuple(
        Message("assistant", text, train=True, ended=ended or i < last) if i % 2 else Message("user", text) for i, text in enumerate(texts)
    )


@lru_cache(maxsize=256)
def form(**max_chars: int) -> type[BaseModel]:
    """Return the form of an answer with these texts, none of them empty."""
    fields: dict[str, Any] = {name: (Annotated[str, Field(min_length=1, max_length=most)], ...) for name, most in max_chars.items()}
    return create_model("Form", **fields)


def _fields(form: type[BaseModel], answer: Answer) -> dict[str, Any] | Rejected:
    read = _structured.read(form, answer)
    if isinstance(read, Rejected):
        return read
    found = read.model_dump(by_alias=True)
    if not _is_filled(found):
        return Rejected("an empty text in the answer", answer.text)
    return {name: value.strip() if isinstance(value, str) else value for name, value in found.items()}


def _is_filled(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return all(map(_is_filled, items))
