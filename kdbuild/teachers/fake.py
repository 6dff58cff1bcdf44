"""A teacher for trying a spec and for CI: free, instant, and the same everywhere."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kdbuild import canonical
from kdbuild.kinds import Knob
from kdbuild.teachers import Answer, Ask, Session, Signal, Teacher, _invented, row_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kdbuild.teachers._generate import Engine


_LABELS = ("entailment", "neutral", "contradiction")
"""Of what it classifies."""


class Fake(Teacher):
    """Answers with words chosen by the digest of the question, and has a tiny random network for signals.

    A token of its text is a word; the end of the answer counts as one. Its text does not depend on its revision. Where a schema is asked
    for, its text is a value of it; how likely given answers and labels are, it makes up as well. Readings are those of its network.
    """

    kind: Literal["fake"] = "fake"
    model: str = "fake"
    """Any name; part of what identifies an answer."""
    revision: str = ""
    """Any text; part of what identifies an answer."""
    answer: str | None = None
    """What it always answers; absent: words chosen by the question. Empty: it answers nothing."""
    fail_frac: float = Field(0.0, ge=0, le=1)
    """Share of the questions whose call fails, chosen by the question."""
    num_layers: int = Field(4, ge=1)
    """Layers of its network."""
    hidden_size: int = Field(64, ge=8, multiple_of=8)
    """Width of its network."""
    seed: int = Field(0, ge=0)
    """Decides the weights of its network."""
    calls_log: Annotated[str | None, Knob("a record of the calls, beside them")] = None
    """File that gets a line `row id<TAB>key` for each call."""
    latency_s: Annotated[float, Knob("how long it pretends to think")] = Field(0.0, ge=0)
    """Seconds each call takes."""

    @property
    def gives(self) -> frozenset[Signal]:
        """Everything: its network is here."""
        return frozenset(Signal)

    @contextmanager
    def open(self, root: Path, weights: Path | None) -> Iterator[Session]:
        """Open the teacher; it needs no files."""
        yield _Session(self, root)

    def load(self, root: Path, weights: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return a seeded random Llama and a tokenizer of bytes, the same on every machine."""
        from kdbuild.teachers import _network

        return _network.build(self.num_layers, self.hidden_size, self.seed)


@dataclass
class _Session(Session):
    teacher: Fake
    root: Path

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) in order; readings go through the network together."""
        identity = self.teacher.answer_identity(self.root)
        index = 0
        while index < len(asks):
            reading = []
            while index < len(asks):
                self._pretend(identity, asks[index])
                failed = self._failure(asks[index])
                if failed is not None or asks[index].reading is None:
                    yield index, failed or self._answer(asks[index])
                else:
                    reading.append(index)
                index += 1
            yield from self._read(asks, reading)

    def _pretend(self, identity: dict[str, Any], ask: Ask) -> None:
        if self.teacher.calls_log is not None:
            _append(self.root / self.teacher.calls_log, f"{ask.row}\t{row_key(identity, ask)}\n")
        if self.teacher.latency_s:
            time.sleep(self.teacher.latency_s)

    def _read(self, asks: Sequence[Ask], indices: list[int]) -> Iterator[tuple[int, Answer]]:
        if indices:
            for number, answer in self._engine.generate([asks[index] for index in indices]):
                yield indices[number], answer

    @cached_property
    def _engine(self) -> Engine:
        from kdbuild.teachers._generate import Engine

        return Engine(*self.teacher.load(self.root, None))

    def _failure(self, ask: Ask) -> Answer | None:
        if canonical.fraction("fake-fails", _question(ask)) >= self.teacher.fail_frac:
            return None
        return Answer("", False, _num_words(ask), 0, failed="the fake teacher fails here, as it was told to")

    def _answer(self, ask: Ask) -> Answer:
        question = _question(ask)
        if ask.choices:
            return _chosen(ask, question)
        if ask.classify is not None:
            scores = _invented.choice_logprobs(question, _LABELS)
            return Answer("", True, _num_words(ask), 0, labels=_LABELS, label_scores=scores)
        try:
            text = self._text(ask, question)
        except ValueError as error:
            return Answer("", False, _num_words(ask), 0, failed=f"the schema cannot be followed: {error}")
        words, limit = text.split(), ask.max_new_tokens
        if len(words) < limit:
            return Answer(text, True, _num_words(ask), len(words) + 1, logprob=_invented.logprob(question, len(words) + 1))
        return Answer(" ".join(words[:limit]), False, _num_words(ask), limit, logprob=_invented.logprob(question, limit))

    def _text(self, ask: Ask, question: str) -> str:
        if self.teacher.answer is not None:
            text = self.teacher.answer
        elif ask.schema is not None:
            text = json.dumps(_invented.instance(json.loads(ask.schema), question), ensure_ascii=False)
        else:
            text = _invented.text(question)
        ends = [text.find(stop) for stop in ask.stop]
        return text[: min((end for end in ends if end >= 0), default=len(text))]


def _question(ask: Ask) -> str:
    material: list[Any] = [[[m.role, m.content] for m in ask.messages], ask.sample, ask.seed]
    return canonical.digest(material if ask.schema is None else [*material, ask.schema])


def _chosen(ask: Ask, question: str) -> Answer:
    counts = tuple(max(1, len(choice.split())) for choice in ask.choices)
    if ask.needs is Signal.CHOICES:
        logprobs = _invented.choice_logprobs(question, ask.choices)
    else:
        logprobs = tuple(_invented.logprob(canonical.digest([question, text]), n) for text, n in zip(ask.choices, counts, strict=True))
    return Answer("", True, _num_words(ask), 0, logprobs=logprobs, num_choice_tokens=counts)


def _num_words(ask: Ask) -> int:
    return sum(len(m.content.split()) for m in ask.messages)


def _append(path: Path, line: str) -> None:
    # One write to a file opened for appending: lines of several processes never mix.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
