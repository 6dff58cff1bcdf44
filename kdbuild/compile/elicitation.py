"""What operators need of the actors they ask and of the rows they are given."""

from __future__ import annotations

from collections.abc import Iterator

from kdbuild.compile.cast import Cast
from kdbuild.compile.resolve import has_features
from kdbuild.compile.rules import Given, actors_of, earlier, rule, signals, trains, who_gives
from kdbuild.elicitors import ANY, Elicitor, _ensemble
from kdbuild.errors import SpecError
from kdbuild.spec.model import Phase
from kdbuild.spec.names import PHASE, STUDENT, TEACHER
from kdbuild.spec.problems import Problem
from kdbuild.spec.source import no_such
from kdbuild.teachers import Signal

_WHITE_BOX = frozenset(Signal)
"""What a model of this project gives: its weights are here."""


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
        gives = teacher.gives if teacher else _WHITE_BOX
        if operator.needs - gives:
            lacking = signals(operator.needs - gives)
            who = f"`{model}` (kind `{teacher.kind}`)" if teacher else f"`{model}`"
            message = f"operator `{operator.kind}` needs {lacking}, which teacher {who} does not give"
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
def rows_have_what_operators_read(given: Given) -> Iterator[Problem]:
    """What an operator reads is in the seeds, or was written by an operator before it."""
    for at, _, phase in given.phases():
        held = rows_of(given, phase.on)
        for i, operator in enumerate(phase.elicit):
            lacking = [name for name in operator.reads if name not in held and ANY not in held]
            if lacking and held:
                message = f"operator `{operator.kind}` reads `{lacking[0]}`, which nothing before it writes"
                yield Problem((*at, "elicit", i), message, hint=f"the rows have: {', '.join(sorted(held))}")
                return
            held = _after(operator, held)


def rows_of(given: Given, on: str) -> set[str]:
    """Return what the rows that a phase starts from have; empty where that is not known."""
    if on == "seeds":
        return set(given.spec.seeds.writes) if given.spec.seeds else set()
    phase = given.spec.phases.get(on)
    held = rows_of(given, phase.on) if phase and _comes_before(given, phase.on, on) else set()
    for operator in phase.elicit if phase else ():
        held = _after(operator, held)
    return held


def _comes_before(given: Given, one: str, other: str) -> bool:
    return one == "seeds" or (one in given.spec.phases and one in given.before(other))


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


@rule
def operators_have_an_embedder(given: Given) -> Iterator[Problem]:
    """An operator that compares meanings needs `embedder:` in params.yaml."""
    for at, _, phase in given.phases():
        for i, operator in enumerate(phase.elicit):
            if operator.needs_embedder and given.params.embedder is None:
                message = f"operator `{operator.kind}` compares meanings, and params.yaml has no embedder"
                yield Problem((*at, "elicit", i), message, hint="add `embedder:` to params.yaml")
