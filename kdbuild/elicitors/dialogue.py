"""Two roles talk, turn by turn."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Answered, Conversation, Rejected, Scene
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._replies import refuses, same_words
from kdbuild.elicitors._rows import meta_with, text_of, with_system
from kdbuild.kinds import Model
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Ask

_ROLES = Path(__file__).parent / "_dialogue" / "roles.yaml"
Mode = Literal["self-chat", "role-play", "debate", "interview"]


class Role(Model):
    """One of the two who talk."""

    name: str = Field(min_length=1)
    """What the others call it."""
    says: str = Field(min_length=1)
    """Who it is and what it does; may use `{topic}`."""
    by: str | None = None
    """Who speaks for it; absent: whoever the operator asks."""


@dataclass(frozen=True)
class _Said:
    """One turn of the talk."""

    role: int
    name: str
    text: str
    ended: bool
    key: str | None


@dataclass
class _Talk:
    """What a dialogue is about, who takes part, and what was said."""

    topic: str
    roles: tuple[Role, Role]
    turns: list[_Said]
    stopped: str = "turns"


class Dialogue(Asking):
    """Let two roles talk about a row. The first role's turns become the user's, the second's the assistant's, which the student learns.

    The row's prompt is the first turn itself (`opening: turn`), or what they talk about (`opening: topic`), which may also stand in the
    row's meta. `meta["stopped"]` says why the talk ended. Templates: `first` (asks for a turn of the first role, who sees the talk as text)
    and `second` (system message of the second role, who sees it as a chat); they use `name`, `other`, `says`, `topic`, `turns` (`name`,
    `text`) and `stop_word`.
    """

    kind: Literal["dialogue"] = "dialogue"
    source: ClassVar[str | None] = (
        "Xu et al. 2023, Baize (2304.01196), section 3: self-chat; Li et al. 2023, CAMEL (2303.17760), section 3: role-play; Ding et al. "
        "2023, UltraChat (2305.14233), section 3: two models; Li et al. 2024, DEBATunE (2402.10614), section 3: debate"
    )
    block: ClassVar[str | None] = "gen.dialogue"
    prompts: ClassVar[tuple[str, ...]] = ("first", "second")
    writes: ClassVar[tuple[str, ...]] = ("answer",)

    mode: Mode = "self-chat"
    """Which two roles talk: `self-chat` user and assistant, `role-play` instructor and specialist, `debate` for and against,
    `interview` interviewer and expert."""
    roles: list[Role] | None = Field(None, min_length=2, max_length=2)
    """Two roles of your own instead: who opens, and who answers."""
    num_turns: int = Field(4, ge=2, le=64)
    """Most turns, the opening one included."""
    min_turns: int = Field(2, ge=2)
    """A talk that stops before so many turns is rejected."""
    opening: Literal["turn", "topic"] | None = None
    """Whether the row's prompt is the first turn or the topic; absent: the first turn in `self-chat`, else the topic."""
    topic_field: str = "value"
    """Field of the row's meta that holds the topic where the row has no prompt."""
    stop_word: str | None = Field("DONE", min_length=1)
    """What the first role writes when everything has been said."""
    trains: Literal["second", "first", "both"] = "second"
    """Whose turns the student learns; of `first`, and of `both` beside the other, the row shows the talk from the first role's side."""
    keep_system: bool = False
    """Whether the row keeps the role of the one who learns as its system turn."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.trains != "second" and self._opening == "turn":
            raise PydanticCustomError("dialogue_trains", "the row gives the first role's opening: `trains: first` needs `opening: topic`")
        if self.min_turns > self.num_turns:
            raise PydanticCustomError("dialogue_turns", "`min_turns` is above `num_turns`: no talk could pass")
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return `prompt`; a topic may stand in the meta instead."""
        return ("prompt",) if self._opening == "turn" else (f"prompt|meta.{self.topic_field}",)

    @property
    def others(self) -> tuple[str, ...]:
        """Return who speaks for the roles, where they say."""
        return tuple(dict.fromkeys(role.by for role in self.roles or () if role.by is not None))

    @property
    def _opening(self) -> Literal["turn", "topic"]:
        return self.opening or ("turn" if self.mode == "self-chat" and self.roles is None else "topic")

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged templates, and the roles where they are packaged."""
        return (*super().templates(), *(() if self.roles else (_ROLES,)))

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return given.each(asks=self.num_turns, rows=2 if self.trains == "both" else 1)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for one turn after another, until the talk stops."""
        talk = self._begin(row)
        if isinstance(talk, Rejected):
            return talk
        while len(talk.turns) < self.num_turns and talk.stopped == "turns":
            yield from self._go_on(talk, row, scene)
        return self._rows(talk, row, scene)

    def _begin(self, row: Row) -> _Talk | Rejected:
        prompt = [m for m in row.prompt if m.role != "system"]
        roles = _packaged()[self.mode] if self.roles is None else (self.roles[0], self.roles[1])
        if self._opening == "topic":
            topic = (prompt[-1].content if prompt else row.meta.get(self.topic_field, "")).strip()
            return _Talk(topic, roles, []) if topic else Rejected("no topic to talk about", text_of(row.prompt))
        if not prompt or prompt[-1].role != "user" or not prompt[-1].content.strip():
            return Rejected("no question: the last turn is not the user's", text_of(row.prompt))
        given = [_Said(int(m.role != "user"), roles[int(m.role != "user")].name, m.content, True, None) for m in prompt]
        return _Talk("", roles, given)

    # --- one turn ------------------------------------------------------------------------------------------------------------

    def _go_on(self, talk: _Talk, row: Row, scene: Scene) -> Generator[Sequence[Ask], Sequence[Answered], None]:
        """Add the next turn, or say why the talk stops."""
        role = 1 - talk.turns[-1].role if talk.turns else 0
        (answered,) = yield [self._ask(talk, role, row, scene)]
        text, stops, whole = self._heard(answered.answer, talk)
        talk.stopped = self._why_stopped(text, talk, stops=stops)
        if talk.stopped in ("turns", "stop word") and text:
            talk.turns.append(_Said(role, talk.roles[role].name, text, whole, answered.key))
            # What would follow a turn that breaks off is no answer to it.
            talk.stopped = talk.stopped if whole else "cut"

    def _ask(self, talk: _Talk, role: int, row: Row, scene: Scene) -> Ask:
        me, other = talk.roles[role], talk.roles[1 - role]
        turns = [{"name": said.name, "text": said.text} for said in talk.turns]
        about = {"name": me.name, "other": other.name, "says": _filled(me.says, talk.topic), "topic": talk.topic, "turns": turns}
        values = {**values_of(row), **about, "stop_word": self.stop_word or ""}
        text = self.render(scene, row.id, values, ("first", "second")[role]).strip()
        chat = tuple(Message("assistant" if said.role == role else "user", said.text) for said in talk.turns)
        question = (Message("user", text),) if role == 0 else with_system((*self._own_system(row), *chat), text)
        return self.ask(scene, row.id, question, to=me.by or scene.actor, stop=tuple(f"\n{one.name}:" for one in talk.roles))

    def _own_system(self, row: Row) -> tuple[Message, ...]:
        return tuple(m for m in row.prompt if m.role == "system") if self._opening == "turn" else ()

    def _heard(self, answer: Answer, talk: _Talk) -> tuple[str, bool, bool]:
        """Return what a role said (without names before it and turns after it), whether it ends the talk, and whether it is whole."""
        names = "|".join(re.escape(role.name) for role in talk.roles)
        said = re.sub(rf"\A\s*(?:\*\*)?(?:{names})(?:\*\*)?:(?:\*\*)?\s*", "", answer.text)
        said, *more = re.split(rf"\n\s*(?:\*\*)?(?:{names})(?:\*\*)?:", said, maxsplit=1)
        found = re.search(rf"(?<!\w){re.escape(self.stop_word)}(?!\w)", said) if self.stop_word is not None else None
        if found is not None:
            return said[: found.start()].strip(), True, True
        return said.strip(), False, answer.ended or bool(more)

    def _why_stopped(self, text: str, talk: _Talk, *, stops: bool) -> str:
        if stops:
            return "stop word"
        if not text:
            return "empty turn"
        if refuses(text):
            return "refusal"
        return "repeated turn" if any(same_words(text, said.text) for said in talk.turns) else "turns"

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def _rows(self, talk: _Talk, row: Row, scene: Scene) -> list[Row] | Rejected:
        if len(talk.turns) < self.min_turns:
            reason = "too few turns" if talk.stopped == "turns" else f"stopped too early: {talk.stopped}"
            return Rejected(reason, "\n".join(f"{said.name}: {said.text}" for said in talk.turns))
        sides = {"second": (1,), "first": (0,), "both": (1, 0)}[self.trains]
        made = [self._row(talk, row, scene, side) for side in sides]
        return [one for one in made if one is not None] or Rejected("no turn to learn", talk.topic)

    def _row(self, talk: _Talk, row: Row, scene: Scene, side: int) -> Row | None:
        """Return the talk from one side, or None where that side said nothing."""
        turns = [_message(said, side) for said in talk.turns]
        if side == 0:
            turns.insert(0, Message("user", talk.topic))
        while turns and not turns[-1].train:
            turns.pop()
        if not turns:
            return None
        messages = (*self._own_system(row), *turns)
        if self.keep_system:
            messages = with_system(messages, f"You are {talk.roles[side].name}: {_filled(talk.roles[side].says, talk.topic)}.")
        meta = meta_with(row, {"stopped": talk.stopped})
        keys = (*row.keys, *(said.key for said in talk.turns if said.key is not None))
        if self._opening == "turn":
            return replace(row, messages=messages, meta=meta, keys=keys)
        return scene.child([row], messages=messages, meta=meta, keys=keys, context=row.context)


def _message(said: _Said, side: int) -> Message:
    own = said.role == side
    return Message("assistant" if own else "user", said.text, train=own and said.key is not None, ended=said.ended)


def _filled(text: str, topic: str) -> str:
    return text.replace("{topic}", topic)


@lru_cache(maxsize=1)
def _packaged() -> dict[str, tuple[Role, Role]]:
    from ruamel.yaml import YAML

    found: dict[str, Any] = YAML(typ="safe").load(_ROLES.read_text(encoding="utf-8"))
    return {mode: (Role(**first), Role(**second)) for mode, (first, second) in found.items()}
