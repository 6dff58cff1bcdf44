"""Answers that were recorded: lines that people can write, and what the stages of another build wrote."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbuild import canonical, records
from kdbuild.errors import ArtifactError, RowError
from kdbuild.records import Call, Feature, Message
from kdbuild.teachers import Answer, Ask, Operation, row_key

_HINT = 'a line is {"messages": [{"role": "user", "content": "..."}], "answer": "..."}, or has "choices" and "logprobs" instead of "answer"'


class Recording(ABC):
    """Answers to be found again."""

    @abstractmethod
    def find(self, ask: Ask) -> Answer | str:
        """Return the answer to a question, or what is recorded instead of one: `no answer`, `2 answers`."""


def opened(path: Path, name: str) -> Recording:
    """Return the recording in a file of lines, or in a `calls/` or `features/` directory.

    Raises:
        RowError: a line is not a recorded answer; names file:line, the file as `name`.
        ArtifactError: the directory is not a data set of answers.
    """
    if path.is_file():
        return _Lines(_by_question(path, name))
    manifest = records.read_manifest(path)
    held = list(_features(path) if manifest.get("record") == Feature.__name__ else _calls(path))
    teachers = manifest.get("teachers", {})
    return _Held(held, {actor: teacher["identity"] for actor, teacher in teachers.items()})


# --- what stages wrote -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """One answer as a stage kept it."""

    row: str
    key: str
    max_new_tokens: int
    answer: Answer
    reading: str | None = None
    """Canonical JSON of the `Reading` it was asked for."""

    def fits(self, ask: Ask) -> bool:
        """Return whether it can be an answer to such a question, the limit aside."""
        if ask.operation is Operation.READ:
            return self.reading == _plain(ask)
        return self.reading is None and len(self.answer.logprobs) == len(ask.choices)

    def serves(self, limit: int) -> bool:
        """Return whether a question with this limit (tokens) would have had this answer."""
        return self.answer.num_new_tokens <= limit if self.answer.ended else self.max_new_tokens == limit


class _Held(Recording):
    """Finds by the question where the recording says who answered, else by the row, if it has only one answer that fits."""

    def __init__(self, held: Sequence[_Kept], identities: Mapping[str, Mapping[str, Any]]) -> None:
        self._identities = identities
        self._by_key: dict[str, list[_Kept]] = defaultdict(list)
        self._by_row: dict[str, list[_Kept]] = defaultdict(list)
        for one in held:
            self._by_key[one.key].append(one)
            self._by_row[one.row].append(one)

    def find(self, ask: Ask) -> Answer | str:
        """Return the answer; its tokens are another teacher's, and cannot be cut or continued here."""
        known = self._known(ask)
        serving = {one.key: one.answer for one in known if one.serves(ask.max_new_tokens)}
        if len(serving) == 1 and len({one.key for one in known}) == 1:
            return next(iter(serving.values()))
        keys = {one.key for one in known}
        if len(keys) > 1:
            return f"{len(keys)} answers"
        return f"no answer for a limit of {ask.max_new_tokens} tokens" if known else "no answer"

    def _known(self, ask: Ask) -> list[_Kept]:
        if not self._identities:
            return [one for one in self._by_row.get(ask.row, ()) if one.fits(ask)]
        # The actor's own answers first: several may have answered the same question.
        for actor in sorted(self._identities, key=lambda actor: (actor != ask.to, actor)):
            if found := self._by_key.get(row_key(self._identities[actor], ask)):
                return found
        return []


def _calls(folder: Path) -> Iterator[_Kept]:
    for call in records.read_dataset(folder, Call):
        answer = _answer(call.answer, b"", folder)
        if answer.failed is None:
            yield _Kept(call.id, call.key, call.max_new_tokens, answer)


def _features(folder: Path) -> Iterator[_Kept]:
    from kdbuild.teachers._feature_files import FeatureFiles

    for one in FeatureFiles(folder):
        yield _Kept(one.id, one.key, one.max_new_tokens, _answer(one.answer, one.payload, folder), one.reading)


def _plain(ask: Ask) -> str:
    return canonical.dumps(ask.material().get("reading"))


def _answer(text: str, payload: bytes, folder: Path) -> Answer:
    try:
        values = json.loads(text)
        logprobs, counts = tuple(values.pop("logprobs", ())), tuple(values.pop("num_choice_tokens", ()))
        signals = b64decode(values.pop("payload", ""))
        return Answer(**values, logprobs=logprobs, num_choice_tokens=counts, payload=payload or signals)
    except (ValueError, TypeError, AttributeError):
        raise ArtifactError(f"{folder} holds an answer that is none: {text[:80]!r}") from None


# --- lines that people write -----------------------------------------------------------------------------------------------


@dataclass
class _Lines(Recording):
    """Finds by the question's messages, sample and given answers. A token is a word."""

    answers: dict[str, Answer]

    def find(self, ask: Ask) -> Answer | str:
        if ask.operation is Operation.READ:
            return "no signals"
        turns = [[m.role, m.content] for m in ask.messages]
        answer = self.answers.get(_question(turns, ask.sample, ask.choices))
        if answer is None or ask.choices:
            return answer or "no answer"
        return _cut(answer, ask)


def _cut(answer: Answer, ask: Ask) -> Answer:
    """Return a recorded text as it would have come with the question's stops and limit."""
    ends = [at for at in (answer.text.find(stop) for stop in ask.stop) if at >= 0]
    if ends:
        text = answer.text[: min(ends)]
        answer = replace(answer, text=text, ended=True, num_new_tokens=len(text.split()) + 1)
    if answer.num_new_tokens <= ask.max_new_tokens and answer.ended:
        return answer
    words = answer.text.split()
    text = answer.text if len(words) <= ask.max_new_tokens else " ".join(words[: ask.max_new_tokens])
    # A recorded answer that was cut, or is longer than the limit, counts as cut at this limit.
    return replace(answer, text=text, ended=False, num_new_tokens=ask.max_new_tokens)


def _question(messages: list[list[str]], sample: int, choices: Sequence[str]) -> str:
    return canonical.digest([messages, sample, list(choices)])


def _by_question(file: Path, name: str) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                question, answer = _line(line, f"{name}:{number}")
                if found.setdefault(question, answer) != answer:
                    raise RowError(f"{name}:{number}: this question has another answer above", hint="give each its `sample` number")
    return found


def _line(line: bytes, where: str) -> tuple[str, Answer]:
    try:
        value = json.loads(line)
        turns = [Message(str(m["role"]), m["content"]) for m in value["messages"]]
        choices, logprobs, counts = value.get("choices", []), value.get("logprobs", []), value.get("num_choice_tokens", [])
        text, ended, sample = "" if choices else value["answer"], value.get("ended", True), value.get("sample", 0)
    except KeyError as error:
        raise RowError(f"{where}: not a recorded answer: it has no {error}", hint=_HINT) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise RowError(f"{where}: not a recorded answer: {error}", hint=_HINT) from None
    if not all(isinstance(t.content, str) for t in turns) or not isinstance(text, str):
        raise RowError(f"{where}: `content` and `answer` are texts", hint=_HINT)
    if type(ended) is not bool or type(sample) is not int:
        raise RowError(f"{where}: `ended` is true or false, and `sample` a whole number", hint=_HINT)
    if not _are_choices(choices, logprobs):
        raise RowError(f"{where}: `choices` are texts, and `logprobs` as many numbers, none above 0", hint=_HINT)
    if not _are_counts(counts, choices):
        raise RowError(f"{where}: `num_choice_tokens` are as many whole numbers as `choices`, all above 0", hint=_HINT)
    num_prompt, num_words = sum(len(t.content.split()) for t in turns), len(text.split())
    num_new = 0 if choices else num_words + 1 if ended else num_words
    answer = Answer(text, ended, num_prompt, num_new, logprobs=tuple(map(float, logprobs)), num_choice_tokens=tuple(counts))
    return _question([[t.role, t.content] for t in turns], sample, choices), answer


def _are_choices(choices: Any, logprobs: Any) -> bool:
    if not isinstance(choices, list) or not isinstance(logprobs, list) or len(choices) != len(logprobs):
        return False
    # A number that is none (NaN) is not above 0 either, nor below it.
    return all(isinstance(c, str) for c in choices) and all(type(value) in (int, float) and value <= 0 for value in logprobs)


def _are_counts(counts: Any, choices: Sequence[str]) -> bool:
    return isinstance(counts, list) and len(counts) in (0, len(choices)) and all(type(count) is int and count > 0 for count in counts)
