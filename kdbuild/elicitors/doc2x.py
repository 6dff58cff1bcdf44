"""The teacher makes a query, a question, an instruction, a task, a call, a summary or a dialogue of a document."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, create_model

from kdbuild import canonical
from kdbuild.elicitors import Answered, Rejected, Scene
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._examples import read_examples
from kdbuild.elicitors._extent import Extent
from kdbuild.elicitors._making import PARAGRAPH, Draft, Making, form, turns
from kdbuild.elicitors._signature import call_form
from kdbuild.records import Row
from kdbuild.spec.sources import check_path

WRITES = {
    "query": (),
    "question": ("answer", "gold"),
    "instruction": ("answer",),
    "task": (),
    "call": ("answer", "gold"),
    "summary": ("answer",),
    "dialogue": ("answer",),
}


class Doc2x(Making):
    """Ask for something that a document is the answer to, or the source of.

    The document is each passage of the row's `context` (a text, code), its `tool`, its `program`, or the text view of its `media`.
    `query` is what a search that finds the document says; `question` comes with its answer from the document; `instruction` is one that
    the document answers; `task` is a programming task in the spirit of a piece of code; `call` is a user's request with the call of
    the API that serves it, as JSON; `summary` and `dialogue` are about the document. The new rows keep the document. Templates have the
    name of what is made, and write from `document`, `noun` (what to call it), `examples` and what else a row has; `summary-prompt` and
    `shown` write the student's prompt: before a summary, and where `show_document` puts the document above a question.
    """

    kind: Literal["doc2x"] = "doc2x"
    source: ClassVar[str | None] = (
        "2402.13116, Eq. 5 and 6; Bonifacio et al. 2022 (2202.05144), section 2; Dai et al. 2022 (2209.11755), section 3; "
        "Li et al. 2023 (2308.06259), section 2; Wei et al. 2023 (2312.02120), section 2; Patil et al. 2023 (2305.15334), section 3; "
        "Qin et al. 2023 (2307.16789), section 2; Liu et al. 2023 (2304.08485), section 3"
    )
    block: ClassVar[str | None] = "gen.doc2x"
    keeps: ClassVar[bool] = False

    emit: Literal["query", "question", "instruction", "task", "call", "summary", "dialogue"] = "question"
    """What is made."""
    of: Literal["context", "tool", "program", "media"] | None = None
    """What the document is; absent: the `tool` for a `call`, else the passages of the `context`."""
    examples: Annotated[str, AfterValidator(check_path)] | None = None
    """JSONL file of the project with examples that the question shows: `document` and `text` (the query or whatever is made of it)."""
    extractive: bool = False
    """Whether the answer to a question must stand in the document, word for word."""
    show_document: bool = False
    """Whether the student's prompt holds the document, above the question, the first turn of the dialogue or the request."""
    num_turns: int = Field(2, ge=1, le=8)
    """Turns of a dialogue: a user's and an answer each."""
    max_turn_chars: int = Field(110, ge=8)
    """Longest text of a dialogue's user or answer."""
    max_value_chars: int = Field(60, ge=1)
    """Longest text among the arguments of a call."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in the teacher's tokens; raised later, only the answers that were cut are asked again."""

    @property
    def document(self) -> str:
        """The field of the row that is the document."""
        return self.of or ("tool" if self.emit == "call" else "context")

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the field that is the document, and the API of a call."""
        return tuple(dict.fromkeys((self.document, *(["tool"] if self.emit == "call" else []))))

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what the new rows have besides a prompt."""
        return tuple(dict.fromkeys((*WRITES[self.emit], *self.reads)))

    @property
    def prompts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the names of the templates that are used."""
        return (self.emit, *(["summary-prompt"] if self.emit == "summary" else []), *(["shown"] if self.show_document else []))

    def files(self) -> tuple[str, ...]:
        """Return the project's templates and the examples."""
        return (*super().files(), *([self.examples] if self.examples else []))

    # --- questions ---------------------------------------------------------------------------------------------------------------

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        return Extent() if self.document == "context" else super().most(given)

    def drafts(self, row: Row, scene: Scene) -> list[Draft] | Rejected:
        """Return a question for each new row of each document."""
        documents = [(text, part) for text, part in self._documents(row) if text.strip()]
        if not documents:
            return Rejected(f"no {self.document} to ask about")
        if self.emit == "call" and row.tool is None:
            return Rejected("no tool to ask about")
        shown = read_examples(scene.root, self.examples) if self.examples else ()
        found: list[Draft] = []
        for text, part in documents:
            values = {**self._values(row), "document": text, "part": part, "examples": shown}
            question = self.render(scene, row.id, values, self.emit)
            for n in range(self.per_row):
                own = self._form(row, n)
                if isinstance(own, Rejected):
                    return own
                stop = PARAGRAPH if self.emit in ("query", "instruction", "task") else ()
                found.append(Draft(question, own, values, n, stop))
        return found

    def _values(self, row: Row) -> dict[str, Any]:
        """Return what templates know besides the document; `noun` is what it is called in a sentence."""
        nouns = {"context": "text", "tool": "documentation", "program": "code", "media": (row.media or {}).get("type") or "picture"}
        view = self.document == "media"
        known = {"noun": nouns[self.document], "media_view": view, "show_document": self.show_document, "num_turns": self.num_turns}
        return {**values_of(row), **known}

    def _documents(self, row: Row) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (text, the fields of the new row that keep it)."""
        if self.document == "context":
            for passage in row.context:
                yield str(passage.get("text") or ""), {"context": (passage,)}
        elif self.document == "tool" and row.tool is not None:
            yield _described(row.tool), {}
        elif self.document == "program":
            yield row.program or "", {"program": row.program}
        elif self.document == "media" and row.media is not None:
            yield row.media.get("text_view") or "", {"media": row.media}

    def _form(self, row: Row, n: int) -> type[BaseModel] | Rejected | None:
        if self.emit == "question":
            return form(question=self.max_prompt_chars, answer=self.max_answer_chars)
        if self.emit == "dialogue":
            return _dialogue(self.num_turns, self.max_turn_chars)
        if self.emit == "call":
            parameters = (row.tool or {}).get("parameters")
            drawn = f"{row.id}/{n}"
            return call_form(parameters, drawn, max_request_chars=self.max_prompt_chars, max_value_chars=self.max_value_chars)
        return None

    # --- rows --------------------------------------------------------------------------------------------------------------------

    def row_of(self, read: dict[str, Any], draft: Draft, row: Row, scene: Scene, answered: Answered) -> Row | Rejected:
        """Return the row that an answer makes."""
        document = str(draft.values["document"])
        if self.emit == "question" and self.extractive and _plain(read["answer"]) not in _plain(document):
            return Rejected("an answer that is not in the document", answered.answer.text)
        made = self._turns(read, draft, row, scene, answered)
        if isinstance(made, Rejected):
            return made
        prompt, *rest = made
        if self.show_document:
            prompt = self.render(scene, row.id, {**draft.values, "prompt": prompt}, "shown").strip()
        ended = answered.answer.ended if self.emit == "summary" else True
        fields: dict[str, Any] = {**draft.values["part"], "keys": (answered.key,)}
        if row.tool is not None and "tool" in self.reads:
            fields["tool"] = row.tool
        if "gold" in WRITES[self.emit]:
            fields["gold"] = rest[-1]
        return scene.child([row], messages=turns(prompt, *rest, ended=ended), **fields)

    def _turns(self, read: dict[str, Any], draft: Draft, row: Row, scene: Scene, answered: Answered) -> list[str] | Rejected:
        if self.emit == "question":
            return [read["question"], read["answer"]]
        if self.emit == "call":
            name = (row.tool or {}).get("name", "")
            return [read["request"], canonical.dumps({"name": name, "arguments": read["arguments"]})]
        if self.emit == "summary":
            return [self.render(scene, row.id, dict(draft.values), "summary-prompt").strip(), read["text"]]
        if self.emit == "dialogue":
            return [text for turn in read["turns"] for text in (turn["user"].strip(), turn["assistant"].strip())]
        prompt = self.prompt_of(answered)
        if isinstance(prompt, Rejected):
            return prompt
        return [prompt, str(draft.values["document"])] if self.emit == "instruction" else [prompt]


@lru_cache(maxsize=32)
def _dialogue(num_turns: int, max_chars: int) -> type[BaseModel]:
    text = Annotated[str, Field(min_length=1, max_length=max_chars)]
    turn = create_model("Turn", user=(text, ...), assistant=(text, ...))
    return create_model("Dialogue", turns=(Annotated[list[turn], Field(min_length=num_turns, max_length=num_turns)], ...))


def _described(tool: dict[str, str]) -> str:
    lines = [f"{name}: {tool[name]}" for name in ("name", "description", "parameters", "returns") if tool.get(name)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
