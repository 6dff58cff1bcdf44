"""Step elicit: ask teachers, and write what their answers make of the rows.

Nothing but stored answers goes into an output: what is missing is asked for and stored first, then the same conversations go on.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Never

from kdbuild import records
from kdbuild.elicitors import Elicitor
from kdbuild.elicitors._reading import ReadsAnswers
from kdbuild.errors import StageError
from kdbuild.records import Call, Row
from kdbuild.rows import place
from kdbuild.rows.answers import encode
from kdbuild.rows.conversations import Question, Setting, Talks, start
from kdbuild.rows.forecast import collect_keys, setting_of
from kdbuild.rows.refill import refill
from kdbuild.rows.store import Ledger, Store
from kdbuild.spec import layout
from kdbuild.spec.sections import ElicitSection, TeacherUse
from kdbuild.stages.job import Job
from kdbuild.stages.vectors import Vectors
from kdbuild.teachers import Answer, Operation, Session, Teacher

if TYPE_CHECKING:
    from tqdm import tqdm

_REASONS_SHOWN = 5


def run(job: Job) -> None:
    """Fill `elicited/`, `calls/`, `features/` where there are signals, and elicit.json of the job's phase.

    Raises:
        StageError: there are no rows, too many calls failed, the budget is spent, or no answer could be used.
        ArtifactError: an input is missing or torn.
    """
    section = ElicitSection.of(job.section)
    seeds = _rows(job, section)
    if not seeds:
        raise StageError(f"{job.name}: there are no rows to ask about", hint="the seed set, or what the phase before selected, is empty")
    folder = place.store_dir(job.root, job.runtime.rows_dir)
    with Store.open(folder, commit_interval_s=job.runtime.elicit.commit_interval_s) as store, ExitStack() as stack:
        ledger = stack.enter_context(store.run(job.name, str(job.section.get("_key", ""))))
        setting = setting_of(section, seeds, job.root, Vectors(job, section.embedder))
        asker = _Asker(job, section, setting, store, ledger, stack)
        rows = seeds
        for operator in section.operators:
            rows = asker.ask(operator, rows, len(seeds))
        if not rows:
            raise StageError(
                f"{job.name}: {_nothing_usable(section, asker.talks)}", hint="the answers are stored; look at the prompt and the teacher"
            )
        _write(job, section, seeds, rows, asker.talks)
        keys: dict[str, list[str]] = {row.id: [] for row in seeds}
        for talks in asker.talks:
            collect_keys(keys, talks)
        ledger.rows = keys


def _rows(job: Job, section: ElicitSection) -> list[Row]:
    if section.seeds is not None:
        return sorted(section.seeds.rows(job.root), key=lambda row: row.id)
    return list(records.read_dataset(job.input(section.rows), Row))


class _Asker:
    """Asks what the store does not have; a teacher is opened for the first question that is really missing."""

    def __init__(self, job: Job, section: ElicitSection, setting: Setting, store: Store, ledger: Ledger, stack: ExitStack) -> None:
        self.talks: list[Talks] = []
        """One entry an operator that is done."""
        self._job = job
        self._section = section
        self._setting = setting
        self._store = store
        self._ledger = ledger
        self._stack = stack
        self._sessions: dict[str, tuple[Session, Teacher]] = {}
        self._before = store.spent(job.name, str(job.section.get("_key", "")))

    def ask(self, operator: Elicitor, rows: list[Row], num_seeds: int) -> list[Row]:
        """Return the rows that one operator makes of `rows`.

        Raises:
            StageError: more calls failed than the spec accepts, or the budget is spent.
        """
        num_failed = sum(len(talks.failed) for talks in self.talks)
        allowed = self._section.accept_failed_frac * num_seeds - num_failed
        talks, missing = start(operator, rows, self._setting, self._store, allowed_failures=allowed)
        if missing and refill(self._store, self._job.root, lambda: [question.asked for question in talks.advance()]):
            talks, missing = start(operator, rows, self._setting, self._store, allowed_failures=allowed)
        if missing:
            self._ask_all(talks, missing)
        self.talks.append(talks)
        self._accept(talks, allowed, num_seeds)
        return talks.rows

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
            waiting.setdefault(self._section.actors[question.ask.to].name, []).append(question)

    def _ask_one(self, name: str, questions: list[Question], waiting: dict[str, list[Question]], talks: Talks, bar: tqdm[Never]) -> None:
        """Ask one model; a question that an answer brings up for it joins while the others are on their way."""
        session, teacher = self._open(self._section.actors[questions[0].ask.to])
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

    def _keep(self, operator: Elicitor, teacher: Teacher, name: str, question: Question, answer: Answer) -> None:
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

    def _accept(self, talks: Talks, allowed: float, num_seeds: int) -> None:
        """Make failures final where the spec accepts as many; else end the stage."""
        failed = talks.failed
        if len(failed) > max(allowed, 0):
            shown = [f"  {one.row}: {one.reason}" for one in failed[:_REASONS_SHOWN]]
            more = [f"  and {len(failed) - len(shown)} more"] if len(failed) > len(shown) else []
            raise StageError(
                "\n".join([f"{self._job.name}: the teacher failed on {len(failed)} of {num_seeds} rows", *shown, *more]),
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


def _progress(name: str, kind: str, num_calls: int) -> tqdm[Never]:
    from tqdm import tqdm

    # On a terminal it moves; in a log it is a line now and then.
    interval_s = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(total=num_calls, desc=f"{name} {kind}", unit="call", delay=2, mininterval=interval_s, file=sys.stderr, dynamic_ncols=True)


# --- what is written --------------------------------------------------------------------------------------------------------


def _write(job: Job, section: ElicitSection, seeds: list[Row], rows: list[Row], talks: list[Talks]) -> None:
    phase = job.phase or ""
    elicited = job.out(layout.out(job.spec, phase, "elicited"))
    (elicited / records.REJECTED).mkdir()
    records.write_dataset(elicited / records.REJECTED, records.Dropped, [dropped for part in talks for dropped in part.dropped])
    records.write_dataset(elicited, Row, rows)
    answers = {asked: used for part in talks for asked, used in part.answers.items()}
    calls = [Call(ask.row, *asked, encode(answer)) for asked, (ask, answer) in answers.items() if ask.operation is not Operation.READ]
    records.write_dataset(job.out(layout.out(job.spec, phase, "calls")), Call, calls)
    if any(operator.makes_features for operator in section.operators):
        _write_features(job, section, rows, talks)
    job.write_json(layout.facts(job.spec, phase, "elicit"), _facts(seeds, rows, talks))


def _write_features(job: Job, section: ElicitSection, rows: list[Row], talks: list[Talks]) -> None:
    """Write what was read of the rows that are left."""
    from kdbuild.teachers import _feature_files, _vocabulary

    kept = {row.id for row in rows}
    reading = [part for part in talks if part.operator.makes_features]
    found = [
        _feature_files.feature(ask, key, answer, encode(replace(answer, payload=b"")))
        for part in reading
        for talk in part.talks
        for (key, _), (ask, answer) in talk.used.items()
        if answer.failed is None and ask.row in kept
    ]
    actors = {actor for part in reading for actor in part.operator.actors}
    sources = {
        actor: _feature_files.Source(
            use.name, use.teacher.answer_identity(job.root), _vocabulary.of_teacher(job.teacher(use), job.root, job.weights(use.weights))
        )
        for actor, use in sorted(section.actors.items())
        if actor in actors
    }
    folder = job.out(layout.out(job.spec, job.phase or "", "features"))
    offers = [_feature_files.offer_of(part.operator) for part in reading if isinstance(part.operator, ReadsAnswers)]
    _feature_files.write_features(folder, found, offers, sources)


def _facts(seeds: list[Row], rows: list[Row], talks: list[Talks]) -> dict[str, object]:
    """Return what elicit.json holds: functions of the rows only; what the calls cost is in the run ledger."""
    answers = [answer for part in talks for _, answer in part.answers.values() if answer.failed is None]
    written = [answer for answer in answers if answer.num_new_tokens]
    num_tokens = sum(answer.num_new_tokens for answer in written)
    return {
        "num_seeds": len(seeds),
        "num_rows": len(rows),
        "num_rejected": dict(sorted(_reasons(talks).items())),
        "num_failed": sum(len(part.failed) for part in talks),
        "num_cut": sum(any(m.train and not m.ended for m in row.messages) for row in rows),
        "answer_tokens": num_tokens,
        "mean_answer_tokens": round(num_tokens / len(written), 3) if written else 0.0,
        "operators": [_operator_facts(part) for part in talks],
    }


def _operator_facts(talks: Talks) -> dict[str, object]:
    answers = [answer for _, answer in talks.answers.values() if answer.failed is None]
    return {
        "kind": talks.operator.kind,
        "num_asked": len(answers),
        "num_rows": len(talks.rows),
        "num_dropped": len(talks.dropped),
        "prompt_tokens": sum(answer.num_prompt_tokens for answer in answers),
        "answer_tokens": sum(answer.num_new_tokens for answer in answers),
    }


def _reasons(talks: list[Talks]) -> Counter[str]:
    """Return how often each reason stands among what could not be used; failed calls are counted apart."""
    return Counter(dropped.reason for part in talks for dropped in part.dropped if not dropped.reason.startswith("failed: "))


def _nothing_usable(section: ElicitSection, talks: list[Talks]) -> str:
    counts = [f"{count} x {reason}" for reason, count in _reasons(talks).most_common(_REASONS_SHOWN)]
    num_failed = sum(len(part.failed) for part in talks)
    counts += [f"{num_failed} x failed call"] if num_failed else []
    names = sorted({use.name for use in section.actors.values()})
    who = f"teacher `{names[0]}`" if len(names) == 1 else f"teachers {', '.join(f'`{name}`' for name in names)}"
    return f"{who if names else 'the operators'} answered nothing usable: {', '.join(counts)}"
