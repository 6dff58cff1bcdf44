"""What the operators have in common that let actors read an answer: the answer stays as it is, and what they say of its tokens is kept."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

from kdbuild.elicitors import Conversation, Elicitor, Rejected, Scene
from kdbuild.elicitors._extent import Extent
from kdbuild.records import Row
from kdbuild.teachers import Ask, Reading, Signal


class ReadsAnswers(Elicitor):
    """Base of operators that read: each actor is shown the row once. The row goes on unchanged but for the keys of what was said."""

    asks_once: ClassVar[bool] = True
    makes_features: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("answer",)
    combines: ClassVar[bool] = True

    combine: None = None
    """Nothing: there are no answers of several actors to combine."""

    @property
    @abstractmethod
    def reading(self) -> Reading:
        """What is asked for."""

    @property
    def fusion(self) -> str | None:
        """How the signals of several actors become one when a student is trained; None where there is one actor."""
        return None

    @property
    def needs(self) -> frozenset[Signal]:
        """The signal that the reading is."""
        return frozenset({Ask("", (), reading=self.reading).needs})

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=len(self.actors))

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask each actor once; a row with nothing to read is rejected."""
        if not row.answer:
            return Rejected("no answer to read", "\n\n".join(message.content for message in row.prompt))
        actors = self.actors if len(self.actors) > 1 else (scene.actor,)
        answered = yield [Ask(row.id, row.messages, to=actor, reading=self.reading) for actor in actors]
        if not all(one.answer.payload for one in answered):
            return Rejected("no signals in the answer", row.answer)
        return [replace(row, keys=(*row.keys, *(one.key for one in answered)))]
