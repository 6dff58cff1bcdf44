"""Prompts and answers made of what a row has, by templates alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.elicitors import Conversation, Elicitor, Fault, Made, Rejected, Scene, _patterns, _template
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._rows import dropped, text_of, variant
from kdbuild.kinds import Model
from kdbuild.records import Message, Row
from kdbuild.teachers import Signal

_FIELDS = ("gold", "label", "rationale", "program", "feedback")
"""Fields of a row that an extracted text may become; under any other name it goes to `meta`."""
_ROLES: tuple[Literal["system", "prompt", "answer"], ...] = ("system", "prompt", "answer")
_GOLD = "{{ gold }}"
Source = Literal["prompt", "answer", "context", "rationale", "program", "gold", "feedback"]


class Form(Model):
    """One way to write a row. Each text is a Jinja template, or the path of one in the project, which ends in `.j2`."""

    name: str | None = None
    """What `meta["form"]` says; absent: nothing."""
    system: str | None = Field(None, min_length=1)
    """The system turn; absent: none, or the row's own where the prompt is the row's own."""
    prompt: str | None = Field(None, min_length=1)
    """The user's turn; absent: the row's own prompt."""
    answer: str | None = Field(None, min_length=1)
    """The turn the student learns; absent: none where the prompt is new, else the row's own."""

    def texts(self) -> dict[str, str]:
        """Return its templates by role."""
        return {role: text for role in _ROLES if (text := getattr(self, role)) is not None}


class Template(Elicitor):
    """Write rows by Jinja templates from what they have. Asks nobody.

    Templates use what the row has (`prompt`, `answer`, `messages`, `context`, `gold`, `label`, `rationale`, `program`, `candidates`,
    `feedback`, `tool`, `media`, `meta`, `trajectory`, `id`), the names of `extract`, and `item` and `index` where there is one row an item.
    Without any template the right answer (`gold`) becomes the turn that the student learns.
    Several forms are drawn from, as FLAN does, or all written: a form for each role splits a row by roles.
    A row with a new prompt, or of several, is a child; one that only gets an answer stays that row.
    """

    kind: Literal["template"] = "template"
    source: ClassVar[str | None] = (
        "Wei et al. 2022, FLAN (2109.01652), section 2.1: a template drawn for each row; Cheng et al. 2024 (2309.09530), section 3: "
        "patterns mined from text; Shen et al. 2024 (2401.07324): rows split by roles"
    )
    block: ClassVar[str | None] = "gen.template"
    asks_once: ClassVar[bool] = True

    system: str | None = Field(None, min_length=1)
    """The system turn of the only form."""
    prompt: str | None = Field(None, min_length=1)
    """The user's turn of the only form."""
    answer: str | None = Field(None, min_length=1)
    """The turn that the student learns, of the only form."""
    forms: list[Form] = Field(default_factory=list)
    """Several forms, instead of `system`, `prompt` and `answer`."""
    pick: Literal["one", "all"] = "one"
    """Whether a row is written in one form, drawn by its id, or in each."""
    extract: dict[str, str] = Field(default_factory=dict)
    """Regular expressions by name: the first group (or all) of the first match is that name in the templates, and the row's field (`gold`,
    `label`, `rationale`, `program`, `feedback`) or a field of its meta. Named groups are names as well."""
    search: Source = "prompt"
    """The text of the row that is searched; of `context`, all passages."""
    each: Literal["row", "match", "context", "candidates", "trajectory"] = "row"
    """What a row is made of each: the row itself, every match of the one pattern, every passage, candidate or step (`item`)."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self._alone.texts() and self.forms:
            raise PydanticCustomError("template_forms", "`system`, `prompt` and `answer` are the only form; with `forms`, put them there")
        if any(not form.texts() for form in self.forms):
            raise PydanticCustomError("template_empty", "a form without `system`, `prompt` and `answer` writes nothing")
        if self.each == "match" and len(self.extract) != 1:
            raise PydanticCustomError("template_match", "`each: match` needs exactly one pattern in `extract`; use its named groups")
        for name, pattern in self.extract.items():
            self._check(name, pattern)
        return self

    def _check(self, name: str, pattern: str) -> None:
        taken = name in {*values_of(Row("")), "trajectory", "item", "index"} and name not in _FIELDS
        if taken or not name.isidentifier():
            raise PydanticCustomError("template_name", "`extract: {{{name}: ...}}`: the name is taken, or not a word", {"name": name})
        problem = _patterns.problem(pattern)
        if problem is not None:
            message = "`extract: {name}` is not a regular expression: {problem}"
            raise PydanticCustomError("template_pattern", message, {"name": name, "problem": problem})

    @property
    def needs(self) -> frozenset[Signal]:
        """Nothing: it asks nobody."""
        return frozenset()

    @property
    def _alone(self) -> Form:
        return Form(system=self.system, prompt=self.prompt, answer=self.answer)

    @property
    def _forms(self) -> list[Form]:
        nothing = not self._alone.texts() and not self.extract
        return self.forms or [Form(answer=_GOLD) if nothing else self._alone]

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what is searched and split, and the right answer where that is all that is written; templates may use anything."""
        searched = [self.search] if self.extract else []
        items = [self.each] if self.each in ("context", "candidates", "trajectory") else []
        gold = ["gold"] if self._forms == [Form(answer=_GOLD)] else []
        return tuple(dict.fromkeys((*searched, *items, *gold)))

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return an answer where every form has one, and the fields that are extracted."""
        answers = ("answer",) if all(form.answer for form in self._forms) else ()
        return (*answers, *dict.fromkeys(name if name in _FIELDS else "meta" for name in self._extracted))

    @property
    def _extracted(self) -> list[str]:
        return [name for own, pattern in self.extract.items() for name in (own, *_patterns.names(pattern))]

    def files(self) -> tuple[str, ...]:
        """Return the project's templates."""
        return tuple(dict.fromkeys(text for form in self._forms for text in form.texts().values() if _is_path(text)))

    def faults(self, root: Path) -> Iterator[Fault]:
        """Yield what is wrong with its templates."""
        for i, form in enumerate(self._forms):
            for role, text in form.texts().items():
                yield from _template.faults(root, ("forms", i, role) if self.forms else (role,), text, is_path=_is_path(text))

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        num_forms = len(self._forms) if self.pick == "all" else 1
        return given.each(asks=0, rows=num_forms if self.each == "row" else None)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask nothing; return the rows written."""
        yield from ()
        items = self._items(row)
        if not items:
            return Rejected(
                f"no {self.each} to write a row of" if self.each != "row" else "a pattern does not match", text_of(row.messages)
            )
        several = self.each != "row" or self.pick == "all"
        made = [self._written(row, scene, form, item, several=several) for item in items for form in self._drawn(row)]
        rows = [one for one in made if isinstance(one, Row)]
        rejected = [one for one in made if isinstance(one, Rejected)]
        if not rows and len(rejected) == 1:
            return rejected[0]
        return Made(rows, dropped(self.kind, row, rejected))

    def _drawn(self, row: Row) -> Sequence[Form]:
        if self.pick == "all" or len(self._forms) == 1:
            return self._forms
        return [max(self._forms, key=lambda form: canonical.fraction("template", row.id, *_parts(form)))]

    # --- what the templates are given ----------------------------------------------------------------------------------------

    def _items(self, row: Row) -> list[dict[str, Any]]:
        """Return what templates are given besides the row, once for each row to write; nothing where a pattern does not match."""
        text = self._searched(row) if self.extract else ""
        if self.each == "match":
            ((name, pattern),) = self.extract.items()
            return [{name: found.pop("value"), **found, "index": i} for i, found in enumerate(_patterns.search(pattern, text))]
        shared: dict[str, str] = {}
        for name, pattern in self.extract.items():
            first = next(_patterns.search(pattern, text), None)
            if first is None:
                return []
            shared |= {name: first.pop("value"), **first}
        if self.each == "row":
            return [shared]
        return [{**shared, "item": item, "index": i} for i, item in enumerate(getattr(row, self.each))]

    def _searched(self, row: Row) -> str:
        if self.search == "context":
            return "\n\n".join(str(passage.get("text") or "") for passage in row.context)
        return str(values_of(row)[self.search])

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def _written(self, row: Row, scene: Scene, form: Form, item: dict[str, Any], *, several: bool) -> Row | Rejected:
        values = {**values_of(row), "trajectory": row.trajectory, **item}
        written: dict[str, str] = {}
        for role, text in form.texts().items():
            written[role] = self._render(scene, row, f"{form.name or self.kind}: {role}", text, values).strip()
            if not written[role]:
                return Rejected(f"empty {role}", text_of(row.messages))
        found = {name: value for name, value in item.items() if name not in ("item", "index")}
        meta = {**row.meta, **{name: value for name, value in found.items() if name not in _FIELDS}}
        changes: dict[str, Any] = {name: value for name, value in found.items() if name in _FIELDS}
        changes |= {"messages": _turns(row, written), "meta": {**meta, "form": form.name} if form.name else meta}
        stays = not several and not {"system", "prompt"} & set(written)
        return replace(row, **changes) if stays else variant(scene, row, **changes)

    def _render(self, scene: Scene, row: Row, name: str, text: str, values: dict[str, Any]) -> str:
        template = _template.of_project(scene.root, text) if _is_path(text) else _template.of_text(text, name)
        return template.render(row.id, values)


def _turns(row: Row, written: dict[str, str]) -> tuple[Message, ...]:
    """Return a row's turns with those that were written in place of its own."""
    own = [m for m in row.prompt if m.role != "system" or not {"system", "prompt"} & set(written)]
    prompt = [Message("user", written["prompt"])] if "prompt" in written else own
    system = [Message("system", written["system"])] if "system" in written else []
    if "answer" in written:
        return (*system, *prompt, Message("assistant", written["answer"], train=True))
    rest = row.messages[len(row.prompt) :] if "prompt" not in written else ()
    return (*system, *prompt, *rest)


def _parts(form: Form) -> list[str]:
    return [f"{role}={text}" for role, text in form.texts().items()]


def _is_path(text: str) -> bool:
    return text.endswith(".j2") and not any(sign.isspace() or sign in "{}" for sign in text)
