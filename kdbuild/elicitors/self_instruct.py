"""The teacher writes new instructions after the example of a pool that grows by what it accepts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.elicitors import Answered, Conversation, Rejected, Scene, _structured
from kdbuild.elicitors._asking import Asking
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._made import Harvest, drawn
from kdbuild.elicitors._novelty import Pool
from kdbuild.elicitors._words import words
from kdbuild.records import Message, Row
from kdbuild.teachers import Ask

BLOCKLIST = (
    "image",
    "images",
    "graph",
    "graphs",
    "picture",
    "pictures",
    "photo",
    "file",
    "files",
    "map",
    "maps",
    "video",
    "audio",
    "flowchart",
)
"""What a model that reads text alone cannot be asked about."""


class _Form(BaseModel):
    """What an answer holds."""

    tasks: list[str]


class SelfInstruct(Asking):
    """Ask for new instructions beside demonstrations drawn from the given rows and from those made so far, round after round.

    A new instruction is kept where its ROUGE-L with every row of the pool is below `max_rouge_l` and no filter objects; the others are
    listed with the reason and, where they are not new, the row they lost to. Answers come from a `label` after it. Which demonstrations
    a question shows is drawn by digest of its round, its place in it and the ids, so that a changed seed asks again only the questions
    it is shown in: of a first round, the share `fan_in / number of seeds` of them, and what comes of these. Its template
    writes the question from `demonstrations` (texts) and `num_new`.
    """

    kind_revision: ClassVar[int] = 2
    kind: Literal["self-instruct"] = "self-instruct"
    source: ClassVar[str | None] = "Wang et al. 2022, Self-Instruct (2212.10560), sections 2.2 and 3; 2402.13116, Eq. 4"
    block: ClassVar[str | None] = "gen.self-instruct"
    pooled: ClassVar[bool] = True
    keeps: ClassVar[bool] = False

    max_rounds: int = Field(4, ge=1)
    """Rounds of questions; with `target_rows`, the most."""
    target_rows: int | None = Field(None, ge=1)
    """New rows wanted: rounds go on until there are as many. The held-out side of the seeds aims at its share of them."""
    asks_per_round: int = Field(16, ge=1)
    """Questions of a round, asked at the same time; shared between the sides of the held-out split like `target_rows`."""
    new_per_ask: int = Field(2, ge=1, le=16)
    """Most new instructions of one answer."""
    num_demonstrations: int = Field(8, ge=1)
    """Instructions that a question shows."""
    seed_frac: float = Field(0.75, gt=0, le=1)
    """Share of the demonstrations that are given rows; the others are made ones, as far as there are any."""
    max_rouge_l: float = Field(0.7, gt=0, le=1)
    """An instruction with this ROUGE-L F-measure or more to one of the pool is not new."""
    min_words: int = Field(4, ge=1)
    """Fewest words of an instruction."""
    max_words: int = Field(150, ge=1)
    """Most words of an instruction."""
    blocklist: list[str] = list(BLOCKLIST)
    """Words that no instruction may hold."""
    max_instruction_chars: int = Field(200, ge=8)
    """Longest instruction that the answer's form admits."""
    max_new_tokens: int = Field(320, ge=1)
    """Longest answer, in the teacher's tokens; raised later, only the answers that were cut are asked again."""
    temperature: float = Field(0.7, ge=0)
    """0 answers with the likeliest token each time; above, tokens are drawn, seeded by row, round and place."""

    top_p: float = Field(0.9, gt=0, le=1)
    """Tokens are drawn from the smallest set with this share of the probability."""

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.min_words > self.max_words:
            raise PydanticCustomError(
                "self_instruct_words", "min_words {least} is more than max_words {most}", {"least": self.min_words, "most": self.max_words}
            )
        return self

    @property
    def fan_in(self) -> int:
        """How many rows one question shows."""
        return self.num_demonstrations

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        # Each side of the held-out split rounds its share of a round, and of the target, up.
        num_asks = self.max_rounds * (self.asks_per_round + 2)
        num_rows = num_asks * self.new_per_ask
        return Extent(num_rows if self.target_rows is None else min(num_rows, self.target_rows + 2), 0, num_asks)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Make instructions after the example of one row."""
        return self.gather([row], scene)

    def gather(self, rows: Sequence[Row], scene: Scene) -> Conversation:
        """Ask round after round; a question that failed costs its own instructions only."""
        growth = _Growth(self, rows, scene)
        for number in range(1, self.max_rounds + 1):
            asked = list(growth.questions(number))
            if not asked:
                break
            answers = yield [question for question, _ in asked]
            for (_, shown), answered in zip(asked, answers, strict=True):
                growth.take(shown, answered)
        return growth.harvest.made()

    def form(self) -> type[BaseModel]:
        """Return the form of an answer."""
        return _form(self.new_per_ask, self.max_instruction_chars)

    def objection(self, text: str) -> str | None:
        """Return why an instruction is not used, whatever the pool, or None."""
        found = words(text)
        if len(found) < self.min_words:
            return "too short"
        if len(found) > self.max_words:
            return "too long"
        if not (text[0].isalnum() or text[0] in "\"'“‘¿¡("):
            return "starts with punctuation"
        if not {word.lower() for word in self.blocklist}.isdisjoint(found):
            return "a word of the blocklist"
        return None


class _Growth:
    """The pool of one side, and what was made of it."""

    def __init__(self, operator: SelfInstruct, rows: Sequence[Row], scene: Scene) -> None:
        self.harvest = Harvest(operator.kind)
        self._operator = operator
        self._scene = scene
        self._pool = Pool(operator.max_rouge_l, map(_instruction, rows))
        self._known: dict[str, Row] = {}
        self._num_asked = 0
        self._target = None if operator.target_rows is None else math.ceil(operator.target_rows * scene.share)
        for row in rows:
            if _instruction(row):
                self._known[row.id] = row
                self._pool.add(row.id, _instruction(row))
            else:
                self.harvest.drop(row.id, "no instruction to show", "")
        self._given = list(self._known)

    @property
    def _made(self) -> list[str]:
        return list(self.harvest.rows)

    def questions(self, number: int) -> Iterator[tuple[Ask, list[Row]]]:
        """Yield the questions of a round, each with the rows it shows."""
        for place in range(self._num_asks() if self._given else 0):
            shown = self._shown(str(number), str(place))
            texts = [_instruction(row) for row in shown]
            values = {"demonstrations": texts, "num_new": self._operator.new_per_ask}
            question = self._operator.render(self._scene, shown[0].id, values)
            sample = canonical.seed_of("self-instruct", number, place) >> 32
            self._num_asked += 1
            schema = _structured.schema_of(self._operator.form())
            yield self._operator.ask(self._scene, shown[0].id, question, sample=sample, schema=schema), shown

    def _num_asks(self) -> int:
        """Return how many questions the next round has: no more than are likely to reach the target."""
        most = max(1, math.ceil(self._operator.asks_per_round * self._scene.share))
        if self._target is None:
            return most
        num_made = len(self.harvest.rows)
        per_ask = num_made / self._num_asked if num_made else 0.0
        wanted = self._target - num_made
        return min(most, math.ceil(wanted / per_ask)) if per_ask else most if wanted > 0 else 0

    def _shown(self, *key: str) -> list[Row]:
        num = self._operator.num_demonstrations
        num_made = min(len(self.harvest.rows), num - math.ceil(num * self._operator.seed_frac))
        names = [*drawn(self._given, num - num_made, "given", *key), *drawn(self._made, num_made, "made", *key)]
        return [self._known[name] for name in drawn(names, len(names), "order", *key)]

    def take(self, shown: list[Row], answered: Answered) -> None:
        """Keep what an answer adds to the pool."""
        failed = answered.answer.failed
        read = Rejected(f"failed: {failed}") if failed is not None else _structured.read(self._operator.form(), answered.answer)
        if isinstance(read, Rejected):
            self.harvest.refuse(shown[0].id, answered, read)
            return
        for text in getattr(read, "tasks", ()):
            self._consider(_cleaned(text), shown, answered)

    def _consider(self, text: str, shown: list[Row], answered: Answered) -> None:
        row = self._scene.child(shown, messages=(Message("user", text),), keys=(answered.key,))
        objection = self._operator.objection(text)
        near = None if objection else self._pool.nearest(text)
        if objection:
            self.harvest.drop(row.id, objection, text)
        elif near is not None:
            self.harvest.drop(row.id, "not new", text, because_of=near[0], score=round(near[1], 6))
        elif self._target is not None and len(self.harvest.rows) >= self._target:
            self.harvest.drop(row.id, "more than `target_rows`", text)
        else:
            self.harvest.add(row)
            self._known[row.id] = row
            self._pool.add(row.id, text)


@lru_cache(maxsize=32)
def _form(num_tasks: int, max_chars: int) -> type[BaseModel]:
    task = Annotated[str, Field(min_length=1, max_length=max_chars)]
    return create_model("_Tasks", tasks=(Annotated[list[task], Field(min_length=1, max_length=num_tasks)], ...), __base__=_Form)


def _instruction(row: Row) -> str:
    """Return the last turn of the user, on one line."""
    return next((" ".join(m.content.split()) for m in reversed(row.prompt) if m.role == "user"), "")


def _cleaned(text: str) -> str:
    """Return an instruction without the number or dash that a list puts before it."""
    return re.sub(r"^\s*(?:\d{1,3}[.):]|[-*•])\s+", "", " ".join(text.split()))
