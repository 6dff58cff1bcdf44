"""Step elicit: ask a teacher, and write what its answers make of the rows.

Nothing but stored answers goes into an output: what is missing is asked for and stored first, then the same conversations go on.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Never

from kdbuild import records
from kdbuild.elicitors import Elicitor, Rejected
from kdbuild.errors import StageError
from kdbuild.records import Call, Dropped, Row
from kdbuild.rows import place
from kdbuild.rows.answers import encode
from kdbuild.rows.conversations import Failed, Question, Talk, Talks, start
from kdbuild.rows.forecast import collect_keys
from kdbuild.rows.refill import refill
from kdbuild.rows.store import Asked, Ledger, Store
from kdbuild.spec import layout
from kdbuild.spec.sections import ElicitSection
from kdbuild.stages.job import Job
from kdbuild.teachers import Answer, Session, Teacher

if TYPE_CHECKING:
    from tqdm import tqdm

_REASONS_SHOWN = 5


def run(job: Job) -> None:
    """Fill `elicited/`, `calls/` and elicit.json of the job's phase.

    Raises:
        StageError: there are no rows, too many calls failed, or no answer could be used.
        ArtifactError: an input is missing or torn.
    """
    section = ElicitSection.of(job.section)
    seeds = _rows(job, section)
    if not seeds:
        raise StageError(f"{job.name}: there are no rows to ask about", hint="the seed set, or what the phase before selected, is empty")
    folder = place.store_dir(job.root, job.runtime.rows_dir)
    with Store.open(folder, commit_interval_s=job.runtime.elicit.commit_interval_s) as store, ExitStack() as stack:
        ledger = stack.enter_context(store.run(job.name, str(job.section.get("_key", ""))))
        asker = _Asker(job, section, store, ledger, stack)
        rows = seeds
        for operator in section.operators:
            rows = asker.ask(operator, rows, len(seeds))
        if not rows:
            raise StageError(
                f"{job.name}: {_nothing_usable(section, asker.talks)}", hint="the answers are stored; look at the prompt and the teacher"
            )
        _write(job, seeds, rows, asker.talks)
        keys: dict[str, list[str]] = {row.id: [] for row in seeds}
        for talks in asker.talks:
            collect_keys(keys, talks)
        ledger.rows = keys


def _rows(job: Job, section: ElicitSection) -> list[Row]:
    if section.seeds is not None:
        return sorted(section.seeds.rows(job.root), key=lambda row: row.id)
    return list(records.read_dataset(job.input(section.rows), Row))


class _Asker:
    """Asks what the store does not have; the teacher is opened for the first question that is really missing."""

    def __init__(self, job: Job, section: ElicitSection, store: Store, ledger: Ledger, stack: ExitStack) -> None:
        self.talks: list[Talks] = []
        """One entry an operator that is done."""
        self._job = job
        self._section = section
        self._store = store
        self._ledger = ledger
        self._stack = stack
        self._teacher: Teacher | None = None
        self._session: Session | None = None

    def ask(self, operator: Elicitor, rows: list[Row], num_seeds: int) -> list[Row]:
        """Return the rows that one operator makes of `rows`.

        Raises:
            StageError: more calls failed than the spec accepts.
        """
        use, root = self._section.teacher, self._job.root
        if use is None:
            raise StageError(f"{self._job.name}: `{operator.kind}` asks a teacher, and the spec names none", hint="name a `teacher:`")
        identity = use.teacher.answer_identity(root)
        num_failed = sum(len(talks.failed) for talks in self.talks)
        allowed = self._section.accept_failed_frac * num_seeds - num_failed
        talks, missing = start(operator, rows, root, identity, self._store, allowed_failures=allowed)
        if missing and refill(self._store, root, lambda: [question.asked for question in talks.advance()]):
            talks, missing = start(operator, rows, root, identity, self._store, allowed_failures=allowed)
        asked: set[Asked] = set()
        while missing:
            self._call(talks, [question for question in missing if question.asked not in asked])
            asked |= {question.asked for question in missing}
            missing = talks.advance()
        self.talks.append(talks)
        self._accept(talks, allowed, num_seeds)
        return talks.rows

    def _call(self, talks: Talks, questions: list[Question]) -> None:
        """Ask every question, all at once for the engine to order, and store each answer as it comes."""
        if not questions:
            raise StageError(
                f"{self._job.name}: the teacher's answers are longer than it was asked for", hint="this is a defect of its kind"
            )
        session, teacher = self._open()
        with _progress(self._job.name, len(questions)) as bar:
            for index, answer in session.generate([question.ask for question in questions]):
                question = questions[index]
                cost_usd = _cost_usd(teacher, answer)
                self._ledger.count(answer, cost_usd)
                if answer.failed is None:
                    self._store.put(*question.asked, answer, row=question.ask.row, cost_usd=cost_usd)
                else:
                    talks.fail(question, answer)
                bar.update()
        self._store.flush()

    def _open(self) -> tuple[Session, Teacher]:
        if self._session is None or self._teacher is None:
            use = self._section.teacher
            assert use is not None
            self._teacher = self._job.teacher(use)
            self._session = self._stack.enter_context(self._teacher.open(self._job.root, self._job.weights(use.weights)))
        return self._session, self._teacher

    def _accept(self, talks: Talks, allowed: float, num_seeds: int) -> None:
        """Make failures final where the spec accepts as many; else end the stage."""
        failed = talks.failed
        if len(failed) > max(allowed, 0):
            shown = [f"  {talk.row.id}: {talk.result.reason}" for talk in failed[:_REASONS_SHOWN] if isinstance(talk.result, Failed)]
            more = [f"  and {len(failed) - len(shown)} more"] if len(failed) > len(shown) else []
            raise StageError(
                "\n".join([f"{self._job.name}: the teacher failed on {len(failed)} of {num_seeds} rows", *shown, *more]),
                hint="the other answers are stored: the next build asks only these; `accept_failed_frac` in the spec goes on without them",
            )
        for talk in failed:
            for (key, limit), answer in talk.used.items():
                if answer.failed is not None:
                    self._store.put(key, limit, answer, row=talk.row.id)
        self._store.flush()


def _cost_usd(teacher: Teacher, answer: Answer) -> float:
    price = teacher.price
    if price is None:
        return 0.0
    return (answer.num_prompt_tokens * price.prompt_usd_per_mtok + answer.num_new_tokens * price.answer_usd_per_mtok) / 1e6


def _progress(name: str, num_calls: int) -> tqdm[Never]:
    from tqdm import tqdm

    # On a terminal it moves; in a log it is a line now and then.
    interval_s = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(total=num_calls, desc=name, unit="call", delay=2, mininterval=interval_s, file=sys.stderr, dynamic_ncols=True)


# --- what is written --------------------------------------------------------------------------------------------------------


def _write(job: Job, seeds: list[Row], rows: list[Row], talks: list[Talks]) -> None:
    phase = job.phase or ""
    rejected = [dropped for part in talks for talk in part.talks if (dropped := _dropped(part.operator, talk)) is not None]
    elicited = job.out(layout.out(job.spec, phase, "elicited"))
    (elicited / records.REJECTED).mkdir()
    records.write_dataset(elicited / records.REJECTED, Dropped, rejected)
    records.write_dataset(elicited, Row, rows)
    answers = {(talk.row.id, *asked): answer for part in talks for talk in part.talks for asked, answer in talk.used.items()}
    calls = [Call(row, key, limit, encode(answer)) for (row, key, limit), answer in answers.items()]
    records.write_dataset(job.out(layout.out(job.spec, phase, "calls")), Call, calls)
    job.write_json(layout.facts(job.spec, phase, "elicit"), _facts(seeds, rows, talks))


def _dropped(operator: Elicitor, talk: Talk) -> Dropped | None:
    if isinstance(talk.result, Rejected):
        return Dropped(talk.row.id, operator.kind, talk.result.reason, text=talk.result.text)
    if isinstance(talk.result, Failed):
        return Dropped(talk.row.id, operator.kind, f"failed: {talk.result.reason}", text="\n\n".join(m.content for m in talk.row.prompt))
    return None


def _facts(seeds: list[Row], rows: list[Row], talks: list[Talks]) -> dict[str, object]:
    """Return what elicit.json holds: functions of the rows only; what the calls cost is in the run ledger."""
    answers = {asked: answer for part in talks for talk in part.talks for asked, answer in talk.used.items() if answer.failed is None}
    num_tokens = sum(answer.num_new_tokens for answer in answers.values())
    return {
        "num_seeds": len(seeds),
        "num_rows": len(rows),
        "num_rejected": dict(sorted(_reasons(talks).items())),
        "num_failed": sum(len(part.failed) for part in talks),
        "num_cut": sum(any(m.train and not m.ended for m in row.messages) for row in rows),
        "answer_tokens": num_tokens,
        "mean_answer_tokens": round(num_tokens / len(answers), 3) if answers else 0.0,
    }


def _reasons(talks: list[Talks]) -> Counter[str]:
    return Counter(talk.result.reason for part in talks for talk in part.talks if isinstance(talk.result, Rejected))


def _nothing_usable(section: ElicitSection, talks: list[Talks]) -> str:
    counts = [f"{count} x {reason}" for reason, count in _reasons(talks).most_common(_REASONS_SHOWN)]
    num_failed = sum(len(part.failed) for part in talks)
    counts += [f"{num_failed} x failed call"] if num_failed else []
    name = section.teacher.name if section.teacher else ""
    return f"teacher `{name}` answered nothing usable: {', '.join(counts)}"
