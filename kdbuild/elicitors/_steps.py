"""Steps of a trajectory: a thought, a call and what came of it; how a teacher writes one, and how a student's row shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from kdbuild import canonical
from kdbuild.elicitors import Rejected, _structured, _tools
from kdbuild.elicitors._tools import FINISH, Tool
from kdbuild.records import Message
from kdbuild.teachers import Answer


@dataclass(frozen=True)
class Step:
    """A thought, a call and its result."""

    thought: str
    action: str
    """Name of the tool."""
    args: str
    """The arguments, canonical JSON."""
    observation: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by name."""
        found: dict[str, Any] = json.loads(self.args)
        return found

    @property
    def shown(self) -> dict[str, str]:
        """The step as a row holds it."""
        return {"thought": self.thought, "action": self.action, "args": self.args, "observation": self.observation}


@dataclass(frozen=True)
class Path:
    """Steps, one after the other."""

    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> Path:
        """Return the path with one step more."""
        return Path((*self.steps, step))

    @property
    def is_finished(self) -> bool:
        """Whether it has come to an answer."""
        return bool(self.steps) and self.steps[-1].action == FINISH

    @property
    def answer(self) -> str:
        """What a finished path comes to."""
        return str(self.steps[-1].arguments["answer"]).strip()

    @property
    def shown(self) -> list[dict[str, str]]:
        """The steps as a row holds them."""
        return [step.shown for step in self.steps]

    def conversation(self, prompt: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the turns of a student that goes this way: calls and answer are learned, results are not."""
        turns = list(prompt)
        for step in self.steps[:-1]:
            thought = f"Thought: {step.thought}\n" if step.thought else ""
            turns.append(Message("assistant", f"{thought}Action: {step.action}\nArguments: {step.args}", train=True))
            turns.append(Message("tool", step.observation))
        return (*turns, Message("assistant", self.answer, train=True))


class _Form(BaseModel):
    thought: str = ""
    call: dict[str, Any]


def schema(tools: Sequence[Tool], max_thought_chars: int | None, max_text_chars: Mapping[str, int]) -> str:
    """Return the JSON schema of a step that calls one of `tools`; `max_thought_chars` None is a step without a thought."""
    properties: dict[str, Any] = {"call": _tools.call_schema(tools, max_text_chars)}
    if max_thought_chars is not None:
        properties = {"thought": {"type": "string", "maxLength": max_thought_chars}, **properties}
    # In the order in which they are written: the thought comes before the call.
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}, ensure_ascii=False
    )


def read(answer: Answer, tools: Sequence[Tool]) -> Step | Rejected:
    """Return the step that an answer is, or why it is none."""
    found = _structured.read(_Form, answer)
    if isinstance(found, Rejected):
        return found
    wanted = _tools.wanted_in(found.call, tools)
    if wanted is None:
        return Rejected("calls what is not there, or without its arguments", answer.text)
    return Step(found.thought.strip(), wanted.name, canonical.dumps(wanted.arguments))


def text(path: Path) -> str:
    """Return a path for people."""
    return "\n".join(f"{step.thought}\n{step.action} {step.args} -> {step.observation}" for step in path.steps)
