"""What one part of a spec needs of another: one function a rule, each yields what is wrong with its path in the spec.

Reads no weights and imports nothing heavy. A spec that passes compiles to stages that can run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import kdbuild.compile.elicitation
import kdbuild.compile.selection  # noqa: F401
from kdbuild.compile import surroundings
from kdbuild.compile.resolve import has_data
from kdbuild.compile.rules import RULES, Given, actors_of, data_set, earlier, in_other_spec, rule, signals, trains, who_gives
from kdbuild.errors import SpecError, StageError
from kdbuild.kinds import Kind
from kdbuild.spec.model import Params, Spec
from kdbuild.spec.names import PHASE, STUDENT, TEACHER
from kdbuild.spec.problems import At, Problem
from kdbuild.spec.source import explain, no_such
from kdbuild.spec.sources import parse_source
from kdbuild.teachers import Signal, Teacher

NO_DISTILLATION = frozenset({"llama2", "llama3"})
"""Licences (as the hub names them) that forbid using answers to improve other language models."""


def find(root: Path, name: str, spec: Spec, params: Params, peers: Mapping[str, Spec]) -> list[Problem]:
    """Return everything that is wrong with a spec that reads well by itself; warnings too."""
    known = frozenset(path.stem for path in (root / "specs").glob("*.yaml")) | set(peers)
    given = Given(root, name, spec, params, {**peers, name: spec}, known)
    return [problem for check in RULES for problem in check(given)]


def check_spec(root: Path, name: str, spec: Spec, params: Params, peers: Mapping[str, Spec]) -> list[str]:
    """Return warnings about a spec, ready to print.

    Raises:
        SpecError: the spec cannot be built; all errors, with file:line.
    """
    found = find(root, name, spec, params, peers)
    errors = [problem for problem in found if problem.is_error]
    if errors:
        raise SpecError("\n\n".join(explain(errors, root, name)))
    return explain(found, root, name)


def check_seed_rows(root: Path, name: str, spec: Spec) -> list[str]:
    """Read the seeds, where they are JSONL files of the project and not large; return warnings, ready to print.

    Raises:
        SpecError: a row is not what it should be.
    """
    found = list(surroundings.seed_rows(root, spec))
    errors = [problem for problem in found if problem.is_error]
    if errors:
        raise SpecError("\n\n".join(explain(errors, root, name)))
    return explain(found, root, name)


# --- names -----------------------------------------------------------------------------------------------------------


@rule
def teacher_is_known(given: Given) -> Iterator[Problem]:
    """Every teacher named is in params.yaml."""
    names = list(given.params.teachers)
    named: list[tuple[At, str | None]] = [(("teacher",), given.spec.teacher)]
    named += [((*at, "teacher"), objective.teacher) for at, objective in _objectives(given)]
    for role, words in given.spec.roles.items():
        several = isinstance(words, list)
        for i, word in enumerate(words if isinstance(words, list) else [words]):
            if not word.startswith(PHASE) and word not in (TEACHER, STUDENT):
                named.append((("roles", role, i) if several else ("roles", role), word))
    for at, name in named:
        if name is not None and name not in names:
            hint = f"params.yaml has {', '.join(names)}" if names else "add it to params.yaml, under `teachers:`"
            yield Problem(at, no_such("teacher", name, names), hint=hint)


@rule
def names_are_apart(given: Given) -> Iterator[Problem]:
    """Teachers, roles and phases share one namespace."""
    for at, name, _ in given.phases():
        if name in given.params.teachers:
            yield Problem(at, f"`{name}` is also the name of a teacher in params.yaml", hint="rename the phase or the teacher")
        if name in given.spec.roles:
            yield Problem(at, f"`{name}` is also the name of a role", hint="rename the phase or the role")
    for name in given.spec.roles:
        if name in given.params.teachers:
            yield Problem(("roles", name), f"`{name}` is also the name of a teacher in params.yaml", hint="rename the role or the teacher")


@rule
def there_are_phases(given: Given) -> Iterator[Problem]:
    """A spec builds something."""
    if not given.spec.phases:
        yield Problem(("phases",), "there is no phase, so nothing would be built")


# --- what a phase reads ----------------------------------------------------------------------------------------------


@rule
def phase_does_something(given: Given) -> Iterator[Problem]:
    """A phase elicits, selects or trains; what it says for a step it does not take has no effect."""
    for at, _, phase in given.phases():
        if not (phase.elicit or phase.select or phase.objectives):
            yield Problem(at, "the phase does nothing", hint="give it `elicit`, `select` or `objective`")
            continue
        idle = {"train", "data", "adaptation", "from"} if not phase.objectives else set()
        idle |= {"on"} if not has_data(phase) else set()
        why = {"on": "the phase neither elicits nor selects"}
        for field in type(phase).model_fields:
            key = field.removesuffix("_")
            if key in idle and field in phase.model_fields_set:
                yield Problem((*at, key), f"has no effect: {why.get(key, 'the phase has no `objective`')}", severity="warning")


@rule
def starts_from_something(given: Given) -> Iterator[Problem]:
    """The first rows come from seeds."""
    for at, _, phase in given.phases():
        if has_data(phase) and phase.on == "seeds" and given.spec.seeds is None:
            step = "elicit" if phase.elicit else "select"
            yield Problem((*at, step), "the spec has no seeds to start from", hint="add `seeds:`, or `on: <phase>` to go on from a phase")


@rule
def on_is_an_earlier_phase(given: Given) -> Iterator[Problem]:
    """`on:` names `seeds` or what an earlier phase selected."""
    for at, name, phase in given.phases():
        if phase.on != "seeds":
            yield from earlier(given, (*at, "on"), name, phase.on, has_data, "selects no rows", extra=["seeds"])


@rule
def data_is_there(given: Given) -> Iterator[Problem]:
    """What a phase trains on was selected by it, by an earlier phase, or by a phase of another spec."""
    for at, name, phase in given.phases():
        if not phase.objectives:
            continue
        if phase.data is None:
            if not any(has_data(given.spec.phases[p]) for p in [*given.before(name), name]):
                yield Problem(at, "there is nothing to train on: neither it nor a phase before it elicits or selects", hint="add `data:`")
            continue
        if not phase.data:
            yield Problem((*at, "data"), "the list is empty: there is nothing to train on")
        for i, source in enumerate(phase.data):
            below = (*at, "data", i, "from")
            if source.from_ == name and not has_data(phase):
                yield Problem(below, "the phase selects no rows of its own", hint="give it `elicit` or `select`, or name another phase")
            elif source.from_ != name:
                yield from data_set(given, below, name, source.from_)


@rule
def start_is_an_earlier_model(given: Given) -> Iterator[Problem]:
    """`from:` names `init` or an earlier phase that trains."""
    for at, name, phase in given.phases():
        if phase.from_ not in (None, "init"):
            yield from earlier(given, (*at, "from"), name, str(phase.from_), trains, "trains no model", extra=["init"])


@rule
def phase_sources_are_models_of_other_specs(given: Given) -> Iterator[Problem]:
    """A model named `phase:spec/phase` is one that a phase of another spec trains."""
    named: list[tuple[At, str]] = [(("student",), source) for source in (given.spec.student.sources() if given.spec.student else ())]
    named += [(("teacher",), source) for source in (given.teacher.sources() if given.teacher else ())]
    for at, source in named:
        try:
            parsed = parse_source(source)
        except ValueError:
            continue  # another rule says so
        if parsed.scheme != "phase":
            continue
        spec, _, phase = parsed.name.partition("/")
        if spec == given.name:
            yield Problem(at, f"`{source}` is a model of this very spec", hint="inside one spec a phase goes on by `from:`")
        else:
            yield from in_other_spec(given, at, spec, phase, trains, "trains no model")


# --- what kinds need of each other -----------------------------------------------------------------------------------


@rule
def student_and_objectives_come_together(given: Given) -> Iterator[Problem]:
    """An objective trains a student; a student is trained by an objective."""
    trained = list(_objectives(given))
    if given.spec.student is None and trained:
        yield Problem(
            trained[0][0], "there is no student to train", hint="add `student:`, or remove the objective if the data is the product"
        )
    if given.spec.student is not None and not trained:
        yield Problem(("student",), "no phase trains the student", hint="give a phase an `objective`")


@rule
def teacher_gives_what_objectives_need(given: Given) -> Iterator[Problem]:
    """The objective's teacher has the signal that the objective matches."""
    for at, objective in _objectives(given):
        named = objective.teacher or given.spec.teacher
        teacher = given.params.teachers.get(named or "")
        if objective.signal == "stored":
            continue  # another rule looks for the phase that stores it
        if objective.needs and named is None:
            yield Problem(at, f"objective `{objective.kind}` matches a teacher's {signals(objective.needs)}, and the spec names no teacher")
        elif teacher is not None and objective.needs - teacher.gives:
            lacking = signals(objective.needs - teacher.gives)
            message = f"objective `{objective.kind}` needs {lacking}, which teacher `{named}` (kind `{teacher.kind}`) does not give"
            yield Problem(at, message, hint=who_gives(given, objective.needs))


@rule
def teacher_has_a_network(given: Given) -> Iterator[Problem]:
    """A student that starts from the teacher needs one with a network of its own."""
    student = given.spec.student
    if student is None or not student.starts_from_teacher():
        return
    at = ("student", "init") if "init" in student.model_fields_set else ("student",)
    if given.spec.teacher is None:
        yield Problem(at, "the student starts from the teacher, and the spec names none", hint="add `teacher: <a name in params.yaml>`")
    elif given.teacher is not None and type(given.teacher).load is Teacher.load:
        message = f"teacher `{given.spec.teacher}` (kind `{given.teacher.kind}`) has no network to start from"
        yield Problem(at, message, hint=who_gives(given, frozenset({Signal.LOGITS})))


@rule
def evaluators_have_what_they_compare(given: Given) -> Iterator[Problem]:
    """Evaluators score trained students on held-out rows, some of them against the teacher."""
    spec = given.spec
    if not spec.evaluate:
        return
    if spec.student is None:
        yield Problem(("evaluate",), "there is no student to evaluate", hint="add `student:`, or remove `evaluate`")
    if spec.held_out_frac == 0:
        yield Problem(("evaluate",), "`held_out_frac` is 0, so there are no rows to evaluate on")
    for i, evaluator in enumerate(spec.evaluate):
        lacking = evaluator.needs - (given.teacher.gives if given.teacher else frozenset())
        if evaluator.needs and spec.teacher is None:
            yield Problem(("evaluate", i), f"evaluator `{evaluator.kind}` compares with the teacher, and the spec names none")
        elif given.teacher is not None and lacking:
            who = f"teacher `{spec.teacher}` (kind `{given.teacher.kind}`)"
            message = f"evaluator `{evaluator.kind}` needs {signals(lacking)}, which {who} does not give"
            yield Problem(("evaluate", i), message, hint=who_gives(given, evaluator.needs))


def _objectives(given: Given) -> Iterator[tuple[At, Any]]:
    """Yield (path, objective) of every phase."""
    for at, _, phase in given.phases():
        several = isinstance(phase.objective, list)
        for i, objective in enumerate(phase.objectives):
            yield ((*at, "objective", i) if several else (*at, "objective")), objective


# --- the world around the spec ---------------------------------------------------------------------------------------


@rule
def files_are_inside(given: Given) -> Iterator[Problem]:
    """Every file a kind reads is there and inside the project, and DVC can name it."""
    return surroundings.files(given.root, _kinds(given))


@rule
def packages_are_installed(given: Given) -> Iterator[Problem]:
    """Every kind's packages are installed."""
    return surroundings.packages(_kinds(given))


@rule
def teachers_can_be_asked_here(given: Given) -> Iterator[Problem]:
    """This machine has what the teachers need, such as a key; a warning, since the build may run elsewhere."""
    for at, kind, file in _kinds(given):
        try:
            if isinstance(kind, Teacher):
                kind.require_here()
        except StageError as error:
            yield Problem(at, error.message, hint=error.hint, severity="warning", file=file)


@rule
def licence_allows_it(given: Given) -> Iterator[Problem]:
    """The teacher's licence does not forbid what is done here."""
    teacher = given.teacher
    if teacher and given.spec.student and (teacher.licence or "").lower() in NO_DISTILLATION:
        message = f"licence `{teacher.licence}` forbids training other models on this teacher's answers"
        yield Problem(("teachers", given.spec.teacher or "", "licence"), message, severity="warning", file="params")


def _kinds(given: Given) -> Iterator[tuple[At, Kind, Literal["spec", "params"]]]:
    """Yield (path, kind, file) for every kind that the spec uses."""
    spec = given.spec
    acting = [cast.model_of(word) for _, cast, _, word in actors_of(given)]
    for name in dict.fromkeys([spec.teacher, *(objective.teacher for _, objective in _objectives(given)), *acting]):
        if name in given.params.teachers:
            yield ("teachers", name), given.params.teachers[name], "params"
    for key, one in (("student", spec.student), ("seeds", spec.seeds)):
        if one is not None:
            yield (key,), one, "spec"
    for at, _, phase in given.phases():
        for step in ("elicit", "select"):
            yield from (((*at, step, i), kind, "spec") for i, kind in enumerate(getattr(phase, step)))
        if phase.adaptation:
            yield (*at, "adaptation"), phase.adaptation, "spec"
        if given.params.embedder and any(selector.needs_embedder for selector in phase.select):
            yield ("embedder",), given.params.embedder, "params"
    yield from ((at, objective, "spec") for at, objective in _objectives(given))
    yield from ((("evaluate", i), kind, "spec") for i, kind in enumerate(spec.evaluate))
