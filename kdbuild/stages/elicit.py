"""Step elicit: ask teachers, and write what their answers make of the rows.

Nothing but stored answers goes into an output: what is missing is asked for and stored first, then the same conversations go on.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

from kdbuild import records
from kdbuild.elicitors import _reads
from kdbuild.elicitors._reading import ReadsAnswers
from kdbuild.errors import StageError
from kdbuild.records import Call, Row
from kdbuild.rows import place
from kdbuild.rows.answers import encode
from kdbuild.rows.conversations import Talks
from kdbuild.rows.forecast import keys_by_row, setting_of
from kdbuild.rows.store import Store
from kdbuild.spec import layout
from kdbuild.spec.sections import ElicitSection
from kdbuild.stages.asking import Asker
from kdbuild.stages.job import Job
from kdbuild.stages.vectors import Vectors
from kdbuild.teachers import Operation

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
        asker = Asker(job, section.actors, section.accept_failed_frac, setting, store, ledger, stack)
        rows = seeds
        for operator in section.operators:
            rows = asker.ask(operator, rows, len(seeds)).rows
        if not rows:
            raise _nothing_usable(job, section, asker.talks)
        _write(job, section, seeds, rows, asker.talks)
        ledger.rows = keys_by_row([row.id for row in seeds], asker.talks)


def _rows(job: Job, section: ElicitSection) -> list[Row]:
    if section.seeds is not None:
        return sorted(section.seeds.rows(job.root), key=lambda row: row.id)
    return list(records.read_dataset(job.input(section.rows), Row))


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


def _nothing_usable(job: Job, section: ElicitSection, talks: list[Talks]) -> StageError:
    """Return what ends a stage that made no row: what the operator that made none lacked, and the teacher only where it was asked."""
    last = next(part for part in talks if not part.rows)
    rows = [row for talk in last.talks for row in talk.rows]
    counts = [f"{count} x {reason}" for reason, count in _reasons(talks).most_common(_REASONS_SHOWN)]
    num_failed = sum(len(part.failed) for part in talks)
    counts += [f"{num_failed} x failed call"] if num_failed else []
    if last.answers:
        names = sorted({use.name for use in section.actors.values()})
        who = f"teacher `{names[0]}`" if len(names) == 1 else f"teachers {', '.join(f'`{name}`' for name in names)}"
        said, hint = f"{who} answered nothing usable", "the answers are stored; look at the prompt and the teacher"
        hint += f". `kdbuild rows list {job.name} --rejected` shows them, `kdbuild retry {job.name} --rejected` asks again"
    else:
        said, hint = f"operator `{last.operator.kind}` could use none of {len(rows):,} rows", _reads.listed(_reads.had_by(rows))
    lacking = "".join(f"; it reads {what}" for what in _reads.lacks(last.operator, rows))
    return StageError(f"{job.name}: {said}: {', '.join(counts)}{lacking}", hint=hint)
