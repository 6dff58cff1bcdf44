"""Answers recorded before, as a teacher: for tests of a spec, and for data that was bought elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kdbuild import records
from kdbuild.inside import inside
from kdbuild.teachers import Answer, Ask, Session, Signal, Teacher, _recordings
from kdbuild.teachers._recordings import Recording

_PROMPT_CHARACTERS = 60


class Replay(Teacher):
    """Gives recorded answers, of any teacher, and fails what was not recorded.

    To record, build once with the real teacher, and copy the `calls/` and `features/` of its stages into the project: they hold every
    answer. A directory whose manifest names its `teachers` is searched by the question, as the row store is; any other by the row's id,
    where a row has one answer only.

    A recording can be written by hand too, as a JSONL file that is searched by the question's messages. A line of it:
    `{"messages": [{"role": ..., "content": ...}, ...], "answer": "...", "ended": true, "sample": 0}`; the last two may be left out. A
    token of it is a word, and a schema asked for is taken as followed. Given answers have `"choices": [...], "logprobs": [...]` instead
    of the answer and, where a likelihood per token is wanted, `"num_choice_tokens": [...]`; those that nothing stands before have
    `"messages": []`.
    """

    kind: Literal["replay"] = "replay"

    path: str | Annotated[list[str], Field(min_length=1)]
    """JSONL file, `calls/` or `features/` directory of the project, or a list of them, searched in order."""
    model: str = "recorded"
    """Who answered, for people; part of what identifies an answer."""
    revision: str = ""
    """Any text; part of what identifies an answer."""

    @property
    def gives(self) -> frozenset[Signal]:
        """Return what its recordings can hold. Whole distributions they may hold too, but a network, which goes with them, they are not."""
        stages = any(not path.endswith(".jsonl") for path in self.files())
        always = {Signal.TEXT, Signal.CHOICES, Signal.LIKELIHOOD}
        return frozenset(always | {Signal.TOP_K, Signal.HIDDEN} if stages else always)

    def files(self) -> tuple[str, ...]:
        """Return the recordings."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)

    def answer_identity(self, root: Path) -> dict[str, Any]:
        """Return the identity, the recordings by their content."""
        found = [inside(root, path) for path in self.files()]
        contents = [records.sha256_of(path / records.MANIFEST if path.is_dir() else path) for path in found]
        facts = {name: value for name, value in self.identity().items() if name != "path"}
        return {**facts, "recording": contents[0] if len(contents) == 1 else contents}

    @contextmanager
    def open(self, root: Path, weights: Path | None) -> Iterator[Session]:
        """Read the recordings.

        Raises:
            RowError: a line is not a recorded answer; names file:line.
            ArtifactError: a directory is not a data set of answers.
        """
        yield _Session({path: _recordings.opened(inside(root, path), path) for path in self.files()})


@dataclass
class _Session(Session):
    recordings: dict[str, Recording]

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        for index, ask in enumerate(asks):
            yield index, self._answer(ask)

    def _answer(self, ask: Ask) -> Answer:
        missing = []
        for path, recording in self.recordings.items():
            found = recording.find(ask)
            if isinstance(found, Answer):
                return found
            missing.append(f"{path} has {found}")
        start = " ".join((ask.messages[-1].content if ask.messages else "").split())[:_PROMPT_CHARACTERS]
        return Answer("", False, 0, 0, failed=f"{', '.join(missing)} recorded for row `{ask.row}` ({start!r})")
