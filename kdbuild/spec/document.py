"""A YAML file as plain values, with the line of every key and value.

The dialect is DVC's: YAML 1.2 as ruamel's safe loader reads it (`yes` and `1:30` are text, `012` is 12, `1e-4` is a number). What DVC
would turn into nonsense further down is refused here: dates, `.nan`, keys that it cannot address.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from kdbuild.spec.problems import At, Problem, shown

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 64
MAX_VALUES = 200_000

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp"))
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
"""What YAML counts as the end of a line."""
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass
class Document:
    """One file: its values, and where each stands."""

    name: str
    """The file as messages name it: relative to the project."""
    lines: list[str] = field(default_factory=list)
    value: dict[str, Any] = field(default_factory=dict)
    """The mapping the file holds; empty where it could not be read."""
    problems: list[Problem] = field(default_factory=list)
    """What is wrong with the file as YAML, and what DVC could not use."""
    _key_lines: dict[At, int] = field(default_factory=dict)
    _value_lines: dict[At, int] = field(default_factory=dict)

    def line_of(self, at: At) -> int | None:
        """Return the line (from 1) to point at: of the key, or where there is none of the value; of the nearest parent where absent."""
        while at:
            if (line := self._key_lines.get(at) or self._value_lines.get(at)) is not None:
                return line
            at = at[:-1]
        return min(self._key_lines.values(), default=None)

    def value_line_of(self, at: At) -> int | None:
        """Return the line of a plain value (which may be below its key), else what `line_of` says."""
        value = self.get(at)
        return self.line_of(at) if isinstance(value, (dict, list)) else self._value_lines.get(at) or self.line_of(at)

    def get(self, at: At) -> Any:
        """Return the value at a path, or None."""
        value: Any = self.value
        for step in at:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def read(path: Path, name: str) -> Document:
    """Return the document in `path`; what is wrong with it is in its `problems`.

    Raises:
        OSError: the file cannot be read.
    """
    raw = path.read_bytes()
    if len(raw) > MAX_BYTES:
        return Document(name, problems=[Problem((), f"the file has {len(raw)} bytes; at most {MAX_BYTES} are read")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problem = Problem((), f"byte {raw[error.start]:#04x} is not UTF-8", hint="save the file in the encoding UTF-8", line=line)
        return Document(name, raw.decode("utf-8-sig", "replace").split("\n"), problems=[problem])
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """Return the document that `text` holds."""
    document = Document(name, _LINE_BREAK.split(text))
    if control := _CONTROL.search(text):
        line = len(_LINE_BREAK.findall(text, 0, control.start())) + 1
        document.problems.append(Problem((), f"the control character U+{ord(control[0]):04X} cannot stand in YAML", line=line))
        return document
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe")
    try:
        if _may_be_deep(document.lines) and _is_deep(YAML(typ="safe"), text):
            document.problems.append(Problem((), f"values are nested more than {MAX_DEPTH} deep"))
            return document
        node = yaml.compose(text)
    except YAMLError as error:
        document.problems.append(_syntax(error, document.lines))
        return document
    if node is None:
        document.problems.append(Problem((), "the file is empty"))
    elif node.id != "mapping":
        what = shown(node.value) if node.id == "scalar" else "a list"
        document.problems.append(Problem((), f"the file must hold `key: value` pairs, but holds {what}", line=node.start_mark.line + 1))
    else:
        _Walk(document, yaml.constructor).fill(node)
    return document


# --- syntax ----------------------------------------------------------------------------------------------------------


def _may_be_deep(lines: list[str]) -> bool:
    """Whether nesting could pass the limit: each level costs a bracket, or a column."""
    return sum(line.count("[") + line.count("{") for line in lines) + max(map(len, lines)) > MAX_DEPTH * 4


def _is_deep(yaml: Any, text: str) -> bool:
    """Whether values are nested too deep. The parser that composes them recurses in C and would crash; this one does not."""
    depth = 0
    for event in yaml.parse(text):
        name = type(event).__name__
        depth += name.endswith("StartEvent") - name.endswith("EndEvent")
        if depth > MAX_DEPTH + 2:
            return True
    return False


def _syntax(error: Exception, lines: list[str]) -> Problem:
    """Say what the parser found in words for someone who writes YAML once a month."""
    problem: str = getattr(error, "problem", None) or ""
    context: str = getattr(error, "context", None) or ""
    mark = getattr(error, "problem_mark", None)
    opened = getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else None
    text = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in text[: len(text) - len(text.lstrip())]:
        return Problem((), "a tab cannot indent in YAML", hint="indent with spaces", line=line)
    if "flow" in context:
        return _unclosed(lines, mark, opened)
    if "quoted scalar" in context and opened:
        return Problem((), "the quote that opens on this line is never closed", line=opened.line + 1)
    if "another document" in problem:
        return Problem((), "the file holds more than one document", hint="remove the line `---`", line=line)
    if "mapping values" in problem:
        hint = "indent it like the line above, or quote the text if it holds `: `"
        return Problem((), "a `:` is not possible here", hint=hint, line=line)
    at = opened.line if opened else mark.line if mark else 0
    if "':'" in problem and re.search(r"[\[{].*[^\s:]:[^\s]", lines[at]):
        return Problem((), "text that holds `:` needs quotes between braces or brackets", hint='write it as "..."', line=at + 1)
    if "expected ':'" in problem and opened:
        return Problem((), "expected `key: value`", line=opened.line + 1)
    if "cannot start any token" in problem:
        character = text[mark.column : mark.column + 1] if mark else ""
        return Problem((), f"a value cannot begin with `{character}`", hint="put quotes around it", line=line)
    if "undefined alias" in problem:
        return Problem((), "this alias (`*name`) has no anchor (`&name`) before it", line=line)
    if "expected <block end>" in problem or "block" in context:
        return Problem((), "the indentation does not match what is above", hint="keys of one mapping start in one column", line=line)
    if not problem:
        return Problem((), f"this is not YAML: {str(error).splitlines()[0]}")
    return Problem((), f"this is not YAML: {problem}", line=line)


def _unclosed(lines: list[str], mark: Any, opened: Any) -> Problem:
    """Point to the bracket that was opened rather than to where the parser gave up."""
    at = opened or mark
    column = at.column
    text = lines[at.line] if at.line < len(lines) else ""
    if text[column : column + 1] not in "[{" or not text[column : column + 1]:
        # The parser knows only where a value should have been: the last bracket before that is the one left open.
        before = [(n, m.start()) for n, line in enumerate(lines[: at.line + 1]) for m in re.finditer(r"[\[{]", line)]
        if not before:
            return Problem((), "expected a value", line=at.line + 1)
        number, column = before[-1]
        return Problem((), f"the `{lines[number][column]}` that opens on this line is never closed", line=number + 1)
    where = f"; line {mark.line + 1} cannot be part of it" if mark and mark.line != at.line else ""
    if mark and mark.line == at.line:
        hint = "put quotes around text that holds brackets, braces or commas"
        return Problem((), f"expected `,` or the end of what `{text[column]}` opens", hint=hint, line=at.line + 1)
    return Problem((), f"the `{text[column]}` that opens on this line is not closed{where}", line=at.line + 1)


# --- values ----------------------------------------------------------------------------------------------------------


class _Walk:
    """Turns the parser's nodes into plain values, noting lines and what is wrong on the way."""

    def __init__(self, document: Document, constructor: Any) -> None:
        self.document = document
        self.constructor = constructor
        self.num_values = 0
        self.open: set[int] = set()

    def fill(self, root: Any) -> None:
        try:
            self.document.value = self.value(root, ()) or {}
            # What an anchor holds is walked wherever it is used.
            self.document.problems = list({(p.line, p.message): p for p in reversed(self.document.problems)}.values())[::-1]
        except _TooMany:
            self.document.value = {}
            message = f"the file expands to more than {MAX_VALUES} values"
            self.document.problems = [Problem((), message, hint="write less through anchors and aliases")]

    def wrong(self, at: At, node: Any, message: str, hint: str | None = None) -> None:
        self.document.problems.append(Problem(at, message, hint=hint, line=node.start_mark.line + 1))

    def value(self, node: Any, at: At) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise _TooMany
        self.document._value_lines[at] = node.start_mark.line + 1
        tag = str(node.tag)
        if node.id == "mapping" and tag == _TAG + "map":
            return self._guarded(node, at, self.mapping)
        if node.id == "sequence" and tag == _TAG + "seq":
            return self._guarded(node, at, self.sequence)
        if node.id == "scalar" and tag in _SCALARS:
            return self.scalar(node, at)
        name = tag.replace(_TAG, "!!")
        if name in ("!!merge", "!!value"):
            self.wrong(at, node, f"`{node.value}` has a meaning of its own in YAML", f'for the text, write "{node.value}"')
            return None
        self.wrong(at, node, f"the tag `{name}` has no meaning here", "remove the tag; put quotes around text that begins with `!`")
        return None

    def _guarded(self, node: Any, at: At, build: Any) -> Any:
        if id(node) in self.open:
            self.wrong(at, node, "this alias stands inside what it names")
            return None
        self.open.add(id(node))
        built = build(node, at)
        self.open.discard(id(node))
        return built

    def sequence(self, node: Any, at: At) -> list[Any]:
        return [self.value(item, (*at, i)) for i, item in enumerate(node.value)]

    def mapping(self, node: Any, at: At) -> dict[str, Any]:
        built: dict[str, Any] = {}
        own = [pair for pair in node.value if not _is_merge(pair[0])]
        for _, source in (pair for pair in node.value if _is_merge(pair[0])):
            self.merge(source, at, built)
        first: dict[str, int] = {}
        for key_node, value_node in own:
            key = self.key(key_node, at)
            if key is None:
                continue
            below = (*at, key)
            if key in first:
                self.wrong(below, key_node, f"`{key}` is given twice; the first is on line {first[key]}", "keep one of the two")
                continue
            first[key] = key_node.start_mark.line + 1
            if key in built:
                self._forget(below)
            self.document._key_lines[below] = first[key]
            built[key] = self.value(value_node, below)
        return built

    def merge(self, node: Any, at: At, built: dict[str, Any]) -> None:
        """Add what `<<` brings in, in ruamel's order: of a list of mappings, the first wins and comes last."""
        for source in reversed(node.value if node.id == "sequence" else [node]):
            if source.id != "mapping":
                self.wrong(at, source, f"`<<` merges mappings, not {shown(source.value)}")
                continue
            built.update(self._guarded(source, at, self.mapping) or {})

    def _forget(self, at: At) -> None:
        """Drop the lines of a merged-in value that an own key replaces."""
        for lines in (self.document._value_lines, self.document._key_lines):
            for other in [other for other in lines if other[: len(at)] == at]:
                del lines[other]

    def key(self, node: Any, at: At) -> str | None:
        plain = node.id == "scalar" and str(node.tag) in _SCALARS
        value = node.value if plain and str(node.tag) == _TAG + "str" else None
        if not isinstance(value, str):
            given = f"`{node.value}`" if node.id == "scalar" else "this one"
            self.wrong(at, node, f"a key must be text, not {given}", "put quotes around it" if node.id == "scalar" else None)
            return None
        if found := re.search(r"[.*?\[\]]", value):
            hint = f"use `-` instead, as in `{re.sub(r'[^A-Za-z0-9_]+', '-', value).strip('-')}`"
            self.wrong((*at, value), node, f"a key may not hold `{found[0]}`: DVC cannot address it", hint)
            self.document._key_lines[(*at, value)] = node.start_mark.line + 1
        return value

    def scalar(self, node: Any, at: At) -> Any:
        try:
            value = self.constructor.construct_object(node, deep=True)
        except (ValueError, IndexError, OverflowError):
            what = "a date" if str(node.tag).endswith("timestamp") else "a number"
            self.wrong(at, node, f"{shown(node.value)} stands for {what}, but is none", "put quotes around it to make it text")
            return None
        if isinstance(value, date):
            in_params = self.document.name == "params.yaml"
            reason = "DVC refuses every command while one stands in params.yaml" if in_params else "no field takes one"
            self.wrong(at, node, f"`{node.value}` is a date, and {reason}", f'make it text: "{node.value}"')
        elif isinstance(value, float) and math.isnan(value):
            self.wrong(at, node, f"`{node.value}` is not a number: it never equals itself, so DVC would rebuild every time")
        elif isinstance(value, float) and math.isinf(value):
            self.wrong(at, node, f"`{node.value}` is not a number anything can be set to")
        return value


class _TooMany(Exception):
    pass


def _is_merge(key: Any) -> bool:
    return str(key.tag) == _TAG + "merge"
