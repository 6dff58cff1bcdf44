"""What scorers and selectors need of each other, of the rows, and of the rest of the spec."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from kdbuild.compile.resolve import has_data
from kdbuild.compile.rules import Given, data_set, rule
from kdbuild.elicitors import ANY
from kdbuild.kinds import singular
from kdbuild.scorers import Scorer
from kdbuild.spec.model import Phase
from kdbuild.spec.problems import Problem
from kdbuild.spec.source import no_such

_OF_CANDIDATES = frozenset({"score", "logprob"})
"""What an operator, or a data set, may have given a candidate."""


@rule
def meanings_have_an_embedder(given: Given) -> Iterator[Problem]:
    """An operator, scorer or selector that compares meanings needs `embedder:` in params.yaml."""
    if given.params.embedder is not None:
        return
    for at, _, phase in given.phases():
        steps = [*((("elicit", i), step) for i, step in enumerate(phase.elicit)), *((("select", i), s) for i, s in enumerate(phase.select))]
        for inside, step in steps:
            if step.needs_embedder:
                what = "operator" if step.family == "elicitors" else singular(step.family)
                message = f"{what} `{step.kind}` compares meanings, and params.yaml has no embedder"
                yield Problem((*at, *inside), message, hint="add `embedder:` to params.yaml")


@rule
def compared_data_sets_are_there(given: Given) -> Iterator[Problem]:
    """Rows are compared with what an earlier phase selected, or a phase of another spec."""
    for at, name, phase in given.phases():
        for i, step in enumerate(phase.select):
            for pool in step.pools:
                yield from data_set(given, (*at, "select", i), name, pool)


@rule
def scores_have_names_of_their_own(given: Given) -> Iterator[Problem]:
    """Two scorers of a phase do not write the same score."""
    for at, _, phase in given.phases():
        seen: set[str] = set()
        for i, step in enumerate(phase.select):
            if isinstance(step, Scorer):
                taken = sorted(seen & set(step.names))
                if taken:
                    yield Problem((*at, "select", i), f"score `{taken[0]}` is written twice", hint="give this one a `name:`")
                seen.update(step.names)


@rule
def selectors_have_their_scores(given: Given) -> Iterator[Problem]:
    """A score that a selector or a scorer reads is written by a scorer before it, or comes with the rows."""
    for at, _, phase in given.phases():
        known, is_open = _scores_of(given, phase)
        for i, step in enumerate(phase.select):
            read = step.reads_scores if isinstance(step, Scorer) else step.reads
            for name in read if not is_open else ():
                if not any(fnmatchcase(one, name) for one in known):
                    yield Problem((*at, "select", i), no_such("score", name, sorted(known)), hint=_hint(given, phase, name, known))
            known.update(step.names if isinstance(step, Scorer) else ())


def _hint(given: Given, phase: Phase, name: str, known: set[str]) -> str:
    earlier = given.spec.phases.get(phase.on)
    for step in earlier.select if earlier else ():
        if isinstance(step, Scorer) and any(fnmatchcase(one, name) for one in step.names):
            return f"phase `{phase.on}` does not hand it on: say `carry: true` at its scorer `{step.kind}`"
    return f"scores before it: {', '.join(sorted(known))}" if known else "put a scorer before it"


def _scores_of(given: Given, phase: Phase) -> tuple[set[str], bool]:
    """Return the scores that the rows of a phase come with, and whether they may have others, too."""
    known: set[str] = set()
    if phase.on == "seeds":
        is_open = bool(given.spec.seeds and "scores" in given.spec.seeds.writes)
        known |= _OF_CANDIDATES if given.spec.seeds and {"candidates", ANY} & set(given.spec.seeds.writes) else set()
    else:
        before = given.spec.phases.get(phase.on)
        names = list(given.spec.phases)
        if before is None or not has_data(before) or before.on in names[names.index(phase.on) :]:
            return known, True  # another rule says what is wrong with that
        known, is_open = _scores_of(given, before)
        known |= {name for step in before.select if isinstance(step, Scorer) and step.carry for name in step.names}
    known |= _OF_CANDIDATES if any("candidates" in operator.writes for operator in phase.elicit) else set()
    return known, is_open or any("scores" in operator.writes or operator.combine == "consensus" for operator in phase.elicit)
