"""How much something helps a model to expect a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.elicitors import Answered, Conversation, Made, Rejected, Scene
from kdbuild.elicitors._insertion import call_text
from kdbuild.records import Dropped, Message, Row
from kdbuild.scorers import Scores, Scoring, _likelihood, _without
from kdbuild.scorers._likelihood import NO_ANSWER, NO_PROMPT, Likelihood, Weighing
from kdbuild.teachers import Ask

_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True)
class _Probe:
    """A row that is answered with and without a demonstration."""

    id: str
    before: tuple[Message, ...]
    answer: str


class Gain(Weighing):
    """The loss (nats a token) without something minus the loss with it: above 0 it helps.

    `of: context` is about the row's passages, before its prompt. `of: tool` is about the results of calls: calls inside a text are tried
    on the `num_words` words after them, each before the whole text, and the least helpful one counts; of a conversation with turns of
    tools, all results together are tried on the answer. "Without" is then the better of no call and a call without its result.

    `of: demonstration` is the share of probes whose answer is likelier with this row as the one example before them. Probes are rows of
    `probes`, or of the rows scored, without the row itself.
    """

    kind: Literal["gain"] = "gain"
    source: ClassVar[str | None] = (
        "Schick et al. 2023 (2302.04761), section 2: loss with and without a call; Xu et al. 2024 (2310.04408), section 3: of passages; "
        "Li et al. 2023 (2312.10302), equation 3: the golden score of a demonstration"
    )
    block: ClassVar[str | None] = "score.gain"

    of: Literal["context", "tool", "demonstration"] = "context"
    """What may help."""
    num_words: int = Field(5, ge=1)
    """Of a call inside a text: how many words after it are to be expected better."""
    probes: str | None = None
    """Of a demonstration: data set of an earlier phase, `<phase>` or `<spec>/<phase>`, that probes are taken from; absent: the rows
    that are scored."""
    num_probes: int = Field(100, ge=1)
    """Probes at most, drawn by the digests of their ids."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.probes is not None and self.of != "demonstration":
            raise PydanticCustomError("gain_probes", "`probes` are for `of: demonstration`")
        return self

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Return the answer, and what may help."""
        return {
            "context": ("answer|candidates", "context"),
            "tool": ("answer", "trajectory"),
            "demonstration": ("prompt", "answer"),
        }[self.of]

    @property
    def by_candidate(self) -> bool:  # type: ignore[override]
        """Whether there may be several texts."""
        return self.of == "context"

    @property
    def pooled(self) -> bool:  # type: ignore[override]
        """Whether the probes are drawn from all rows."""
        return self.of == "demonstration" and self.probes is None

    @property
    def pools(self) -> tuple[str, ...]:
        """Return where probes are taken from."""
        return () if self.probes is None else (self.probes,)

    @property
    def asks_each(self) -> int | None:  # type: ignore[override]
        """Two for each pair of with and without; a text may hold any number of calls."""
        return {"context": 2, "tool": None, "demonstration": 2 * self.num_probes}[self.of]

    def score(self, row: Row, scene: Scene) -> Scoring:
        """Ask for everything at once."""
        if _likelihood.answer_of(row) is None:
            return NO_ANSWER
        if self.of == "context":
            return (yield from self._of_context(row, scene))
        if self.of == "tool":
            return (yield from self._of_tool(row, scene))
        probes = _probes([one for one in scene.pools[self.probes or ""] if one.id != row.id], self.num_probes)
        base = [_likelihood.ask(scene, probe.id, probe.answer, probe.before) for probe in probes]
        own = [_shown(scene, row, probe) for probe in probes]
        answered = yield [*base, *own]
        return _share(answered[len(base) :], answered[: len(base)])

    # --- passages and tools ------------------------------------------------------------------------------------------------------

    def _of_context(self, row: Row, scene: Scene) -> Scoring:
        if not _likelihood.passages(row):
            return Rejected("no context to try")
        answer = row.answer or ""
        found = _likelihood.read_all((yield [_likelihood.ask(scene, row.id, answer, turns) for turns in _without.with_context(row)]))
        return found if isinstance(found, Rejected) else {"": found[0].per_token - found[1].per_token}

    def _of_tool(self, row: Row, scene: Scene) -> Scoring:
        turns = _likelihood.before_answer(row)
        if any(turn.role == "tool" for turn in turns):
            tried = [turns, _without.without_calls(turns), _without.without_results(turns)]
            found = _likelihood.read_all((yield [_likelihood.ask(scene, row.id, row.answer or "", one) for one in tried]))
            return found if isinstance(found, Rejected) else {"": _least_gain([one.per_token for one in found])}
        plain, calls = _without.calls_in(row.answer or "", row.trajectory)
        texts = [pair for call in calls for pair in self._with_and_without(plain, call)]
        if not texts:
            return Rejected("no call to try")
        found = _likelihood.read_all((yield [_likelihood.ask(scene, row.id, text, turns) for text in texts]))
        if isinstance(found, Rejected):
            return found
        losses = [_rest(*found[i : i + 2]) for i in range(0, len(found), 2)]
        return {"": min(_least_gain(losses[i : i + 3]) for i in range(0, len(losses), 3))}

    def _with_and_without(self, plain: str, call: _without.CallIn) -> list[str]:
        """Return the text up to the call and up to the end of the words after it: behind the call with its result, bare, and behind the
        call alone.
        """
        head = plain[: call.offset].rstrip()
        words = _WORD.findall(plain[len(head) :])[: self.num_words]
        if not words:
            return []
        whole = head + "".join(words)
        shown = [f"{call_text(call.step, call.step.observation)} ", "", f"{call_text(call.step, '')} "]
        # Where the call is the first thing in a text, there is no text before it: a word has its space with it.
        return [f"{before}{text}" for before in shown for text in (head or words[0], whole)]

    # --- demonstrations ----------------------------------------------------------------------------------------------------------

    def gather(self, rows: Sequence[Row], scene: Scene) -> Conversation:
        """Ask about every row as the demonstration of every probe; an answer that failed costs its probe, or its row."""
        fit = [row for row in rows if _unfit(row) is None]
        probes = _probes(fit, self.num_probes + 1)  # one more: a row is not its own probe
        base = [_likelihood.ask(scene, probe.id, probe.answer, probe.before) for probe in probes]
        tried = {row.id: [i for i, probe in enumerate(probes) if probe.id != row.id][: self.num_probes] for row in fit}
        answered = yield [*base, *(_shown(scene, row, probes[i]) for row in fit for i in tried[row.id])]
        at, found = len(base), dict[str, Scores | Rejected]()
        for row in fit:
            own = answered[at : at + len(tried[row.id])]
            at += len(own)
            found[row.id] = _share(own, [answered[i] for i in tried[row.id]])
        return self._made(rows, found)

    def _made(self, rows: Sequence[Row], found: dict[str, Scores | Rejected]) -> Made:
        made = Made([])
        for row in rows:
            scores = found.get(row.id) or _unfit(row) or NO_ANSWER
            result = scores if isinstance(scores, Rejected) else self.given(row, scores)
            if isinstance(result, Rejected):
                made.dropped.append(Dropped(row.id, self.kind, result.reason, text=result.text))
            else:
                made.rows.extend(result)
        return made


def _least_gain(per_token: Sequence[float]) -> float:
    """Return the gain of log-probabilities a token with help (the first) over the best of those without."""
    return per_token[0] - max(per_token[1:])


def _rest(head: Likelihood, whole: Likelihood) -> float:
    """Return the log-probability a token of what a text has more than its beginning."""
    return (whole.logprob - head.logprob) / max(1, whole.num_tokens - head.num_tokens)


def _unfit(row: Row) -> Rejected | None:
    if _likelihood.answer_of(row) is None:
        return NO_ANSWER
    return None if _likelihood.prompt_of(row) else NO_PROMPT


def _probes(rows: Sequence[Row], count: int) -> list[_Probe]:
    """Return so many rows, those with the lowest digests, as probes."""
    drawn = sorted((row for row in rows if _unfit(row) is None), key=lambda row: (canonical.fraction("probe", row.id), row.id))
    return [_Probe(row.id, _likelihood.before_answer(row), row.answer or "") for row in drawn[:count]]


def _shown(scene: Scene, row: Row, probe: _Probe) -> Ask:
    """Return the question about a probe with a row as the example before it: system turns first, as templates want them."""
    example = (*_likelihood.before_answer(row), Message("assistant", row.answer or ""))
    system = [turn for turn in probe.before if turn.role == "system"]
    rest = [turn for turn in (*example, *probe.before) if turn.role != "system"]
    return _likelihood.ask(scene, row.id, probe.answer, (*system, *rest))


def _share(shown: Sequence[Answered], bare: Sequence[Answered]) -> Scores | Rejected:
    """Return the share of probes that are likelier with the example; a probe that could not be read bare is left out."""
    pairs = [(one, other) for one, other in zip(shown, bare, strict=True) if other.answer.failed is None]
    if not pairs:
        return Rejected("no probe to try it on")
    if any(one.answer.failed is not None for one, _ in pairs):
        return Rejected("a probe after it got no answer")
    found = [_likelihood.read_all(pair) for pair in pairs]
    rejected = next((one for one in found if isinstance(one, Rejected)), None)
    if rejected is not None:
        return rejected
    return {"": _likelihood.mean([float(one[0].logprob > one[1].logprob) for one in found if not isinstance(one, Rejected)])}
