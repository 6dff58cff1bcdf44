"""What operators and scorers that ask a teacher have in common: how long and how freely it answers, and the templates of its questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Conversing, Elicitor, Fault, Scene, _template
from kdbuild.records import Message, Row
from kdbuild.teachers import Ask


class Templated(Conversing):
    """Base of what writes its questions by templates: files `_<kind>/<name>.j2` beside the kind, one for each of `prompts`."""

    prompts: ClassVar[tuple[str, ...]] = ("prompt",)
    """Names of its templates."""

    template: str | dict[str, str] | None = None
    """Jinja file of the project that writes the question instead of the shipped one; for an operator with several, a file a name."""

    @model_validator(mode="after")
    def _names_of_templates(self) -> Self:
        unknown = [name for name in self._overrides() if name not in self.prompts]
        if unknown:
            raise PydanticCustomError(
                "template_name",
                "{kind} has no template `{name}`; it has: {names}",
                {
                    "kind": self.kind,
                    "name": unknown[0],
                    "names": ", ".join(self.prompts),
                },
            )
        return self

    def _overrides(self) -> dict[str, str]:
        if self.template is None:
            return {}
        return {self.prompts[0]: self.template} if isinstance(self.template, str) else self.template

    def files(self) -> tuple[str, ...]:
        """Return the project's templates."""
        return tuple(self._overrides().values())

    def faults(self, root: Path) -> Iterator[Fault]:
        """Yield what is wrong with the project's templates."""
        for name, path in self._overrides().items():
            yield from _template.faults(root, ("template",) if isinstance(self.template, str) else ("template", name), path, is_path=True)

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged templates."""
        return tuple(self._packaged(name) for name in self.prompts if name not in self._overrides())

    def _packaged(self, name: str) -> Path:
        return Path(__file__).parents[1] / self.family / f"_{self.kind.replace('-', '_')}" / f"{name}.j2"

    def render(self, scene: Scene, row: str, values: dict[str, Any], name: str = "prompt") -> str:
        """Return the text that template `name` makes of `values`; `row` is the id that an error names.

        Raises:
            SpecError: the template is not one, or uses what is not there.
        """
        path = self._overrides().get(name)
        template = _template.shipped(self._packaged(name)) if path is None else _template.of_project(scene.root, path)
        return template.render(row, values)


class Questioning(Templated):
    """Base of what asks a teacher to write, or to decide."""

    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in the teacher's tokens; raised later, only the answers that were cut are asked again."""
    temperature: float = Field(0.0, ge=0)
    """0 answers with the likeliest token each time; above, tokens are drawn, seeded by the row's id."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Tokens are drawn from the smallest set with this share of the probability."""
    system: str | None = None
    """An instruction to the teacher only; the student's row keeps the seed's own messages."""

    def ask(self, scene: Scene, row: str, question: str | Sequence[Message], **more: Any) -> Ask:
        """Return a question with the operator's own limits and sampling; `more` are further fields of `Ask`, which win.

        A `question` that is a text is one user turn. The operator's `system` goes before it.
        """
        turns = [Message("user", question)] if isinstance(question, str) else [Message(m.role, m.content) for m in question]
        fields: dict[str, Any] = {
            "row": row,
            "messages": _under(self.system, turns),
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "to": scene.actor,
        }
        return Ask(**{**fields, **more})


class Asking(Questioning, Elicitor):
    """Base of operators that ask."""


def values_of(row: Row) -> dict[str, Any]:
    """Return what a template may use of a row."""
    prompt = row.prompt
    return {
        "prompt": prompt[-1].content if prompt else "",
        "messages": prompt,
        "answer": row.answer or "",
        "context": row.context,
        "rationale": row.rationale or "",
        "program": row.program or "",
        "gold": row.gold or "",
        "label": row.label or "",
        "candidates": row.candidates,
        "feedback": row.feedback or "",
        "tool": row.tool,
        "media": row.media,
        "meta": row.meta,
        "id": row.id,
    }


def _under(system: str | None, turns: list[Message]) -> tuple[Message, ...]:
    if system is None:
        return tuple(turns)
    if not turns or turns[0].role != "system":
        return (Message("system", system), *turns)
    # Chat templates know one system turn, so the instruction joins the seed's own.
    return (Message("system", f"{system}\n\n{turns[0].content}"), *turns[1:])
