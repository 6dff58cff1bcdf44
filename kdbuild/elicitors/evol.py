"""The teacher turns a task into a harder, a rarer or a joined one, round by round."""

from __future__ import annotations

import bisect
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.elicitors import Answered, Conversation, Made, Rejected, Scene, _structured
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._replies import refuses, same_words, unwrapped
from kdbuild.elicitors._rows import dropped, meta_with, reworded, text_of, unasked
from kdbuild.elicitors._words import words
from kdbuild.records import Row
from kdbuild.teachers import Answer, Ask

Op = Literal["deepen", "constrain", "concretise", "reason", "complicate", "breadth", "fuse", "tree"]

_COPIED = (
    *("given prompt", "rewritten prompt", "created prompt", "harder request", "harder version", "new request", "joined request"),
    *("first request", "second request", "do not answer"),
)
_LONGEST_NODE = 60


@dataclass
class _Line:
    """A row, what has become of it so far, and every step on the way, and what failed."""

    seed: Row
    now: Row
    steps: list[Row] = field(default_factory=list)
    problems: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class _Turn:
    """What one row is asked in one round."""

    line: _Line
    op: Op
    partner: Row | None
    ask: Ask


class Evol(Asking):
    """Evolve each row's task for some rounds: in depth, in breadth, by joining two tasks, or by adding nodes to its tree.

    An evolution that failed is listed with its reason, and the next round starts from the same task again. What is made are children:
    each a child of the one before, with `meta["op"]` and `meta["round"]`, and without an answer. With `fuse` the operator looks at all
    rows together. A template is named as its op and uses `prompt`, `num_words`, `num_nodes`, `partner` and what else the row has.
    """

    kind: Literal["evol"] = "evol"
    source: ClassVar[str | None] = (
        "Xu et al. 2023, WizardLM (2304.12244), section 3; Luo et al. 2023, WizardCoder (2306.08568); Zhao et al. 2023, Tree-Instruct "
        "(2308.05696), section 3; Guo et al. 2023, Instruction Fusion (2312.15692)"
    )
    block: ClassVar[str | None] = "gen.evol"
    keeps: ClassVar[bool] = False

    max_new_tokens: int = Field(384, ge=1)
    """Longest new task, in the teacher's tokens."""
    ops: list[Op] = Field(default=["deepen", "constrain", "concretise", "reason", "breadth"], min_length=1)
    """What may be done to a task in a round, drawn by the row's id and the round; one named twice is drawn twice as often."""
    rounds: int = Field(1, ge=1, le=16)
    """How often each task is evolved."""
    emit: Literal["all", "last"] = "all"
    """Whether every round's task goes on, or the last one only."""
    keep_original: bool = False
    """Whether the rows themselves go on beside their evolutions."""
    num_words: int = Field(20, ge=1)
    """Most words that an in-depth op is told to add."""
    num_nodes: int = Field(2, ge=1, le=20)
    """Nodes that `tree` adds."""
    min_chars: int = Field(12, ge=1)
    """A shorter task is rejected."""
    max_chars: int = Field(480, ge=1)
    """A longer task is rejected; also where the form of `tree` ends it."""

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.min_chars > self.max_chars:
            raise PydanticCustomError("evol_lengths", "`min_chars` is above `max_chars`: no task could pass")
        return self

    @property
    def prompts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the templates of its ops."""
        return tuple(dict.fromkeys(self.ops))

    @property
    def pooled(self) -> bool:  # type: ignore[override]
        """Whether it joins tasks of several rows."""
        return "fuse" in self.ops

    @property
    def asks_once(self) -> bool:  # type: ignore[override]
        """Whether there is one round."""
        return self.rounds == 1

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        num_made = self.rounds if self.emit == "all" else 1
        return given.each(asks=self.rounds, rows=num_made + self.keep_original)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Evolve one row."""
        made: Made = yield from self._evolve([row], scene)
        if not made.rows and len(made.dropped) == 1:
            return Rejected(made.dropped[0].reason, made.dropped[0].text)
        return made

    def gather(self, rows: Sequence[Row], scene: Scene) -> Conversation:
        """Evolve rows together, so that two can be joined."""
        return (yield from self._evolve(rows, scene))

    def _evolve(self, rows: Sequence[Row], scene: Scene) -> Generator[Sequence[Ask], Sequence[Answered], Made]:
        lines = [_Line(row, row) for row in rows]
        for line in lines:
            line.problems += filter(None, [unasked(line.seed)])
        alive = [line for line in lines if not line.problems]
        ring = _Ring([line.seed for line in alive])
        for number in range(1, self.rounds + 1):
            turns = [turn for line in alive if (turn := self._turn(line, number, ring, scene)) is not None]
            answered = (yield [turn.ask for turn in turns]) if turns else []
            for turn, one in zip(turns, answered, strict=True):
                turn.line.problems += filter(None, [self._step(turn, one, number, scene)])
        made = [row for line in alive for row in self._emitted(line)]
        return Made(made, [one for line in lines for one in dropped(self.kind, line.seed, line.problems)])

    def _emitted(self, line: _Line) -> list[Row]:
        steps = line.steps if self.emit == "all" else line.steps[-1:]
        return [line.seed, *steps] if self.keep_original else steps

    # --- asking --------------------------------------------------------------------------------------------------------------

    def _turn(self, line: _Line, number: int, ring: _Ring, scene: Scene) -> _Turn | None:
        """Return what a row is asked in a round; None, and listed, where it can only be joined and there is none to join it with."""
        ops = self.ops if len(ring) > 1 else [op for op in self.ops if op != "fuse"]
        if not ops:
            line.problems.append(Rejected("no other task to join it with", text_of(line.now.prompt)))
            return None
        seed = line.seed.id
        op = ops[int(canonical.fraction("evol", seed, str(number)) * len(ops))]
        partner = ring.partner(line.seed, number) if op == "fuse" else None
        values: dict[str, Any] = {
            **values_of(line.now),
            "partner": partner.prompt[-1].content if partner else "",
            "num_words": self.num_words,
            "num_nodes": self.num_nodes,
        }
        schema = _structured.schema_of(self._form) if op == "tree" else None
        question = self.render(scene, seed, values, op).strip()
        return _Turn(line, op, partner, self.ask(scene, seed, question, schema=schema))

    @property
    def _form(self) -> type[BaseModel]:
        return _tree(self.num_nodes, self.min_chars, self.max_chars)

    # --- reading -------------------------------------------------------------------------------------------------------------

    def _step(self, turn: _Turn, answered: Answered, number: int, scene: Scene) -> Rejected | None:
        """Move a row on by the task that an answer holds, or return why it holds none."""
        read = self._read(turn, answered.answer)
        if isinstance(read, Rejected):
            return read
        line = turn.line
        parents = [line.now] if turn.partner is None else [line.now, turn.partner]
        meta = meta_with(line.seed, {"op": turn.op, "round": number})
        keys = dict.fromkeys([*(key for parent in parents for key in parent.keys), answered.key])
        about = {name: getattr(line.seed, name) for name in ("context", "tool", "media")}
        line.now = scene.child(parents, messages=reworded(line.now.prompt, read), meta=meta, keys=tuple(keys), **about)
        line.steps.append(line.now)
        return None

    def _read(self, turn: _Turn, answer: Answer) -> str | Rejected:
        if answer.failed is not None:
            return Rejected(f"failed: {answer.failed}")
        if not answer.text.strip():
            return Rejected("empty answer")
        if turn.op == "tree":
            said = _structured.read(self._form, answer)
            text = said if isinstance(said, Rejected) else str(getattr(said, "task", "")).strip()
        else:
            text = unwrapped(answer.text) if answer.ended else Rejected("cut at the token limit", answer.text)
        return text if isinstance(text, Rejected) else self._checked(turn, text)

    def _checked(self, turn: _Turn, text: str) -> str | Rejected:
        """Return a new task, or why it is none (WizardLM, section 3.2, but for the comparison by the teacher)."""
        before = [row.prompt[-1].content for row in (turn.line.now, turn.partner) if row is not None]
        reasons = {
            "refusal": refuses(text),
            "the same as before": any(same_words(text, one) for one in before),
            "copies words of the question": any(word in text.lower() and word not in " ".join(before).lower() for word in _COPIED),
            "too short": len(text) < self.min_chars or not words(text),
            "too long": len(text) > self.max_chars,
        }
        found = next((reason for reason, applies in reasons.items() if applies), None)
        return text if found is None else Rejected(found, text)


class _Ring:
    """Rows in the order of their digests, closed to a ring: a row added or taken away is a partner, or none, of its neighbours' only."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = sorted(rows, key=lambda row: (canonical.fraction("evol-ring", row.id), row.id))
        self._places = [canonical.fraction("evol-ring", row.id) for row in self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def partner(self, row: Row, number: int) -> Row:
        """Return another row, drawn by the row's id and the round."""
        at = bisect.bisect(self._places, canonical.fraction("evol-partner", row.id, str(number))) % len(self._rows)
        found = self._rows[at]
        return self._rows[(at + 1) % len(self._rows)] if found.id == row.id else found


@lru_cache(maxsize=64)
def _tree(num_nodes: int, min_chars: int, max_chars: int) -> type[BaseModel]:
    node = Annotated[str, Field(min_length=1, max_length=_LONGEST_NODE)]
    nodes: Any = (list[node], Field(min_length=num_nodes, max_length=num_nodes))
    return create_model("Tree", nodes=nodes, task=(str, Field(min_length=min_chars, max_length=max_chars)))
