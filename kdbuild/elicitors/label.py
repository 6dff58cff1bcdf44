"""The teacher answers each row's prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from kdbuild.elicitors import Conversation, Rejected, Scene
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.records import Message, Row


class Label(Asking):
    """Ask the teacher each row's own prompt; its answer is the turn the student learns.

    Its template writes the last turn from `prompt` (that turn), `messages`, `context`, `meta` and what else the row has.
    """

    kind: Literal["label"] = "label"
    source: ClassVar[str | None] = "Xu et al. 2024, A Survey on Knowledge Distillation of Large Language Models (2402.13116), Eq. 3"
    block: ClassVar[str | None] = "gen.label"
    asks_once: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = ("answer",)

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=1)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask one question; an empty answer is rejected."""
        prompt = row.prompt
        if not prompt or prompt[-1].role in ("assistant", "system"):
            return Rejected("no question: the last turn is not the user's", _text(prompt))
        question = self.render(scene, row.id, values_of(row))
        if not question.strip():
            return Rejected("empty question", _text(prompt))
        (answered,) = yield [self.ask(scene, row.id, (*prompt[:-1], replace(prompt[-1], content=question)))]
        answer = answered.answer
        if not answer.text.strip():
            return Rejected("empty answer", _text(prompt))
        return [replace(row, messages=prompt).with_answer(answer.text, ended=answer.ended, keys=[answered.key])]


def _text(prompt: tuple[Message, ...]) -> str:
    return "\n\n".join(m.content for m in prompt)
