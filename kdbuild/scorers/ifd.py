"""How much of an answer its instruction explains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from kdbuild.elicitors import Rejected, Scene
from kdbuild.elicitors._asking import Templated, values_of
from kdbuild.records import Message, Row
from kdbuild.scorers import Scoring, _likelihood
from kdbuild.scorers._likelihood import NO_ANSWER, NO_PROMPT, Likelihood, Weighing


class Ifd(Templated, Weighing):
    """Instruction-following difficulty: how hard the answer is with the instruction, by how hard it is without.

    Near 1 the instruction tells nothing of the answer; above 1 the two do not fit. Kept are rows below 1, the highest first. `reversed`
    is the same of the instruction: how hard it is to guess from the answer, by how hard it is by itself; kept are the lowest.
    A small model orders rows much as a large one does: `by: <a small teacher>`.
    """

    kind: Literal["ifd"] = "ifd"
    source: ClassVar[str | None] = (
        "Li et al. 2023 (2308.12032), equation 3: IFD; Li et al. 2024 (2402.10110), section 3.2: reversed IFD; "
        "Li et al. 2024 (2402.00530), section 3: ratio of perplexities, by a weak model"
    )
    block: ClassVar[str | None] = "score.ifd"
    prompts: ClassVar[tuple[str, ...]] = ("guess",)
    reads: ClassVar[tuple[str, ...]] = ("prompt", "answer|candidates")
    asks_each: ClassVar[int | None] = 2

    measure: Literal["perplexity", "loss"] = "perplexity"
    """What is divided: perplexities, or mean losses of a token."""
    reversed: bool = False
    """Whether the instruction is read after the answer (template `guess`), instead of the answer after the instruction."""

    @model_validator(mode="after")
    def _template_is_used(self) -> Self:
        if self.template is not None and not self.reversed:
            raise PydanticCustomError("ifd_template", "`template` asks for the instruction, which only `reversed: true` does")
        return self

    def templates(self) -> tuple[Path, ...]:
        """Return the packaged template, where it is used."""
        return super().templates() if self.reversed else ()

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Ask for the text after the other one and, together with that, on its own."""
        answer, prompt = _likelihood.answer_of(row), _likelihood.prompt_of(row)
        if answer is None or prompt is None:
            return NO_PROMPT if prompt is None else NO_ANSWER
        text, before = answer, _likelihood.before_answer(row)
        if self.reversed:
            text, before = prompt, (Message("user", self.render(scene, row.id, values_of(row), "guess").strip()),)
        found = _likelihood.read_all((yield [_likelihood.ask(scene, row.id, text, before), _likelihood.ask(scene, row.id, text)]))
        return found if isinstance(found, Rejected) else {"": self._ratio(*found)}

    def _ratio(self, given: Likelihood, alone: Likelihood) -> float:
        """Return the ratio; not finite where it is not a number."""
        try:
            if self.measure == "perplexity":
                return math.exp(alone.per_token - given.per_token)
            return given.per_token / alone.per_token
        except (OverflowError, ZeroDivisionError):
            return math.inf
