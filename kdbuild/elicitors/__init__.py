"""Elicitors: how a teacher is asked, and what is made of its answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from kdbuild import canonical, records
from kdbuild.elicitors._extent import Extent
from kdbuild.kinds import Kind
from kdbuild.records import Dropped, Row, root_of
from kdbuild.teachers import Answer, Ask, Signal

ANY = "*"
"""Among what a step writes: whatever the data holds."""


@dataclass(frozen=True)
class Answered:
    """An answer handed back to an elicitor, with the key it is stored under."""

    answer: Answer
    key: str


@dataclass(frozen=True)
class Rejected:
    """What an elicitor returns for a row that its teacher's answer cannot be used for."""

    reason: str
    """The same words for the same cause: reasons are counted. Never a number or a text of the row."""
    text: str = ""
    """What was rejected, for people."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file or a text that a spec names, found by reading it; nothing of it is run."""

    at: tuple[str | int, ...]
    """The field that names it."""
    message: str
    hint: str | None = None
    own_place: bool = False
    """Whether the message starts with its own `file:line`."""


@dataclass(frozen=True)
class Made:
    """What a conversation about several answers makes: rows, and what could not be used."""

    rows: list[Row]
    dropped: list[Dropped] = field(default_factory=list)


Result = list[Row] | Rejected | Made
Conversation = Generator[Sequence[Ask], Sequence[Answered], Result]
"""What `elicit` returns: it yields questions, is sent their answers in the same order, and returns the rows they make."""


@dataclass(frozen=True)
class Scene:
    """What an elicitor may know besides its rows."""

    root: Path
    """The project's folder."""
    actor: str = "teacher"
    """Who is asked."""
    gives: Mapping[str, frozenset[Signal]] = field(default_factory=dict)
    """What each actor of the stage gives."""
    few_seeds: bool = False
    """Whether there are too few seeds to be split into training and held-out rows: then rows made of seeds are split by themselves."""
    share: float = 1.0
    """Share of what is wanted in all that a pool, one side of the held-out split, aims at: `held_out_frac` or the rest."""
    embedder: Any = None
    """Turns texts into vectors (`embedder.embed(texts)`: float32, one unit row a text), for kinds that say `needs_embedder`."""
    pools: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Rows that others kept, by the name that a kind calls them (`pools`)."""
    max_memory_gb: float = 8.0
    """What a kind that compares many rows may take, about."""
    facts: dict[str, float] = field(default_factory=dict)
    """What a selector says of its work besides the verdicts (a recall): functions of the rows alone. It stands in select.json."""

    def child(self, parents: Sequence[Row], **fields: Any) -> Row:
        """Return a new row made of `parents` (at least one): its id is the digest of its content and its parents' ids.

        `fields` are those of `Row`; what is not given is empty, not the parent's. It is held out if any seed it descends from is.
        """
        alone = self.few_seeds and any(_is_seed(parent) for parent in parents)
        roots = set() if alone else {root for parent in parents for root in root_of(parent)}
        row = Row(id="", parents=tuple(parent.id for parent in parents), roots=tuple(sorted(roots)), **fields)
        content = records.as_json(replace(row, roots=(), keys=()))
        return replace(row, id=canonical.digest(["kdbuild-child/1", content])[:16])


def _is_seed(row: Row) -> bool:
    return not row.parents and not row.roots


Told = TypeVar("Told")
Name = TypeVar("Name")


def side_by_side(
    talks: Mapping[Name, Generator[Sequence[Ask], Sequence[Answered], Told]],
) -> Generator[Sequence[Ask], Sequence[Answered], dict[Name, Told]]:
    """Run conversations in lockstep, so that what they ask at the same time goes out together; return what each comes to."""
    told: dict[Name, Told] = {}
    asked: dict[Name, list[Ask]] = {}
    try:
        for name, talk in talks.items():
            _step(name, talk, None, asked, told)
        while asked:
            answers = list((yield [ask for asks in asked.values() for ask in asks]))
            for name, asks in list(asked.items()):
                own, answers = answers[: len(asks)], answers[len(asks) :]
                _step(name, talks[name], own, asked, told)
    finally:
        for talk in talks.values():
            talk.close()
    return {name: told[name] for name in talks}


def _step(
    name: Name,
    talk: Generator[Sequence[Ask], Sequence[Answered], Told],
    answers: list[Answered] | None,
    asked: dict[Name, list[Ask]],
    told: dict[Name, Told],
) -> None:
    try:
        asked[name] = list(next(talk) if answers is None else talk.send(answers))
    except StopIteration as end:
        told[name] = end.value
        asked.pop(name, None)


class Conversing(Kind):
    """Base of what may ask a model about rows: operators, and scorers.

    It is pure: `elicit` is a generator that yields questions and is sent their answers. The stage runs many of them at once and
    keeps the engine full; the planner runs the same generator against the stored answers and counts what is missing.

    It either works row by row (`elicit`) or, with `pooled`, on all rows together (`gather`).
    """

    asks_once: ClassVar[bool] = False
    """Whether it yields questions only once a row, so that a forecast of its calls is exact before any answer is there."""
    pooled: ClassVar[bool] = False
    """Whether its questions are made of several rows: then `gather` is called, once for the training and once for the held-out rows."""
    makes_features: ClassVar[bool] = False
    """Whether its answers are signals (`Answer.payload`): the stage then has a `features/` output."""
    rejects_fail: ClassVar[bool] = False
    """Whether a row that it rejects has failed, as one has that got no answer."""
    needs_embedder: ClassVar[bool] = False
    """Whether it compares meanings (`scene.embedder`)."""
    combines: ClassVar[bool] = False
    """Whether it deals with several actors itself: they answer in one conversation and make one row, instead of a conversation each."""
    default_actor: ClassVar[str] = "teacher"
    """Who is asked where the spec does not say."""
    reads: ClassVar[tuple[str, ...]] = ("prompt",)
    """What it needs a row to have: `prompt`, `answer` or a field of `Row`; `meta.value` is a field of its meta, `answer|gold` either."""

    by: str | list[str] | None = None
    """Who is asked: `teacher`, `student` (as the phase before left it), a role of the spec, or a list of these."""

    @property
    def actors(self) -> tuple[str, ...]:
        """Who answers its own questions: one, or several that are combined."""
        given = self.by or self.default_actor
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def others(self) -> tuple[str, ...]:
        """Further actors that it asks by name (`Ask.to`), as in a dialogue of two models."""
        return ()

    @property
    def needs(self) -> frozenset[Signal]:
        """What it cannot do without of those it asks; empty for an operator that asks nobody."""
        return frozenset({Signal.TEXT})

    @property
    def pools(self) -> tuple[str, ...]:
        """Data sets that earlier phases selected, `<phase>` or `<spec>/<phase>`, which it compares with (`scene.pools`)."""
        return ()

    def most(self, given: Extent) -> Extent:
        """Return the most questions that one actor is asked about rows of this extent, in all, and the most rows that come of them.

        It holds whatever the rows hold and the answers say: what depends on them has no bound. A forecast says "up to" by it.
        """
        return Extent()

    def files(self) -> tuple[str, ...]:
        """Return the project's files it reads (templates): dependencies of the stage."""
        return ()

    def faults(self, root: Path) -> Iterator[Fault]:
        """Yield what is wrong with the project's files and the texts it uses; a file that is not there is not told here."""
        yield from ()

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged templates it uses; their digests are part of the stage's key."""
        return ()

    @abstractmethod
    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask about one row."""

    def gather(self, rows: Sequence[Row], scene: Scene) -> Conversation:
        """Ask about all rows together, for a `pooled` operator; `rows` are sorted by id, and all of one side of the held-out split.

        An answer that failed is handed over as it is (`answer.failed`), since one failure must not cost the others.
        Draw by digest (`canonical.fraction(row.id, ...)`), never from a running generator: a changed row then changes only the
        questions that show it.
        """
        raise NotImplementedError(f"`{self.kind}` works row by row")


class Elicitor(Conversing):
    """Base of every way to ask: an operator, which makes rows of the rows it is given."""

    family: ClassVar[str] = "elicitors"
    writes: ClassVar[tuple[str, ...]] = ()
    """What the rows it makes have besides a prompt: `answer` or fields of `Row`."""
    keeps: ClassVar[bool] = True
    """Whether the rows it makes still have what the rows it was given had."""

    combine: Literal["union", "route", "consensus"] | None = None
    """What several actors are: `union` (a row of each; the default), `route` (each row goes to one of them, by the digest of its id), or
    `consensus` (of the answers to one row, the one most like the others)."""
