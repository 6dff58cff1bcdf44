"""The teacher makes new rows of meta-information: a topic, a label, an entity, a function's name, a persona."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from kdbuild.elicitors import Answered, Rejected, Scene
from kdbuild.elicitors._asking import values_of
from kdbuild.elicitors._made import drawn
from kdbuild.elicitors._making import PARAGRAPH, Draft, Making, form, turns
from kdbuild.records import Message, Row


class Curate(Making):
    """Ask for something about what a row's `meta` says: `kind` (what it is), `value` (which one), and attributes.

    `instruction` and `goal` make a prompt, `sample` the text that a label fits (`meta.value` is the label), `pair` a question with its
    answer, `passage` a short instruction whose answer is the passage, as of a textbook. The new rows keep the `meta`. Templates have the
    name of what is made, and write from `meta`, `about` (the attributes, a line each), `persona` and what else a row has;
    `passage-prompt` writes the prompt that the student sees before a passage.
    """

    kind: Literal["curate"] = "curate"
    source: ClassVar[str | None] = (
        "2402.13116, Eq. 5; Ding et al. 2023 (2305.14233), section 3; Gunasekar et al. 2023 (2306.11644), section 2; "
        "Ye et al. 2022 (2202.07922), section 2; Meng et al. 2022 (2202.04538), section 3; Wang et al. 2023 (2304.06975), section 3.2"
    )
    block: ClassVar[str | None] = "gen.curate"
    reads: ClassVar[tuple[str, ...]] = ("meta.value",)
    keeps: ClassVar[bool] = False

    emit: Literal["instruction", "passage", "sample", "pair", "goal"] = "instruction"
    """What is made."""
    personas: list[str] = []
    """Who asks, or who is written for: each question takes one, drawn by the row's id and the number of the question."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in the teacher's tokens; raised later, only the answers that were cut are asked again."""

    @property
    def prompts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the names of the templates that are used."""
        return (self.emit, "passage-prompt") if self.emit == "passage" else (self.emit,)

    @property
    def writes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return what the new rows have besides a prompt."""
        return {"pair": ("answer", "meta"), "passage": ("answer", "meta"), "sample": ("label", "gold", "meta")}.get(self.emit, ("meta",))

    def drafts(self, row: Row, scene: Scene) -> list[Draft] | Rejected:
        """Return a question for each new row."""
        if not row.meta.get("value", "").strip():
            return Rejected("no `value` in its meta")
        return [self._draft(row, scene, n) for n in range(self.per_row)]

    def _draft(self, row: Row, scene: Scene, n: int) -> Draft:
        persona = drawn(list(dict.fromkeys(self.personas)), 1, "persona", row.id, str(n)) if self.personas else [""]
        about = "\n".join(f"{name}: {value}" for name, value in sorted(row.meta.items()) if name not in ("kind", "value"))
        meta = {"kind": "topic", **row.meta}
        values = {**values_of(row), "meta": meta, "about": about, "persona": persona[0]}
        pair = form(question=self.max_prompt_chars, answer=self.max_answer_chars) if self.emit == "pair" else None
        stop = PARAGRAPH if self.emit in ("instruction", "goal", "sample") else ()
        return Draft(self.render(scene, row.id, values, self.emit), pair, values, n, stop)

    def row_of(self, read: dict[str, Any], draft: Draft, row: Row, scene: Scene, answered: Answered) -> Row | Rejected:
        """Return the row that an answer makes."""
        fields: dict[str, Any] = {"meta": row.meta, "keys": (answered.key,)}
        if self.emit == "passage":
            prompt = self.render(scene, row.id, dict(draft.values), "passage-prompt").strip()
            if not prompt:
                return Rejected("empty prompt before the passage", read["text"])
            return scene.child([row], messages=turns(prompt, read["text"], ended=answered.answer.ended), **fields)
        if self.emit == "pair":
            return scene.child([row], messages=turns(read["question"], read["answer"]), **fields)
        if self.emit == "sample":
            fields |= {"label": row.meta["value"], "gold": row.meta["value"]}
        text = self.prompt_of(answered)
        return text if isinstance(text, Rejected) else scene.child([row], messages=(Message("user", text),), **fields)
