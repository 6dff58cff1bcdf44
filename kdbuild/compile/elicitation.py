"""What operators need of the actors they ask and of the rows they are given."""

from __future__ import annotations

from collections.abc import Iterator

from kdbuild.compile.cast import Cast
from kdbuild.compile.resolve import has_features
from kdbuild.compile.rules import Given, actors_of, earlier, rule, signals, trains, who_gives
from kdbuild.elicitors import Conversing, Elicitor, _ensemble, _reads
from kdbuild.errors import SpecError
from kdbuild.kinds import Kind
from kdbuild.spec.model import Phase, Spec
from kdbuild.spec.names import PHASE, STUDENT, TEACHER
from kdbuild.spec.problems import At, Problem
from kdbuild.spec.source import no_such
from kdbuild.teachers import OF_A_NETWORK


@rule
def actors_are_known(given: Given) -> Iterator[Problem]:
    """Who is asked is a teacher, the student, a role or a model that an earlier phase trained."""
    for at, cast, operator, word in actors_of(given):
        model = cast.model_of(word)
        said = (*at, "by") if operator.by is not None else at
        if model == TEACHER:
            yield Problem(
                said, f"`{operator.kind}` asks the teacher, and the spec names none", hint="add `teacher: <a name in params.yaml>`"
            )
        elif model == STUDENT:
            if given.spec.student is None:
                yield Problem(
                    said, f"`{operator.kind}` asks the student, and the spec has none", hint="add `student:`, or say `by: teacher`"
                )
        elif model.startswith(PHASE):
            yield from earlier(given, said, cast.phase, model.removeprefix(PHASE), trains, "trains no model")
        elif word not in (TEACHER, *given.spec.roles) and model not in given.params.teachers:
            yield Problem(said, no_such("actor", word, cast.known()), hint=f"possible here: {', '.join(cast.known())}")


@rule
def actors_give_what_operators_need(given: Given) -> Iterator[Problem]:
    """Every actor gives the signals that the operator cannot do without."""
    for at, cast, operator, word in actors_of(given):
        model = cast.model_of(word)
        teacher = given.params.teachers.get(model)
        gives = teacher.gives if teacher else OF_A_NETWORK
        if operator.needs - gives:
            lacking = signals(operator.needs - gives)
            who = f"`{model}` (kind `{teacher.kind}`)" if teacher else f"`{model}`"
            message = f"{_reads.called(operator)} needs {lacking}, which teacher {who} does not give"
            yield Problem(at, message, hint=who_gives(given, operator.needs))


@rule
def several_actors_are_combined(given: Given) -> Iterator[Problem]:
    """`combine` says what several actors are; a pool has no consensus."""
    for at, name, phase in given.phases():
        cast = Cast(given.spec, given.params, name)
        for i, operator in enumerate(phase.elicit):
            several = len(tuple(cast.words(operator.actors))) > 1
            if operator.combine and not several:
                yield Problem((*at, "elicit", i, "combine"), "has no effect: one actor is asked", severity="warning")
            try:
                _ensemble.check(cast.written_out(operator))
            except SpecError as error:
                yield Problem((*at, "elicit", i, "combine"), error.message, hint=error.hint)


@rule
def files_and_texts_are_whole(given: Given) -> Iterator[Problem]:
    """Templates are Jinja, and functions that are named are there; nothing of them is run."""
    for at, _, phase in given.phases():
        elicit = [((*at, "elicit", i), operator) for i, operator in enumerate(phase.elicit)]
        select: list[tuple[At, Kind]] = [((*at, "select", i), kind) for i, kind in enumerate(phase.select)]
        for where, kind in [*elicit, *select]:
            for fault in kind.faults(given.root) if isinstance(kind, Conversing) else ():
                yield Problem((*where, *fault.at), fault.message, hint=fault.hint, file="other" if fault.own_place else "spec")


@rule
def rows_have_what_operators_read(given: Given) -> Iterator[Problem]:
    """What an operator reads is in the seeds, or was written by an operator before it."""
    return unread(given.spec, set(given.spec.seeds.writes) if given.spec.seeds else None)


def unread(spec: Spec, seeds: set[str] | None) -> Iterator[Problem]:
    """Yield the first operator of each phase that reads what its rows cannot have; `seeds` is what the seeds have, None where not known."""
    for name, phase in spec.phases.items():
        held = rows_of(spec, phase.on, seeds)
        for i, operator in enumerate(phase.elicit):
            if held is None:
                break
            lacking = next((one for one in operator.reads if not _reads.is_among(one, held)), None)
            if lacking is not None:
                alone = i == 0 and phase.on == "seeds"
                which = "no seed has" if alone else "nothing before it writes"
                message = f"operator `{operator.kind}` reads {_reads.shown(lacking)}, which {which}"
                yield Problem(("phases", name, "elicit", i), message, hint=_reads.listed(held, "seeds" if alone else "rows"))
                break
            held = _after(operator, held)


def rows_of(spec: Spec, on: str, seeds: set[str] | None) -> set[str] | None:
    """Return what the rows that a phase starts from have; None where that is not known."""
    if on == "seeds":
        return seeds
    phase = spec.phases.get(on)
    held = rows_of(spec, phase.on, seeds) if phase and _comes_before(spec, phase.on, on) else None
    for operator in phase.elicit if phase else ():
        held = None if held is None else _after(operator, held)
    return held


def _comes_before(spec: Spec, one: str, other: str) -> bool:
    names = list(spec.phases)
    return one == "seeds" or one in names[: names.index(other)]


def _after(operator: Elicitor, held: set[str]) -> set[str]:
    return {"prompt", *operator.writes, *(held if operator.keeps else ())}


@rule
def stored_signals_are_there(given: Given) -> Iterator[Problem]:
    """An objective that reads stored signals has a phase that stores them; one that needs none says nothing of them."""
    for at, name, phase in given.phases():
        for objective in phase.objectives:
            if objective.signal is not None and not objective.needs:
                yield Problem((*at, "objective"), f"`signal` has no effect: objective `{objective.kind}` needs none", severity="warning")
            if objective.needs and objective.signal == "stored" and not any(_stores(given, p) for p in [*given.before(name), name]):
                message = f"objective `{objective.kind}` reads stored signals, and no phase so far stores any"
                hint = "add a phase with `elicit: [{kind: logits, ...}]`, or say `signal: online`"
                if not any("/" in source.from_ for source in phase.data or ()):
                    yield Problem((*at, "objective"), message, hint=hint)


def _stores(given: Given, name: str) -> bool:
    phase: Phase = given.spec.phases[name]
    return has_features(phase)
