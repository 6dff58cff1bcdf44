"""What a rule is given, and what the rules have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdbuild.compile.cast import Cast
from kdbuild.compile.resolve import has_data
from kdbuild.elicitors import Conversing
from kdbuild.spec.model import Params, Phase, Spec
from kdbuild.spec.problems import At, Problem
from kdbuild.spec.source import no_such
from kdbuild.teachers import Signal, Teacher


@dataclass(frozen=True)
class Given:
    """What a rule looks at."""

    root: Path
    name: str
    spec: Spec
    params: Params
    peers: Mapping[str, Spec]
    """The project's other valid specs, by name."""
    known: frozenset[str]
    """Names of all spec files, valid or not."""

    @property
    def teacher(self) -> Teacher | None:
        """The spec's teacher, if its name is known."""
        return self.params.teachers.get(self.spec.teacher) if self.spec.teacher else None

    def phases(self) -> Iterator[tuple[At, str, Phase]]:
        """Yield (path, name, phase) in order."""
        for name, phase in self.spec.phases.items():
            yield ("phases", name), name, phase

    def before(self, name: str) -> list[str]:
        """Return the phases before one."""
        names = list(self.spec.phases)
        return names[: names.index(name)]


Rule = Callable[[Given], Iterator[Problem]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Add a function to the rules."""
    RULES.append(function)
    return function


SIGNAL_WORDS = {
    Signal.TEXT: "text",
    Signal.CHOICES: "log-probabilities of given answers",
    Signal.LIKELIHOOD: "the likelihood of whole texts",
    Signal.TOP_K: "log-probabilities of the likeliest tokens",
    Signal.LOGITS: "logits",
    Signal.HIDDEN: "hidden states",
    Signal.SCORES: "scores of its labels",
}


def trains(phase: Phase) -> bool:
    """Return whether a phase trains a model."""
    return bool(phase.objectives)


def earlier(
    given: Given, at: At, name: str, other: str, fits: Callable[[Phase], bool], lacks: str, extra: list[str] | None = None
) -> Iterator[Problem]:
    """`other`, named by phase `name`, is an earlier phase that has what is wanted of it."""
    phases = given.spec.phases
    able = [*(extra or []), *(p for p in given.before(name) if fits(phases[p]))]
    hint = f"possible here: {', '.join(able)}" if able else None
    if other == name:
        yield Problem(at, "a phase cannot start from itself", hint=hint)
    elif other not in phases:
        yield Problem(at, no_such("phase", other, [*phases, *(extra or [])]), hint=hint)
    elif other not in given.before(name):
        yield Problem(at, f"phase `{other}` comes after this one", hint=f"move `{other}` up; phases run in the order they are written")
    elif not fits(phases[other]):
        yield Problem(at, f"phase `{other}` {lacks}", hint=hint)


def in_other_spec(given: Given, at: At, spec: str, phase: str, fits: Callable[[Phase], bool], lacks: str) -> Iterator[Problem]:
    """`phase` of another spec is one that has what is wanted of it."""
    if spec not in given.known:
        yield Problem(at, no_such("spec", spec, sorted(given.known)), hint=f"specs/ holds {', '.join(sorted(given.known))}")
    elif spec in given.peers:
        phases = given.peers[spec].phases
        if phase not in phases:
            yield Problem(at, f"spec `{spec}`: {no_such('phase', phase, list(phases))}")
        elif not fits(phases[phase]):
            yield Problem(at, f"phase `{phase}` of spec `{spec}` {lacks}")


def data_set(given: Given, at: At, name: str, named: str) -> Iterator[Problem]:
    """`named`, used by phase `name`, is what an earlier phase, or `<spec>/<phase>` of another spec, selected."""
    spec, slash, other = named.rpartition("/")
    if slash and spec != given.name:
        yield from in_other_spec(given, at, spec, other, has_data, "selects no rows")
    else:
        yield from earlier(given, at, name, other, has_data, "selects no rows")


def signals(found: frozenset[Signal]) -> str:
    """Return signals in words."""
    return " and ".join(SIGNAL_WORDS[signal] for signal in sorted(found))


def who_gives(given: Given, wanted: frozenset[Signal]) -> str | None:
    """Return a hint: which teachers give this."""
    able = [name for name, teacher in given.params.teachers.items() if wanted <= teacher.gives]
    if not able:
        if Signal.SCORES in wanted:
            return "a teacher of kind `classifier` does: a reward model, a cross-encoder, any model with a classification head"
        return "a teacher of kind `transformers` does: it runs the model here"
    return f"params.yaml has a teacher that does: {able[0]}" if len(able) == 1 else f"params.yaml has teachers that do: {', '.join(able)}"


def asking(phase: Phase) -> Iterator[tuple[At, Conversing]]:
    """Yield (path inside the phase, operator or scorer) of whatever may ask a model."""
    yield from ((("elicit", i), operator) for i, operator in enumerate(phase.elicit))
    yield from ((("select", i), step) for i, step in enumerate(phase.select) if isinstance(step, Conversing))


def actors_of(given: Given) -> Iterator[tuple[At, Cast, Conversing, str]]:
    """Yield (path, cast, operator or scorer, word) for every word by which one calls an actor."""
    for at, name, phase in given.phases():
        cast = Cast(given.spec, given.params, name)
        for inside, operator in asking(phase):
            if operator.needs:
                for word in dict.fromkeys([*cast.words(operator.actors), *operator.others]):
                    yield (*at, *inside), cast, operator, word
