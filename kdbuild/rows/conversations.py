"""Many conversations of one operator at once, driven by stored answers: what the stage and the planner have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdbuild.elicitors import Answered, Conversation, Conversing, Made, Rejected, Result, Scene, _ensemble, _reads
from kdbuild.records import Dropped, Row, is_held_out
from kdbuild.rows.store import Asked, Store
from kdbuild.teachers import Answer, Ask, row_key


@dataclass(frozen=True)
class Question:
    """An ask, and the key its answer is stored under."""

    ask: Ask
    key: str

    @property
    def asked(self) -> Asked:
        """What the store is asked for."""
        return self.key, self.ask.max_new_tokens


@dataclass(frozen=True)
class Failed:
    """A row whose question got no answer."""

    row: str
    reason: str


@dataclass(eq=False)
class Talk:
    """The conversation about one row (or one pool of rows), and how far it is."""

    rows: tuple[Row, ...]
    conversation: Conversation
    questions: list[Question] = field(default_factory=list)
    """What it asks now."""
    got: dict[Asked, Answer] = field(default_factory=dict)
    """The answers to these that are there."""
    result: Result | Failed | None = None
    used: dict[Asked, tuple[Ask, Answer]] = field(default_factory=dict)
    """Every answer it was sent, failures accepted as final included."""

    @property
    def is_ready(self) -> bool:
        """Whether it waits for nothing."""
        return self.result is None and all(question.asked in self.got for question in self.questions)

    @property
    def made(self) -> list[Row]:
        """The rows that came of it."""
        return _rows(self.result)


@dataclass(frozen=True)
class Setting:
    """What the conversations of a stage have in common."""

    scene: Scene
    identities: Mapping[str, Mapping[str, Any]]
    """Actor to its `answer_identity`."""
    held_out_frac: float | None = None
    """Splits the pools; None where no operator is pooled."""

    def subjects(self, operator: Conversing, rows: Sequence[Row]) -> Iterator[tuple[tuple[Row, ...], Scene]]:
        """Yield what each conversation of an operator is about, a row or the pool of one side of the held-out split, and its scene."""
        scene = replace(self.scene, actor=(operator.actors or ("teacher",))[0])
        if not operator.pooled:
            yield from (((row,), scene) for row in rows)
            return
        held_out_frac = 0.0 if scene.few_seeds else self.held_out_frac or 0.0
        sides: dict[bool, list[Row]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row.id):
            sides[is_held_out(row, held_out_frac)].append(row)
        for is_held, pool in sorted(sides.items()):
            # By the fraction, not by the rows that fell on this side: one more seed must not move what is wanted.
            yield tuple(pool), replace(scene, share=held_out_frac if is_held else 1 - held_out_frac)


class Talks:
    """One operator over its rows. Answers come from the store alone, so that what comes out is a projection of stored answers."""

    def __init__(self, operator: Conversing, rows: Sequence[Row], setting: Setting, store: Store, *, failures: bool) -> None:
        """`failures` lets a failure accepted as final end a row."""
        self.operator = operator
        self.setting = setting
        self._store = store
        self._failures = failures
        self._waiting: dict[Asked, list[Talk]] = defaultdict(list)
        self._delivered: set[Asked] = set()
        self.talks: list[Talk] = []
        for subject, scene in setting.subjects(operator, rows):
            about = subject if operator.pooled else subject[0]
            self.talks.append(Talk(subject, _ensemble.conversation(operator, about, scene)))

    def advance(self) -> list[Question]:
        """Go on with every conversation as far as the stored answers reach; return what is missing, each question once, in row order."""
        fresh = [talk for talk in self.talks if talk.result is None and not talk.questions]
        asked = self._go_on((talk, None) for talk in fresh) if fresh else {}
        asked |= {question.asked: question for talk in self._live() for question in talk.questions if question.asked not in talk.got}
        self._serve(asked, flush=True)
        missing = {q.asked: q for talk in self._live() for q in talk.questions if q.asked not in talk.got}
        return list(missing.values())

    def deliver(self, question: Question, answer: Answer) -> list[Question]:
        """Hand an answer to whoever waits for it; return the questions that this brings up and that no stored answer serves."""
        self._delivered.add(question.asked)
        new = self._hand_over({question.asked: answer})
        return self._serve(new, flush=False)

    def _serve(self, asked: dict[Asked, Question], *, flush: bool) -> list[Question]:
        """Answer what the store can, and what comes of that; return the questions that are left and are asked for the first time."""
        left: dict[Asked, Question] = {}
        while asked:
            # An answer of this run may be in the store's buffer still.
            flush = flush or not self._delivered.isdisjoint(asked)
            found = self._store.serve_many(asked, failures=self._failures, flush=flush)
            left |= {key: question for key, question in asked.items() if key not in found}
            asked = self._hand_over(found)
        return list(left.values())

    def _hand_over(self, found: Mapping[Asked, Answer]) -> dict[Asked, Question]:
        """Give answers to the conversations that wait for them; return the questions asked anew, without those already waited for."""
        ready: dict[int, Talk] = {}
        for asked, answer in found.items():
            for talk in self._waiting.pop(asked, ()):
                talk.got[asked] = answer
                if talk.is_ready:
                    ready[id(talk)] = talk
        return self._go_on((talk, [talk.got[question.asked] for question in talk.questions]) for talk in ready.values())

    def _go_on(self, talks: Iterable[tuple[Talk, list[Answer] | None]]) -> dict[Asked, Question]:
        new: dict[Asked, Question] = {}
        for talk, answers in talks:
            self._step(talk, answers)
            while talk.is_ready:  # it asks for what it was told already, or for nothing
                self._step(talk, [talk.got[question.asked] for question in talk.questions])
            for question in talk.questions if talk.result is None else ():
                if question.asked in talk.got:
                    continue
                if question.asked not in self._waiting:
                    new[question.asked] = question
                if talk not in self._waiting[question.asked]:
                    self._waiting[question.asked].append(talk)
        return new

    def _step(self, talk: Talk, answers: list[Answer] | None) -> None:
        answered = None
        if answers is not None:
            talk.used.update({q.asked: (q.ask, answer) for q, answer in zip(talk.questions, answers, strict=True)})
            failed = next((q for q, answer in zip(talk.questions, answers, strict=True) if answer.failed is not None), None)
            if failed is not None and not self.operator.pooled:
                talk.conversation.close()
                talk.result = Failed(failed.ask.row, talk.got[failed.asked].failed or "")
                return
            answered = [Answered(answer, question.key) for question, answer in zip(talk.questions, answers, strict=True)]
        talk.got = {}
        try:
            asks = next(talk.conversation) if answered is None else talk.conversation.send(answered)
        except StopIteration as end:
            talk.result = end.value
            return
        talk.questions = [Question(ask, row_key(self.setting.identities[ask.to], ask)) for ask in asks]

    def _live(self) -> list[Talk]:
        return [talk for talk in self.talks if talk.result is None]

    # --- what came of it -----------------------------------------------------------------------------------------------------

    @property
    def answers(self) -> dict[Asked, tuple[Ask, Answer]]:
        """Every answer that was used, failures included."""
        return {asked: used for talk in self.talks for asked, used in talk.used.items()}

    @property
    def failed(self) -> list[Failed]:
        """The questions that got no answer, one a row or, of a pool, each; and what was rejected, where that is a failure."""
        found = [talk.result for talk in self.talks if isinstance(talk.result, Failed)]
        if self.operator.pooled:
            found += [Failed(ask.row, answer.failed) for ask, answer in self.answers.values() if answer.failed is not None]
        if self.operator.rejects_fail:
            rejecting = [talk for talk in self.talks if not isinstance(talk.result, Failed)]
            found += [Failed(row.id, row.reason) for talk in rejecting for row in _dropped("", talk)]
        return found

    @property
    def rows(self) -> list[Row]:
        """The rows made, those of finished conversations; rows that are alike in all but their keys are one."""
        found: dict[str, Row] = {}
        for row in (row for talk in self.talks for row in _rows(talk.result)):
            found.setdefault(row.id, row)
        return list(found.values())

    @property
    def dropped(self) -> list[Dropped]:
        """What could not be used, and why."""
        return [dropped for talk in self.talks for dropped in _dropped(self.operator.kind, talk)]

    def rejects(self, talk: Talk) -> bool:
        """Return whether a conversation came to something that cannot be used, other than a call that failed."""
        return any(not dropped.reason.startswith("failed: ") for dropped in _dropped(self.operator.kind, talk))


def _rows(result: Result | Failed | None) -> list[Row]:
    if isinstance(result, Made):
        return result.rows
    return result if isinstance(result, list) else []


def _dropped(kind: str, talk: Talk) -> list[Dropped]:
    if isinstance(talk.result, Made):
        return talk.result.dropped
    subject = talk.rows[0]
    if isinstance(talk.result, Rejected):
        return [Dropped(subject.id, kind, talk.result.reason, text=talk.result.text)]
    if isinstance(talk.result, Failed):
        return [Dropped(subject.id, kind, f"failed: {talk.result.reason}", text="\n\n".join(m.content for m in subject.prompt))]
    return []


def start(
    operator: Conversing, rows: Sequence[Row], setting: Setting, store: Store, *, allowed_failures: float
) -> tuple[Talks, list[Question]]:
    """Return the conversations as far as stored answers reach, and what is missing.

    Failures that were accepted as final end their rows, unless there are now more of them than `allowed_failures`: then they are
    asked again.

    Raises:
        StageError: none of the rows has what the operator reads.
    """
    _reads.require(operator, rows)
    talks = Talks(operator, rows, setting, store, failures=allowed_failures > 0)
    missing = talks.advance()
    if len(talks.failed) > max(allowed_failures, 0):
        talks = Talks(operator, rows, setting, store, failures=False)
        missing = talks.advance()
    return talks, missing
