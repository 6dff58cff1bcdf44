"""A teacher for trying a spec and for CI: free, instant, and the same everywhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from kdbuild import canonical
from kdbuild.kinds import Knob
from kdbuild.teachers import Answer, Ask, Session, Signal, Teacher, row_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WORDS = (
    *("the", "a", "one", "this", "each", "small", "large", "first", "last", "good", "plain", "open", "warm", "early", "river", "stone"),
    *("garden", "letter", "morning", "winter", "market", "table", "teacher", "student", "question", "answer", "number", "reason"),
    *("story", "window", "paper", "bread", "music", "road", "is", "has", "gives", "takes", "keeps", "finds", "makes", "shows", "opens"),
    *("needs", "and", "or", "but", "then", "because", "before", "after", "with", "from", "into", "over", "under", "near", "slowly"),
    *("often", "always", "never", "perhaps", "today"),
)
_FEWEST, _MOST = 3, 40


class Fake(Teacher):
    """Answers with words chosen by the digest of the question, and has a tiny random network for signals.

    A token of its text is a word; the end of the answer counts as one. Its text does not depend on its revision.
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
        identity = self.teacher.answer_identity(self.root)
        for index, ask in enumerate(asks):
            if self.teacher.calls_log is not None:
                _append(self.root / self.teacher.calls_log, f"{ask.row}\t{row_key(identity, ask)}\n")
            if self.teacher.latency_s:
                time.sleep(self.teacher.latency_s)
            yield index, self._answer(ask)

    def _answer(self, ask: Ask) -> Answer:
        question = canonical.digest([[[m.role, m.content] for m in ask.messages], ask.sample, ask.seed])
        num_prompt_tokens = sum(len(m.content.split()) for m in ask.messages)
        if canonical.fraction("fake-fails", question) < self.teacher.fail_frac:
            return Answer("", False, num_prompt_tokens, 0, failed="the fake teacher fails here, as it was told to")
        words = _text(question).split() if self.teacher.answer is None else self.teacher.answer.split()
        if len(words) < ask.max_new_tokens:
            text = " ".join(words) if self.teacher.answer is None else self.teacher.answer
            return Answer(text, True, num_prompt_tokens, len(words) + 1)
        return Answer(" ".join(words[: ask.max_new_tokens]), False, num_prompt_tokens, ask.max_new_tokens)


def _text(question: str) -> str:
    count = _FEWEST + canonical.seed_of("count", question) % (_MOST - _FEWEST + 1)
    words = [_WORDS[canonical.seed_of("word", question, i) % len(_WORDS)] for i in range(count)]
    return " ".join(words).capitalize() + "."


def _append(path: Path, line: str) -> None:
    # One write to a file opened for appending: lines of several processes never mix.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
