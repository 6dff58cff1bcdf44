"""Many conversations of one operator at once, driven by stored answers: what the stage and the planner have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbuild.elicitors import Answered, Conversation, Elicitor, Rejected
from kdbuild.records import Row
from kdbuild.rows.store import Asked, Store
from kdbuild.teachers import Answer, Ask, row_key


@dataclass(frozen=True)
class Failed:
    """A row whose question got no answer."""

    reason: str


@dataclass(frozen=True)
class Question:
    """An ask, and the key its answer is stored under."""

    ask: Ask
    key: str

    @property
    def asked(self) -> Asked:
        """What the store is asked for."""
        return self.key, self.ask.max_new_tokens


@dataclass
class Talk:
    """The conversation about one row, and how far it is."""

    row: Row
    conversation: Conversation
    questions: list[Question] = field(default_factory=list)
    result: list[Row] | Rejected | Failed | None = None
    used: dict[Asked, Answer] = field(default_factory=dict)
    """Every answer it was sent, failures accepted as final included."""


class Talks:
    """One operator over its rows. Answers come from the store alone, so that what comes out is a projection of stored answers."""

    def __init__(
        self, operator: Elicitor, rows: Iterable[Row], root: Path, identity: Mapping[str, Any], store: Store, *, failures: bool
    ) -> None:
        """`identity` is the teacher's `answer_identity`; `failures` lets a failure accepted as final end a row."""
        self.operator = operator
        self._identity = identity
        self._store = store
        self._failures = failures
        self.talks = [Talk(row, operator.elicit(row, root)) for row in rows]
        self._fresh_failures: dict[Asked, Answer] = {}
        for talk in self.talks:
            self._step(talk, None)

    def advance(self) -> list[Question]:
        """Go on with every conversation as far as the stored answers reach; return what is missing, each question once, in row order."""
        live = [talk for talk in self.talks if talk.result is None]
        while live:
            wanted = {question.asked for talk in live for question in talk.questions}
            found = self._store.serve_many(wanted, failures=self._failures) | self._fresh_failures
            ready = [talk for talk in live if all(question.asked in found for question in talk.questions)]
            for talk in ready:
                self._answer(talk, found)
            if not ready:
                missing = (question for talk in live for question in talk.questions if question.asked not in found)
                return list({question.asked: question for question in missing}.values())
            live = [talk for talk in live if talk.result is None]
        return []

    def fail(self, question: Question, answer: Answer) -> None:
        """Note a failed call of this run: it is not stored unless the stage accepts it."""
        self._fresh_failures[question.asked] = answer

    def _answer(self, talk: Talk, found: Mapping[Asked, Answer]) -> None:
        answers = [found[question.asked] for question in talk.questions]
        talk.used.update({question.asked: answer for question, answer in zip(talk.questions, answers, strict=True)})
        failed = next((answer.failed for answer in answers if answer.failed is not None), None)
        if failed is not None:
            talk.conversation.close()
            talk.result = Failed(failed)
            return
        self._step(talk, [Answered(answer, question.key) for question, answer in zip(talk.questions, answers, strict=True)])

    def _step(self, talk: Talk, answers: Sequence[Answered] | None) -> None:
        try:
            asks = next(talk.conversation) if answers is None else talk.conversation.send(answers)
        except StopIteration as end:
            talk.result = end.value
            return
        talk.questions = [Question(ask, row_key(self._identity, ask)) for ask in asks]

    @property
    def failed(self) -> list[Talk]:
        """The conversations that ended because a call failed."""
        return [talk for talk in self.talks if isinstance(talk.result, Failed)]

    @property
    def rows(self) -> list[Row]:
        """The rows made, those of finished conversations."""
        return [row for talk in self.talks if isinstance(talk.result, list) for row in talk.result]


def start(
    operator: Elicitor, rows: Sequence[Row], root: Path, identity: Mapping[str, Any], store: Store, *, allowed_failures: float
) -> tuple[Talks, list[Question]]:
    """Return the conversations as far as stored answers reach, and what is missing.

    Failures that were accepted as final end their rows, unless there are now more of them than `allowed_failures`: then they are
    asked again.
    """
    talks = Talks(operator, rows, root, identity, store, failures=allowed_failures > 0)
    missing = talks.advance()
    if len(talks.failed) > max(allowed_failures, 0):
        talks = Talks(operator, rows, root, identity, store, failures=False)
        missing = talks.advance()
    return talks, missing
