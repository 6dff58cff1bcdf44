"""The teacher answers under a system message drawn for each row."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Answered, Conversation, Rejected, Scene, _bank
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._replies import unusable
from kdbuild.elicitors._rows import reworded, text_of, unasked, with_system
from kdbuild.records import Row
from kdbuild.teachers import Ask

_HERE = Path(__file__).parent / "_system"


class System(Asking):
    """Label under a system message: a way of explaining, a strategy, principles, or the expert who knows the answer best.

    The row keeps the message as its system turn (a phase's `erase: [system]` takes it out of what the student sees), and `meta["system"]`
    says which it was where the messages have names.
    """

    kind: Literal["system"] = "system"
    source: ClassVar[str | None] = (
        "Mukherjee et al. 2023, Orca (2306.02707), section 3.1; Mitra et al. 2023, Orca 2 (2311.11045), section 4: strategies; "
        "Sun et al. 2023 (2305.03047): principles; Xu et al. 2023, ExpertPrompting (2305.14688), section 3"
    )
    block: ClassVar[str | None] = "gen.system"
    prompts: ClassVar[tuple[str, ...]] = ("prompt", "expert")
    writes: ClassVar[tuple[str, ...]] = ("answer",)

    messages: list[str] | dict[str, str] = Field(default_factory=list)
    """The system messages to draw from: a list, or a message a name."""
    bank: str | None = None
    """A file with the messages instead (YAML: a list, or a message a name; else one a line), or a bank that comes with kdbuild: `explain`,
    `strategies`, `principles`. Absent, with neither `messages` nor `expert`: `explain`."""
    num_messages: int = Field(1, ge=1)
    """How many are drawn for a row and put together; where there are no more, all."""
    by_meta: str | None = None
    """Field of the row's meta that names the message, instead of a draw."""
    expert: bool = False
    """Whether the teacher is first asked who could answer best, and then answers as that expert."""
    keep_system: bool = True
    """Whether the row keeps the message as its system turn."""

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `prompt`, and what names the message."""
        return ("prompt", *([f"meta.{self.by_meta}"] if self.by_meta is not None else []))

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.messages and self.bank is not None:
            raise PydanticCustomError("system_two_banks", "`messages` and `bank` are two sources of system messages: keep one")
        named = bool(self.messages) and isinstance(self.messages, dict)
        if self.by_meta is not None and not named and self.bank is None:
            raise PydanticCustomError("system_names", "`by_meta` needs messages with names: `messages` as a text a name, or a bank")
        return self

    @property
    def _shipped(self) -> Path | None:
        name = self.bank or (None if self.messages or self.expert else "explain")
        return _HERE / f"{name}.yaml" if name in ("explain", "strategies", "principles") else None

    @property
    def asks_once(self) -> bool:  # type: ignore[override]
        """Whether no expert is asked for first."""
        return not self.expert

    def files(self) -> tuple[str, ...]:
        """Return the project's templates and bank."""
        own = self.bank is not None and self._shipped is None
        return (*super().files(), *((self.bank,) if own and self.bank else ()))

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged templates and bank."""
        return (*super().templates(), *((self._shipped,) if self._shipped else ()))

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=2 if self.expert else 1)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask the row's question under its message; with `expert` ask for the expert first."""
        problem = unasked(row)
        if problem is not None:
            return problem
        bank = self._bank(scene)
        names = self._drawn(row, bank)
        if isinstance(names, Rejected):
            return names
        system, keys = "\n".join(bank[name] for name in names), []
        if self.expert:
            described = yield from self._expert(row, scene)
            if isinstance(described, Rejected):
                return described
            system, keys = "\n\n".join(filter(None, [system, described[0]])), [described[1]]
        prompt = with_system(row.prompt, system)
        question = self.render(scene, row.id, values_of(row))
        (answered,) = yield [self.ask(scene, row.id, reworded(prompt, question))]
        if not answered.answer.text.strip():
            return Rejected("empty answer", text_of(prompt))
        labels = [name for name in names if bank[name] != name]
        meta = {**row.meta, "system": ", ".join(labels)} if labels else row.meta
        made = replace(row, messages=prompt if self.keep_system else row.prompt, meta=meta)
        return [made.with_answer(answered.answer.text, ended=answered.answer.ended, keys=[*keys, answered.key])]

    def _bank(self, scene: Scene) -> dict[str, str]:
        if self._shipped is not None:
            return _bank.shipped(self._shipped)
        return _bank.of_list(self.messages) if self.bank is None else _bank.of_project(scene.root, self.bank)

    def _drawn(self, row: Row, bank: dict[str, str]) -> list[str] | Rejected:
        if self.by_meta is None:
            return _bank.drawn(bank, self.num_messages, "system", row.id)
        name = row.meta.get(self.by_meta)
        return [name] if name in bank else Rejected("no system message of the name that its meta gives", text_of(row.prompt))

    def _expert(self, row: Row, scene: Scene) -> Generator[Sequence[Ask], Sequence[Answered], tuple[str, str] | Rejected]:
        """Return the description of the expert, and the key of the answer that gave it."""
        (answered,) = yield [self.ask(scene, row.id, self.render(scene, row.id, values_of(row), "expert").strip())]
        problem = unusable(answered.answer)
        if problem is not None:
            return Rejected(f"expert: {problem.reason}", problem.text)
        return answered.answer.text.strip(), answered.key
