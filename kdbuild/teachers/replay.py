"""Answers recorded before, as a teacher: for tests of a spec, and for data that was bought elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kdbuild import canonical, records
from kdbuild.errors import RowError
from kdbuild.inside import inside
from kdbuild.records import Call, Message
from kdbuild.teachers import Answer, Ask, Session, Teacher

_PROMPT_CHARACTERS = 60


class Replay(Teacher):
    """Gives recorded answers: of a JSONL file by the question's messages, of a `calls/` directory by the row's id.

    A line of the file: `{"messages": [{"role": ..., "content": ...}, ...], "answer": "...", "ended": true, "sample": 0}`; the last
    two may be left out. A token of it is a word. A question that was not recorded fails.
    """

    kind: Literal["replay"] = "replay"

    path: str
    """JSONL file or `calls/` directory of the project."""
    model: str = "recorded"
    """Who answered, for people; part of what identifies an answer."""
    revision: str = ""
    """Any text; part of what identifies an answer."""

    def files(self) -> tuple[str, ...]:
        """Return the recording."""
        return (self.path,)

    def answer_identity(self, root: Path) -> dict[str, Any]:
        """Return the identity, the recording by its content."""
        found = inside(root, self.path)
        content = records.sha256_of(found / records.MANIFEST if found.is_dir() else found)
        return {**{name: value for name, value in self.identity().items() if name != "path"}, "recording": content}

    @contextmanager
    def open(self, root: Path, weights: Path | None) -> Iterator[Session]:
        """Read the recording.

        Raises:
            RowError: a line is not a recorded answer; names file:line.
            ArtifactError: the directory is not a `calls/` data set.
        """
        found = inside(root, self.path)
        yield _Calls(self.path, _by_row(found)) if found.is_dir() else _Lines(self.path, _by_question(found, self.path))


@dataclass
class _Lines(Session):
    path: str
    answers: dict[str, Answer]

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        for index, ask in enumerate(asks):
            answer = self.answers.get(_question([[m.role, m.content] for m in ask.messages], ask.sample))
            yield index, _missing(self.path, ask) if answer is None else _cut(answer, ask.max_new_tokens)


@dataclass
class _Calls(Session):
    path: str
    answers: dict[str, list[Answer]]

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        for index, ask in enumerate(asks):
            yield index, self._answer(ask)

    def _answer(self, ask: Ask) -> Answer:
        known = self.answers.get(ask.row, [])
        if len(known) != 1:
            return _missing(self.path, ask, f"{len(known)} answers" if known else "no answer")
        if known[0].num_new_tokens <= ask.max_new_tokens and (known[0].ended or known[0].num_new_tokens == ask.max_new_tokens):
            return known[0]
        # Its tokens are another teacher's and cannot be cut or continued here.
        return _missing(self.path, ask, f"no answer for a limit of {ask.max_new_tokens} tokens")


def _missing(path: str, ask: Ask, what: str = "no answer") -> Answer:
    start = " ".join((ask.messages[-1].content if ask.messages else "").split())[:_PROMPT_CHARACTERS]
    return Answer("", False, 0, 0, failed=f"{path} has {what} recorded for row `{ask.row}` ({start!r})")


def _cut(answer: Answer, max_new_tokens: int) -> Answer:
    words = answer.text.split()
    if answer.num_new_tokens <= max_new_tokens and answer.ended:
        return answer
    text = answer.text if len(words) <= max_new_tokens else " ".join(words[:max_new_tokens])
    # A recorded answer that was cut, or is longer than the limit, counts as cut at this limit.
    return replace(answer, text=text, ended=False, num_new_tokens=max_new_tokens)


def _question(messages: list[list[str]], sample: int) -> str:
    return canonical.digest([messages, sample])


def _by_row(folder: Path) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for call in records.read_dataset(folder, Call):
        values = json.loads(call.answer)
        if values.get("failed") is None:
            found.setdefault(call.id, []).append(Answer(**values))
    return found


def _by_question(file: Path, name: str) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                question, answer = _read(line, f"{name}:{number}")
                if found.setdefault(question, answer) != answer:
                    raise RowError(f"{name}:{number}: this question has another answer above", hint="give each its `sample` number")
    return found


def _read(line: bytes, where: str) -> tuple[str, Answer]:
    hint = 'a line is {"messages": [{"role": "user", "content": "..."}], "answer": "..."}'
    try:
        value = json.loads(line)
        turns = [Message(str(m["role"]), m["content"]) for m in value["messages"]]
        text, ended, sample = value["answer"], value.get("ended", True), value.get("sample", 0)
    except KeyError as error:
        raise RowError(f"{where}: not a recorded answer: it has no {error}", hint=hint) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise RowError(f"{where}: not a recorded answer: {error}", hint=hint) from None
    if not all(isinstance(t.content, str) for t in turns) or not isinstance(text, str):
        raise RowError(f"{where}: `content` and `answer` are texts", hint=hint)
    if type(ended) is not bool or type(sample) is not int:
        raise RowError(f"{where}: `ended` is true or false, and `sample` a whole number", hint=hint)
    num_words = len(text.split())
    answer = Answer(text, ended, sum(len(t.content.split()) for t in turns), num_words + 1 if ended else num_words)
    return _question([[t.role, t.content] for t in turns], sample), answer
