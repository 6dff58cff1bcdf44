"""The teacher says the same in other words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Answered, Conversation, Made, Rejected, Scene
from kdbuild.elicitors._asking import Asking, values_of
from kdbuild.elicitors._extent import Extent, times
from kdbuild.elicitors._replies import code_in, same_words, unusable, unwrapped
from kdbuild.elicitors._rows import dropped, require_drawn, reworded, text_of, unasked, variant
from kdbuild.records import Row

Mode = Literal["paraphrase", "simplify", "formalise", "translate", "clean-code"]


class Rewrite(Asking):
    """Rewrite a row's prompt, answer or passages so that the meaning (and with it the label) stays.

    A rewritten prompt makes a child that keeps what else the row has; a rewritten answer or passage replaces the row's own, and of several
    variants each makes a child. `meta["rewritten"]` says how. Its template (named as the mode, or `instruction`) uses `text`, `language`,
    `instruction` and what else the row has.
    """

    kind: Literal["rewrite"] = "rewrite"
    source: ClassVar[str | None] = "Dai et al. 2023, AugGPT (2302.13007), section 3; Jain et al. 2023 (2311.14904): code cleaning"
    block: ClassVar[str | None] = "gen.rewrite"
    asks_once: ClassVar[bool] = True

    field: Literal["prompt", "answer", "context"] = "prompt"
    """What is rewritten: the last turn of the prompt, the turn the student learns, or each passage."""
    mode: Mode = "paraphrase"
    """How."""
    instruction: str | None = None
    """How, in your own words, instead of a mode."""
    language: str | None = None
    """The language of `mode: translate`."""
    num_variants: int = Field(1, ge=1, le=64)
    """Rewritings of each text; more than one needs a temperature above 0."""
    keep_original: bool = False
    """Whether the row itself goes on beside its variants."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        require_drawn("num_variants", self.num_variants, self.temperature)
        if (self.language is not None) != (self._name == "translate"):
            raise PydanticCustomError("rewrite_language", "`mode: translate` and `language` go together: say into which language")
        return self

    @property
    def _name(self) -> str:
        return self.mode if self.instruction is None else "instruction"

    @property
    def prompts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the one template of its mode."""
        return (self._name,)

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what is rewritten."""
        return (self.field,)

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what is rewritten, besides a prompt."""
        return () if self.field == "prompt" else (self.field,)

    def most(self, given: Extent) -> Extent:
        """Return the most that it asks about `given`, and makes of it."""
        num_texts = None if self.field == "context" else 1
        return given.each(asks=times(self.num_variants, num_texts), rows=self.num_variants + self.keep_original)

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        """Ask for every variant of every text at once."""
        texts = self._texts(row)
        if isinstance(texts, Rejected):
            return texts
        values = {**values_of(row), "language": self.language or "", "instruction": self.instruction or ""}
        questions = [self.render(scene, row.id, {**values, "text": text}, self._name).strip() for text in texts]
        answered = yield [self.ask(scene, row.id, question, sample=i) for i in range(self.num_variants) for question in questions]
        made: list[Row] = [row] if self.keep_original else []
        problems: list[Rejected] = []
        for i in range(self.num_variants):
            variants = self._read(answered[i * len(texts) : (i + 1) * len(texts)], texts)
            if isinstance(variants, Rejected):
                problems.append(variants)
            else:
                made.append(self._row(row, scene, *variants))
        if not made and len(problems) == 1:
            return problems[0]
        return Made(made, dropped(self.kind, row, problems))

    def _texts(self, row: Row) -> list[str] | Rejected:
        if self.field == "prompt":
            return unasked(row) or [row.prompt[-1].content]
        found = [row.answer or ""] if self.field == "answer" else [str(passage.get("text") or "") for passage in row.context]
        if not found or not all(text.strip() for text in found):
            return Rejected(f"no {self.field} to rewrite", text_of(row.prompt))
        return found

    def _read(self, answered: Sequence[Answered], texts: Sequence[str]) -> tuple[list[str], list[str]] | Rejected:
        """Return the rewritten texts, and the keys of the answers that hold them."""
        found = []
        for one, text in zip(answered, texts, strict=True):
            problem = unusable(one.answer)
            if problem is not None:
                return problem
            new = code_in(one.answer.text) if self._name == "clean-code" else unwrapped(one.answer.text)
            if not new.strip():
                return Rejected("empty answer", one.answer.text)
            if new.strip() == text.strip() if self._name == "clean-code" else same_words(new, text):
                return Rejected("the same as before", new)
            found.append(new)
        return found, [one.key for one in answered]

    def _row(self, row: Row, scene: Scene, texts: Sequence[str], keys: Sequence[str]) -> Row:
        changes: dict[str, Any] = {"keys": (*row.keys, *keys), "meta": {**row.meta, "rewritten": self._name}}
        if self.field == "prompt":
            rest = row.messages[len(row.prompt) :]
            changes["messages"] = (*reworded(row.prompt, texts[0]), *rest)
        elif self.field == "answer":
            last = max(i for i, m in enumerate(row.messages) if m.train)
            turn = replace(row.messages[last], content=texts[0], ended=True)
            changes["messages"] = (*row.messages[:last], turn, *row.messages[last + 1 :])
        else:
            changes["context"] = tuple({**passage, "text": text} for passage, text in zip(row.context, texts, strict=True))
        alone = self.field != "prompt" and self.num_variants == 1 and not self.keep_original
        return replace(row, **changes) if alone else variant(scene, row, **changes)
