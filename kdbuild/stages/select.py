"""Select: which elicited rows the student learns from, which it is examined on, and why the others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdbuild import records
from kdbuild.elicitors import Scene
from kdbuild.errors import StageError
from kdbuild.records import Call, Dropped, Matched, Row, Scored
from kdbuild.rows import place
from kdbuild.rows.answers import encode
from kdbuild.rows.conversations import Setting, Talks
from kdbuild.rows.forecast import keys_by_row
from kdbuild.rows.store import Ledger, Store
from kdbuild.scorers import Judging, Scorer, _calibration
from kdbuild.selectors import Selector, Verdict
from kdbuild.spec import layout
from kdbuild.spec.sections import SelectSection
from kdbuild.stages.asking import Asker
from kdbuild.stages.job import Job
from kdbuild.stages.vectors import Vectors

STEP = "select"


def run(job: Job) -> None:
    """Write `selected/` (kept and held-out rows), `dropped/` (all others, with the reason; the scores, and the answers they were made of)
    and select.json.

    Held-out rows are marked by their seeds' ids and pass untouched; scorers and selectors see the training rows, sorted by id, each those
    the selector before kept. A selector that gives rows their answer, and the scorers before it, see the held-out rows too.
    Rows without an answer go from both sides, unless none has one: prompts alone can be selected too.

    A dropped row names the row it gave way to as its selector saw it; where a later selector dropped that one too, it has its own entry.

    Raises:
        StageError: no training row is left, more rows could not be scored than the spec accepts, or a step refuses the rows.
    """
    section = SelectSection.of(job.section)
    folder = job.input(section.rows)
    rows: list[Row] = records.read_dataset(folder, Row)
    rejected = _rejected(folder)
    with ExitStack() as stack:
        rows = [replace(row, keys=(), held_out=records.is_held_out(row, section.held_out_frac)) for row in rows]
        selection = _Selection(job, section, rows, stack)
        selection.run()
        _write(job, section, selection, rejected)


def _rejected(folder: Path) -> list[Dropped]:
    """Return the rows that elicitation already gave up, where it left any."""
    rejected = folder / records.REJECTED
    return records.read_dataset(rejected, Dropped) if rejected.is_dir() else []


@dataclass
class _Selection:
    """The rows on their way through the steps."""

    job: Job
    section: SelectSection
    rows: list[Row]
    """The rows still there, of both sides."""
    stack: ExitStack
    dropped: list[Dropped] = field(default_factory=list)
    scored: dict[str, Row] = field(default_factory=dict)
    """Training rows that are gone, with the scores they had."""
    talks: list[Talks] = field(default_factory=list)
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    """Score to `accuracy` and `num_pairs`."""
    steps: list[dict[str, object]] = field(default_factory=list)
    """What each step did, in order."""
    matched: dict[str, str] = field(default_factory=dict)
    """What rows lost to that is no row of this stage: id to text."""

    def __post_init__(self) -> None:
        """Open what the steps need."""
        job, section = self.job, self.section
        pools = {name: _pool(job, path) for name, path in section.pools.items()}
        gives = {word: use.teacher.gives for word, use in section.actors.items()}
        vectors = Vectors(job, section.embedder)
        self.scene = Scene(job.root, gives=gives, embedder=vectors, pools=pools, max_memory_gb=job.runtime.select.max_memory_gb)
        self.num_rows = len(self.rows)
        self._ids = frozenset(row.id for row in self.rows)
        self._pool_texts: dict[str, dict[str, str]] = {}
        self._asker = self._open_asker() if any(isinstance(step, Scorer) for step in section.steps) else None

    def _open_asker(self) -> Asker:
        job, section = self.job, self.section
        folder = place.store_dir(job.root, job.runtime.rows_dir)
        store = self.stack.enter_context(Store.open(folder, commit_interval_s=job.runtime.elicit.commit_interval_s))
        self._ledger: Ledger = self.stack.enter_context(store.run(job.name, str(job.section.get("_key", ""))))
        identities = {word: use.teacher.answer_identity(job.root) for word, use in section.actors.items()}
        setting = Setting(self.scene, identities, section.held_out_frac)
        return Asker(job, section.actors, section.accept_failed_frac, setting, store, self._ledger, self.stack)

    def run(self) -> None:
        """Take the steps, in order."""
        num_complete = self.section.num_complete
        if not num_complete:
            self._leave_out_unanswered()
        for i, step in enumerate(self.section.operators):
            both = i < num_complete
            aside = [] if both and (isinstance(step, Scorer) or step.completes) else [row for row in self.rows if row.held_out]
            seen = self.rows if not aside else [row for row in self.rows if not row.held_out]
            kept = self._score(step, seen) if isinstance(step, Scorer) else self._select(step, seen)
            self._go_on(step.kind, sorted([*kept, *aside], key=lambda row: row.id), step.names if isinstance(step, Scorer) else ())
        if num_complete:
            self._leave_out_unanswered()
        if self._asker is not None:
            self._ledger.rows = keys_by_row([row.id for row in self.rows], self.talks)

    def _leave_out_unanswered(self) -> None:
        answered = {row.id for row in self.rows if (row.answer or "").strip()}
        if answered:
            self._drop(row for row in self.rows if row.id not in answered)
            self._go_on(STEP, [row for row in self.rows if row.id in answered])

    def _go_on(self, kind: str, rows: list[Row], scores: Sequence[str] = ()) -> None:
        """Take the rows that a step left; what it did goes into select.json, the held-out side apart."""
        before, after = Counter(row.held_out for row in self.rows), Counter(row.held_out for row in rows)
        sides = {"training_in": before[False], "training_left": after[False], "held_out_in": before[True], "held_out_left": after[True]}
        counts: dict[str, object] = {f"num_{name}": count for name, count in sides.items()}
        said = {**({"scores": list(scores)} if scores else {}), **({"facts": dict(self.scene.facts)} if self.scene.facts else {})}
        self.scene.facts.clear()
        self.steps.append({"kind": kind, **said, **counts})
        self.rows = rows

    def _drop(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._note(row)
            self.dropped.append(Dropped(row.id, STEP, "no answer", text=_for_people(row)))

    def _note(self, row: Row) -> None:
        if not row.held_out:
            self.scored[row.id] = row

    # --- steps ---------------------------------------------------------------------------------------------------------------

    def _score(self, scorer: Scorer, rows: list[Row]) -> list[Row]:
        assert self._asker is not None
        if isinstance(scorer, Judging):
            self._calibrate(scorer, self._asker)
        talks = self._asker.ask(scorer, rows, self.num_rows)
        self.talks.append(talks)
        by_id = {row.id: row for row in rows}
        for gone in talks.dropped:
            self._note(by_id[gone.id])
        self.dropped += [replace(gone, text=_for_people(by_id[gone.id])) for gone in talks.dropped]
        return talks.rows

    def _calibrate(self, scorer: Judging, asker: Asker) -> None:
        """Find out how often the scorer prefers the good answer of a shipped pair.

        Raises:
            StageError: less often than the spec demands.
        """
        pairs = _calibration.pairs(scorer)
        if not pairs:
            self._uncalibrated(scorer)
            return
        rows = [row for pair in pairs for row in pair]
        talks = asker.ask(scorer, rows, len(rows), accepts_failures=False)
        self.talks.append(talks)
        accuracy = _calibration.accuracy(pairs, talks.rows, scorer.label)
        self.calibration[scorer.label] = {"accuracy": accuracy, "num_pairs": len(pairs)}
        if scorer.min_accuracy is not None and accuracy < scorer.min_accuracy:
            raise StageError(
                f"{self.job.name}: scorer `{scorer.kind}` prefers the good answer in {accuracy:.0%} of {len(pairs)} shipped pairs; "
                f"`min_accuracy` is {scorer.min_accuracy:.0%}",
                hint="another model or prompt may judge better; without `min_accuracy` the report states the share and the build goes on",
            )

    def _uncalibrated(self, scorer: Judging) -> None:
        """Refuse a limit that nothing can be held against: no shipped pair has what the scorer reads."""
        if scorer.min_accuracy is not None:
            raise StageError(
                f"{self.job.name}: scorer `{scorer.kind}` reads {', '.join(scorer.reads)}, by which no shipped pair of answers can be told",
                hint="leave out `min_accuracy`",
            )

    def _select(self, selector: Selector, rows: list[Row]) -> list[Row]:
        kept = []
        for row, verdict in zip(rows, selector.judge(rows, self.scene), strict=True):
            if verdict.reason is None:
                kept.append(verdict.row or row)
            else:
                self._note(row)
                self.dropped.append(Dropped(row.id, selector.kind, verdict.reason, verdict.because_of, verdict.score, _for_people(row)))
                self._match(selector, verdict)
        return kept

    def _match(self, selector: Selector, verdict: Verdict) -> None:
        """Remember the text of what a row lost to, where that is a row of a pool or no row at all."""
        name = verdict.because_of
        if name is None or name in self._ids:
            return
        text = verdict.matched or next((pool[name] for pool in (self._texts(each) for each in selector.pools) if name in pool), None)
        if text is not None:
            self.matched[name] = text

    def _texts(self, pool: str) -> dict[str, str]:
        if pool not in self._pool_texts:
            self._pool_texts[pool] = {row.id: _for_people(row) for row in self.scene.pools[pool]}
        return self._pool_texts[pool]


def _pool(job: Job, path: str) -> list[Row]:
    """Return the training rows of a selected data set."""
    return [row for row in records.read_dataset(job.input(path), Row) if not row.held_out]


def _for_people(row: Row) -> str:
    return "\n\n".join(f"{message.role}: {message.content}" for message in row.messages)


# --- what is written --------------------------------------------------------------------------------------------------------


def _write(job: Job, section: SelectSection, selection: _Selection, rejected: list[Dropped]) -> None:
    phase, dropped = job.phase or "", [*rejected, *selection.dropped]
    num_rows, num_held_out = selection.num_rows + len(rejected), sum(row.held_out for row in selection.rows)
    num_kept = len(selection.rows) - num_held_out
    if not num_kept:
        raise _nothing_left(num_rows, num_held_out, dropped)
    selected = [_without(row, _not_carried(section)) for row in selection.rows]
    records.write_dataset(job.out(layout.out(job.spec, phase, "selected")), Row, selected)
    folder = job.out(layout.out(job.spec, phase, "dropped"))
    if selection.talks:
        scored = {**selection.scored, **{row.id: row for row in selection.rows if not row.held_out}}
        _write_part(folder / records.SCORES, Scored, list(_scores(scored.values())))
        answers = {asked: used for part in selection.talks for asked, used in part.answers.items()}
        _write_part(folder / records.JUDGED, Call, [Call(ask.row, *asked, encode(answer)) for asked, (ask, answer) in answers.items()])
    if selection.matched:
        _write_part(folder / records.MATCHED, Matched, [Matched(*one) for one in selection.matched.items()])
    records.write_dataset(folder, Dropped, dropped)
    facts: dict[str, object] = {"num_rows": num_rows, "num_held_out": num_held_out, "num_kept": num_kept, "num_dropped": _counts(dropped)}
    facts["steps"] = selection.steps
    if selection.calibration:
        facts["calibration"] = selection.calibration
    job.write_json(layout.facts(job.spec, phase, STEP), facts)


def _write_part(folder: Path, record: type, rows: list[Scored] | list[Call] | list[Matched]) -> None:
    folder.mkdir()
    records.write_dataset(folder, record, rows)


def _scores(rows: Iterable[Row]) -> Iterator[Scored]:
    for row in rows:
        yield from (Scored(row.id, name, value) for name, value in row.scores.items())
        for i, candidate in enumerate(row.candidates if row.answer is None else ()):
            yield from (Scored(row.id, f"{name}[{i}]", value) for name, value in candidate.get("scores", {}).items())


def _not_carried(section: SelectSection) -> frozenset[str]:
    return frozenset(name for step in section.steps if isinstance(step, Scorer) and not step.carry for name in step.names)


def _without(row: Row, names: frozenset[str]) -> Row:
    """Return the row without these scores: what only its selection was decided by must not make training stale."""
    if not names:
        return row
    candidates = []
    for one in row.candidates:
        given = one.get("scores", {})
        left = {name: value for name, value in given.items() if name not in names}
        plain = {name: value for name, value in one.items() if name != "scores" and not (name == "score" and names & given.keys())}
        candidates.append({**plain, "scores": left} if left else plain)
    scores = {name: value for name, value in row.scores.items() if name not in names}
    return replace(row, scores=scores, candidates=tuple(candidates))


def _counts(dropped: Sequence[Dropped]) -> dict[str, dict[str, int]]:
    """Return how many rows were dropped, by kind and by reason."""
    counts: dict[str, Counter[str]] = {}
    for row in dropped:
        counts.setdefault(row.by, Counter())[row.reason] += 1
    return {kind: dict(reasons) for kind, reasons in counts.items()}


def _nothing_left(num_rows: int, num_held_out: int, dropped: Sequence[Dropped]) -> StageError:
    gone = sorted((kind, reason, count) for kind, reasons in _counts(dropped).items() for reason, count in reasons.items())
    why = "".join(f"; {count} by {kind}: {reason}" for kind, reason, count in gone)
    return StageError(
        f"no training row is left of {num_rows}: {num_held_out} held out{why}",
        hint="loosen the selectors, add seeds, or lower `held_out_frac`",
    )
