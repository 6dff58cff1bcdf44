"""The teacher answers each row's prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from kdbuild.elicitors import Conversation, Elicitor, Rejected
from kdbuild.records import Message, Row
from kdbuild.teachers import Ask

_TEMPLATE = Path(__file__).parent / "_label" / "prompt.j2"


class Label(Elicitor):
    """Ask the teacher each row's own prompt; its answer is the turn the student learns."""

    kind: Literal["label"] = "label"
    source: ClassVar[str | None] = "Xu et al. 2024, A Survey on Knowledge Distillation of Large Language Models (2402.13116), Eq. 3"
    block: ClassVar[str | None] = "gen.label"
    asks_once: ClassVar[bool] = True

    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in the teacher's tokens; raised later, only the answers that were cut are asked again."""
    temperature: float = Field(0.0, ge=0)
    """0 answers with the likeliest token each time; above, tokens are drawn, seeded by the row's id."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Tokens are drawn from the smallest set with this share of the probability."""
    system: str | None = None
    """An instruction to the teacher only; the student's row keeps the seed's own messages."""
    template: str | None = None
    """Jinja file of the project that writes the question from `prompt` (the last turn), `messages`, `context`, `meta` and `id`;
    absent: the last turn as it is."""

    def files(self) -> tuple[str, ...]:
        """Return the project's template."""
        return () if self.template is None else (self.template,)

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged template."""
        return (_TEMPLATE,) if self.template is None else ()

    def elicit(self, row: Row, root: Path) -> Conversation:
        """Ask one question; an empty answer is rejected."""
        prompt = row.prompt
        if not prompt or prompt[-1].role in ("assistant", "system"):
            return Rejected("no question: the last turn is not the user's", _text(prompt))
        question = self._question(prompt, row, root)
        if not question.strip():
            return Rejected("empty question", _text(prompt))
        ask = Ask(
            row=row.id,
            messages=self._messages(prompt, question),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )
        (answered,) = yield [ask]
        if not answered.answer.text.strip():
            return Rejected("empty answer", _text(prompt))
        answer = answered.answer
        return [replace(row, messages=prompt).with_answer(answer.text, ended=answer.ended, keys=[answered.key])]

    def _question(self, prompt: tuple[Message, ...], row: Row, root: Path) -> str:
        from kdbuild.elicitors import _template

        template = _template.shipped(_TEMPLATE) if self.template is None else _template.of_project(root, self.template)
        values = {"prompt": prompt[-1].content, "messages": prompt, "context": row.context, "meta": row.meta, "id": row.id}
        return template.render(row.id, values)

    def _messages(self, prompt: tuple[Message, ...], question: str) -> tuple[Message, ...]:
        turns = [Message(m.role, m.content) for m in (*prompt[:-1], replace(prompt[-1], content=question))]
        if self.system is None:
            return tuple(turns)
        if turns[0].role != "system":
            return (Message("system", self.system), *turns)
        # Chat templates know one system turn, so the instruction joins the seed's own.
        return (Message("system", f"{self.system}\n\n{turns[0].content}"), *turns[1:])


def _text(prompt: tuple[Message, ...]) -> str:
    return "\n\n".join(m.content for m in prompt)
