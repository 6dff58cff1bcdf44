"""Asking what the store does not have: operators and scorers, their teachers, the budget, and what failed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Never

from kdbuild.elicitors import Conversing
from kdbuild.errors import StageError
from kdbuild.records import Row
from kdbuild.rows.conversations import Question, Setting, Talks, start
from kdbuild.rows.refill import refill
from kdbuild.rows.store import Ledger, Store
from kdbuild.spec.sections import TeacherUse
from kdbuild.stages.job import Job
from kdbuild.teachers import Answer, Session, Teacher

if TYPE_CHECKING:
    from tqdm import tqdm

_REASONS_SHOWN = 5


class Asker:
    """Asks what the store does not have; a teacher is opened for the first question that is really missing."""

    def __init__(
        self,
        job: Job,
        actors: Mapping[str, TeacherUse],
        accept_failed_frac: float,
        setting: Setting,
        store: Store,
        ledger: Ledger,
        stack: ExitStack,
    ) -> None:
        self.talks: list[Talks] = []
        """One entry an operator that is done."""
        self._job = job
        self._actors = actors
        self._accept_failed_frac = accept_failed_frac
        self._setting = setting
        self._store = store
        self._ledger = ledger
        self._stack = stack
        self._sessions: dict[str, tuple[Session, Teacher]] = {}
        self._before = store.spent(job.name, str(job.section.get("_key", "")))

    def ask(self, operator: Conversing, rows: Sequence[Row], num_rows: int, *, accepts_failures: bool = True) -> Talks:
        """Return the finished conversations of one operator about `rows`; `num_rows` is what the accepted share of failures is of.

        Raises:
            StageError: more calls failed than the spec accepts, or the budget is spent.
        """
        num_failed = sum(len(talks.failed) for talks in self.talks)
        allowed = self._accept_failed_frac * num_rows - num_failed if accepts_failures else 0
        talks, missing = start(operator, rows, self._setting, self._store, allowed_failures=allowed)
        if missing and refill(self._store, self._job.root, lambda: [question.asked for question in talks.advance()]):
            talks, missing = start(operator, rows, self._setting, self._store, allowed_failures=allowed)
        if missing:
            self._ask_all(talks, missing)
        self.talks.append(talks)
        self._accept(talks, allowed, num_rows)
        return talks

    def _ask_all(self, talks: Talks, missing: list[Question]) -> None:
        """Ask every question and those that come of the answers, one model after the other; store each answer as it comes."""
        if (spent := self._over_budget()) is not None:
            raise spent
        waiting: dict[str, list[Question]] = {}
        self._sort(missing, waiting)
        with _progress(self._job.name, talks.operator.kind, len(missing)) as bar:
            while waiting:
                name = next(iter(waiting))
                self._ask_one(name, waiting.pop(name), waiting, talks, bar)
        self._store.flush()

    def _sort(self, questions: Sequence[Question], waiting: dict[str, list[Question]]) -> None:
        for question in questions:
            waiting.setdefault(self._actors[question.ask.to].name, []).append(question)

    def _ask_one(self, name: str, questions: list[Question], waiting: dict[str, list[Question]], talks: Talks, bar: tqdm[Never]) -> None:
        """Ask one model; a question that an answer brings up for it joins while the others are on their way."""
        session, teacher = self._open(self._actors[questions[0].ask.to])
        asks = [question.ask for question in questions]
        spent: StageError | None = None
        for index, answer in session.generate(asks):
            question = questions[index]
            self._keep(talks.operator, teacher, name, question, answer)
            bar.update()
            if spent is not None:
                continue  # paid for, and the last of it
            spent = self._over_budget()
            if spent is not None and not session.stop():
                break
            new: dict[str, list[Question]] = {}
            self._sort(talks.deliver(question, answer) if spent is None else (), new)
            bar.total = (bar.total or 0) + sum(len(some) for some in new.values())
            more = new.pop(name, [])
            questions += more
            asks += [question.ask for question in more]
            for other, some in new.items():
                waiting.setdefault(other, []).extend(some)
        if spent is not None:
            self._store.flush()
            raise spent

    def _keep(self, operator: Conversing, teacher: Teacher, name: str, question: Question, answer: Answer) -> None:
        cost_usd = _cost_usd(teacher, answer)
        self._ledger.count(answer, cost_usd, operator=operator.kind, teacher=name)
        if answer.failed is None:
            self._store.put(*question.asked, answer, row=question.ask.row, cost_usd=cost_usd)

    def _over_budget(self) -> StageError | None:
        """Return what ends the stage once its budget is spent, by this run and those before it that were not changed in between."""
        budget, spent = self._job.runtime.elicit.budget, self._before + self._ledger.spent
        over = [f"${budget.usd:g}"] if budget.usd is not None and spent.usd >= budget.usd else []
        over += [f"{budget.tokens:,} tokens"] if budget.tokens is not None and spent.num_tokens >= budget.tokens else []
        if not over:
            return None
        return StageError(
            f"{self._job.name}: the budget of {' and '.join(over)} is spent: {spent.num_calls:,} calls, {spent.num_tokens:,} tokens, "
            f"${spent.usd:.2f}",
            hint="every answer is kept: raise `runtime: {elicit: {budget: ...}}` in params.yaml and build again to go on from here",
        )

    def _open(self, use: TeacherUse) -> tuple[Session, Teacher]:
        if use.name not in self._sessions:
            teacher = self._job.teacher(use)
            session = self._stack.enter_context(teacher.open(self._job.root, self._job.weights(use.weights)))
            self._sessions[use.name] = session, teacher
        return self._sessions[use.name]

    def _accept(self, talks: Talks, allowed: float, num_rows: int) -> None:
        """Make failures final where the spec accepts as many; else end the stage."""
        failed = talks.failed
        if len(failed) > max(allowed, 0):
            shown = [f"  {one.row}: {one.reason}" for one in failed[:_REASONS_SHOWN]]
            more = [f"  and {len(failed) - len(shown)} more"] if len(failed) > len(shown) else []
            raise StageError(
                "\n".join([f"{self._job.name}: {_who(talks.operator)} failed on {len(failed)} of {num_rows} rows", *shown, *more]),
                hint="the other answers are stored: the next build asks only these; `accept_failed_frac` in the spec goes on without them",
            )
        for (key, limit), (ask, answer) in talks.answers.items():
            if answer.failed is not None:
                self._store.put(key, limit, answer, row=ask.row)
        self._store.flush()


def _cost_usd(teacher: Teacher, answer: Answer) -> float:
    price = teacher.price
    if price is None:
        return 0.0
    return (answer.num_prompt_tokens * price.prompt_usd_per_mtok + answer.num_new_tokens * price.answer_usd_per_mtok) / 1e6


def _who(operator: Conversing) -> str:
    return f"scorer `{operator.kind}`" if operator.rejects_fail else "the teacher"


def _progress(name: str, kind: str, num_calls: int) -> tqdm[Never]:
    from tqdm import tqdm

    # On a terminal it moves; in a log it is a line now and then.
    interval_s = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(total=num_calls, desc=f"{name} {kind}", unit="call", delay=2, mininterval=interval_s, file=sys.stderr, dynamic_ncols=True)
