"""How well a model expects a row's text."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from kdbuild.elicitors import Rejected, Scene
from kdbuild.records import Row
from kdbuild.scorers import Scoring, _likelihood
from kdbuild.scorers._likelihood import NO_ANSWER, NO_PROMPT, Weighing


class Ppl(Weighing):
    """Mean log-probability of a token, in nats, of the answer after its prompt or of the prompt by itself; or the perplexity.

    The end of the turn is not counted. A text is likelier the higher `logprob` is, and the lower `perplexity` is (1 at best). A row
    without a prompt has its answer read on its own.
    """

    kind: Literal["ppl"] = "ppl"
    source: ClassVar[str | None] = "Bonifacio et al. 2022 (2202.05144), section 2: keep by the mean log-probability of the tokens"
    block: ClassVar[str | None] = "score.ppl"

    of: Literal["answer", "prompt"] = "answer"
    """The text: the answer after all turns before it, or what the user says first, on its own."""
    measure: Literal["logprob", "perplexity"] = "logprob"
    """`logprob` is the mean log-probability of a token; `perplexity` is exp of minus that."""

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the text that is read."""
        return ("answer|candidates",) if self.of == "answer" else ("prompt",)

    @property
    def by_candidate(self) -> bool:  # type: ignore[override]
        """Whether there may be several texts."""
        return self.of == "answer"

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Ask once."""
        text = _likelihood.answer_of(row) if self.of == "answer" else _likelihood.prompt_of(row)
        if text is None:
            return NO_ANSWER if self.of == "answer" else NO_PROMPT
        before = _likelihood.before_answer(row) if self.of == "answer" else ()
        (answered,) = yield [_likelihood.ask(scene, row.id, text, before)]
        found = _likelihood.read(answered)
        if isinstance(found, Rejected):
            return found
        return {"": found.per_token if self.measure == "logprob" else perplexity(found.per_token)}


def perplexity(per_token: float) -> float:
    """Return the perplexity of a mean log-probability (nats); infinite where it is too large for a number."""
    try:
        return math.exp(-per_token)
    except OverflowError:
        return math.inf
