"""Tools that a teacher may call: what they say of themselves, the schema that its calls follow, and calling them in the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from kdbuild import canonical, sandbox
from kdbuild.elicitors import Rejected
from kdbuild.errors import SpecError
from kdbuild.inside import inside
from kdbuild.kinds import Model
from kdbuild.records import Row
from kdbuild.sandbox import Call, Limits, Outcome

FINISH = "finish"
"""The call that ends a trajectory; its argument is the answer."""
_NAME = re.compile(r"^[A-Za-z_]\w*$")
_CALLABLE = re.compile(r"^[\w./-]+:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*$")
_TYPES = ("string", "integer", "number", "boolean", "array", "object")
_LONGEST_LIST = 16
_DEEPEST = 3


class ToolUse(Model):
    """A tool: which function it is, and what the teacher is told of it."""

    callable: str = Field(pattern=_CALLABLE.pattern, examples=["tools/calc.py:add"])
    """`package.module:function` of an installed package, or `path/of/file.py:function` of the project. A file may import what is
    installed, but no other file of the project."""
    name: str | None = Field(None, pattern=_NAME.pattern)
    """What it is called; absent: the function's name."""
    description: str | None = None
    """What it does; absent: the first paragraph of the function's docstring."""
    parameters: dict[str, Any] | None = None
    """JSON schema of its arguments; absent: as the function's signature says."""

    @property
    def file(self) -> str | None:
        """The project's file that it is in; None for one of a package."""
        path = self.callable.partition(":")[0]
        return path if path.endswith(".py") else None


@dataclass(frozen=True)
class Tool:
    """A tool that can be called."""

    name: str
    description: str
    parameters: str
    """JSON schema of its arguments, an object, as JSON text: the order of the arguments counts."""
    function: str
    code: str | None
    module: str | None

    @property
    def properties(self) -> dict[str, Any]:
        """Each argument's JSON schema."""
        found = json.loads(self.parameters).get("properties")
        return found if isinstance(found, dict) else {}

    @property
    def optional(self) -> frozenset[str]:
        """The arguments that need not be given."""
        return frozenset(self.properties) - frozenset(json.loads(self.parameters).get("required") or ())

    @property
    def signature(self) -> str:
        """The tool and its arguments, as a teacher is told: `add(a: integer, b: integer = ...)`."""
        shown = (f"{name}: {_type(schema)}{' = ...' if name in self.optional else ''}" for name, schema in self.properties.items())
        return f"{self.name}({', '.join(shown)})"

    def call(self, arguments: Mapping[str, Any], limits: Limits) -> Outcome:
        """Call it in the sandbox."""
        (outcome,) = sandbox.run([self.job(arguments)], limits)
        return outcome

    def job(self, arguments: Mapping[str, Any]) -> Call:
        """Return the call for the sandbox; arguments that are null and need not be given are left out."""
        given = {name: value for name, value in arguments.items() if value is not None or name not in self.optional}
        return Call(self.function, canonical.dumps(given), self.code, self.module)


_ANSWER = '{"properties":{"answer":{"type":"string","minLength":1}},"required":["answer"]}'
FINISHING = Tool(FINISH, "Give the final answer to the task.", _ANSWER, "", None, None)


def _type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "string"
    options = schema.get("enum")
    return " | ".join(json.dumps(one, ensure_ascii=False) for one in options) if options else str(schema.get("type", "string"))


# --- which tools there are -----------------------------------------------------------------------------------------------------


def of_spec(uses: Sequence[ToolUse], root: Path, limits: Limits) -> list[Tool]:
    """Return the tools that an operator names.

    Raises:
        SpecError: one is not there, does not load, or two have one name.
    """
    found = [_tool(use, root, limits) for use in uses]
    names = [tool.name for tool in found]
    twice = next((name for name in names if names.count(name) > 1 or name == FINISH), None)
    if twice is not None:
        raise SpecError(f"two tools are called `{twice}`", hint=f"give one of them another `name`; `{FINISH}` is what ends a trajectory")
    return found


def of_row(row: Row) -> list[Tool] | Rejected:
    """Return the tool that a row has, as the seeds `api` give it."""
    tool = row.tool or {}
    place, _, function = (tool.get("callable") or "").partition(":")
    if not function:
        return Rejected("the row's tool cannot be called", row.id)
    name = tool.get("name") or function.rpartition(".")[2]
    if not _NAME.fullmatch(name) or name == FINISH:
        return Rejected("the row's tool has no usable name", name)
    try:
        parameters = json.loads(tool.get("parameters") or "{}")
    except ValueError:
        parameters = None
    if not isinstance(parameters, dict):
        return Rejected("the row's tool has no JSON schema", tool.get("parameters") or "")
    return [
        Tool(name, " ".join((tool.get("description") or "").split()), json.dumps(parameters, ensure_ascii=False), function, None, place)
    ]


def _tool(use: ToolUse, root: Path, limits: Limits) -> Tool:
    place, _, function = use.callable.partition(":")
    code = None
    if use.file is not None:
        try:
            code = inside(root, use.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{use.file} cannot be read: {error}", hint="a file of tools is Python, in UTF-8") from error
    module = None if code is not None else place
    said = _described(function, code, module, limits) if use.description is None or use.parameters is None or use.name is None else {}
    return Tool(
        use.name or said["name"],
        use.description if use.description is not None else said["description"],
        json.dumps(use.parameters if use.parameters is not None else said["parameters"], ensure_ascii=False),
        function,
        code,
        module,
    )


@lru_cache(maxsize=256)
def _described(function: str, code: str | None, module: str | None, limits: Limits) -> dict[str, Any]:
    text = Path(__file__).with_name("_describe.py").read_text(encoding="utf-8")
    arguments = canonical.dumps({"function": function, "code": code, "module": module})
    (outcome,) = sandbox.run([Call("describe", arguments, text)], limits)
    if outcome.value is None:
        cause = outcome.stderr.splitlines()[-1] if outcome.stderr else f"it {outcome.reason}"
        raise SpecError(
            f"the tool `{module or 'file'}:{function}` does not load: {cause}",
            hint="it must load without network, files and other programs; or give its `name`, `description` and `parameters` in the spec",
        )
    found: dict[str, Any] = json.loads(outcome.value)
    return found


# --- calls -----------------------------------------------------------------------------------------------------------------------


class Wanted(Model):
    """A call that a teacher writes."""

    name: str
    arguments: dict[str, Any]


def call_schema(tools: Sequence[Tool], max_text_chars: Mapping[str, int]) -> dict[str, Any]:
    """Return the JSON schema of a call of one of `tools`: its name, and arguments of the types it takes.

    Every argument stands in it, one that need not be given as null or a value. `max_text_chars` is by tool, `""` for the others: without
    it a small teacher does not end a text.
    """
    options = [
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "enum": [tool.name]},
                "arguments": _arguments(tool, max_text_chars.get(tool.name, max_text_chars[""])),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return options[0] if len(options) == 1 else {"anyOf": options}


def _arguments(tool: Tool, max_chars: int) -> dict[str, Any]:
    properties = {name: _bounded(schema, max_chars, _DEEPEST) for name, schema in tool.properties.items()}
    for name in tool.optional:
        properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _bounded(schema: Any, max_chars: int, depth: int) -> dict[str, Any]:
    """Return what of a JSON schema every backend can follow, with an end to each text and list; anything else is a text."""
    given = schema if isinstance(schema, dict) else {}
    kind = given.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), None)
    options = given.get("enum")
    if isinstance(options, list) and options and all(isinstance(one, (str, int, float, bool)) for one in options):
        return {"enum": options}
    if kind == "array" and depth:
        return {"type": "array", "items": _bounded(given.get("items"), max_chars, depth - 1), "maxItems": _LONGEST_LIST}
    if kind == "object" and depth and isinstance(given.get("properties"), dict):
        inner = {str(name): _bounded(one, max_chars, depth - 1) for name, one in given["properties"].items()}
        return {"type": "object", "properties": inner, "required": list(inner), "additionalProperties": False}
    if kind in ("integer", "number", "boolean"):
        return {"type": kind}
    # A small teacher likes to say nothing at all.
    least = {"minLength": 1} if given.get("minLength") else {}
    return {"type": "string", **least, "maxLength": max_chars}


def wanted_in(value: Any, tools: Sequence[Tool]) -> Wanted | None:
    """Return a call read from JSON, or None where it is none of these tools with their arguments."""
    try:
        found = Wanted.model_validate(value)
        canonical.dumps(found.arguments)  # NaN is no JSON
    except (ValidationError, ValueError):
        return None
    tool = next((tool for tool in tools if tool.name == found.name), None)
    if tool is None or not set(found.arguments) <= set(tool.properties) or not set(tool.properties) - tool.optional <= set(found.arguments):
        return None
    return found


def shown(tools: Sequence[Tool]) -> str:
    """Return tools as a list for people and models, one a line."""
    return "\n".join(f"- {tool.signature}: {tool.description}" if tool.description else f"- {tool.signature}" for tool in tools)


def observation(outcome: Outcome, max_chars: int) -> str:
    """Return what a teacher is told of a call: what came of it, or `error:` and why."""
    if outcome.reason is None:
        text = (outcome.value or "").strip() or outcome.stdout.strip() or "(nothing)"
    else:
        text = f"error: {outcome.stderr.splitlines()[-1] if outcome.stderr else outcome.reason}"
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"
