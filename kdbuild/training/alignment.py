"""What a teacher with another tokenizer says, in the student's tokens.

Positions are aligned by the text: the student's token and the teacher's that begin at the same byte of the answer are predicted from the
same text. A student's token that begins inside a teacher's has no counterpart; there the answer's token itself is the target.

Words are aligned by what they say: the same bytes, else the student's word of least edit distance (Levenshtein, over bytes) among those
that begin with the same byte and differ in less than half of the longer word; the shorter, then the smaller id, of equal ones. A word
without a counterpart stays among the teacher's other tokens. The end of a turn is the end of a turn.

Source: Wan et al. 2024, FuseLLM, arXiv:2401.10491, section 3.2 (minimum edit distance), with offsets in the text in place of a search for
the alignment of the sequences, which the common text makes needless.
"""

# Shape suffixes: T positions of one row, K named tokens, N candidates of one length, V the student's words.

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdbuild.teachers._features import Array
from kdbuild.teachers._vocabulary import Vocabulary

NONE = -1
"""No counterpart."""


@dataclass(frozen=True)
class Counterparts:
    """How one row's signals are put into the student's tokens."""

    positions_T: Array
    """The teacher's position for each of the student's; NONE where there is none."""
    ends: tuple[tuple[int, int], ...] = ()
    """(teacher's, student's) control tokens that stand at the same place of this row."""


class Alignment:
    """From a teacher's tokens to the student's."""

    def __init__(self, teacher: Vocabulary, student: Vocabulary) -> None:
        self._teacher, self._student = teacher, student
        self._words: dict[int, int] = {}

    def row(self, teacher_ids: Sequence[int], student_ids: Sequence[int]) -> Counterparts | None:
        """Return the counterparts of an answer's tokens, of which the student may have a prefix; None where the texts differ."""
        theirs, ours = self._spans(self._teacher, teacher_ids), self._spans(self._student, student_ids)
        shift = _shift(theirs.text, ours.text)
        if shift is None:
            return None
        at = {(start - shift if start else 0, empty): i for i, (start, empty) in reversed(list(enumerate(theirs.starts)))}
        positions = [at.get(start, NONE) for start in ours.starts]
        if ours.starts and ours.starts[-1][1] and positions[-1] == NONE and len(theirs.text) - shift != len(ours.text):
            return None  # the student's answer ends where the teacher read on
        ends = {
            (teacher_ids[i], token) for i, token, (_, empty) in zip(positions, student_ids, ours.starts, strict=True) if empty and i != NONE
        }
        return Counterparts(np.array(positions, np.int64), tuple(sorted(ends)))

    def ids(self, teacher_ids: Array, ends: Sequence[tuple[int, int]]) -> Array:
        """Return the student's word for each of the teacher's, of any shape; NONE where there is none."""
        unique, where = np.unique(teacher_ids, return_inverse=True)
        swapped = dict(ends)
        found = np.array([swapped.get(token, self._word(token)) for token in unique.tolist()], np.int64)
        return found[where].reshape(teacher_ids.shape)

    def columns(self, ends: Sequence[tuple[int, int]]) -> Array:
        """Return the student's word for each of the teacher's words."""
        return self.ids(np.arange(len(self._teacher.words)), ends)

    @staticmethod
    def _spans(vocabulary: Vocabulary, token_ids: Sequence[int]) -> _Spans:
        text, starts = b"", []
        for token in token_ids:
            word = vocabulary.text(token)
            starts.append((len(text), not word))
            text += word
        return _Spans(text, starts)

    def _word(self, token: int) -> int:
        if token not in self._words:
            self._words[token] = self._find(token) if 0 <= token < len(self._teacher.words) else NONE
        return self._words[token]

    def _find(self, token: int) -> int:
        word = self._teacher.words[token]
        exact = (self._controls if token in self._teacher.controls else self._texts).get(word)
        if exact is not None or token in self._teacher.controls or not word:
            return NONE if exact is None else exact
        best = (NONE, NONE, NONE)
        for length, (candidates_NL, ids_N) in self._by_start.get(word[0], {}).items():
            most = (max(length, len(word)) - 1) // 2
            if abs(length - len(word)) <= most:
                distances_N = _distances(word, candidates_NL)
                nearest = int(distances_N.argmin())
                found = (int(distances_N[nearest]), length, int(ids_N[nearest]))
                if found[0] <= most and (best[2] == NONE or found < best):
                    best = found
        return best[2]

    @cached_property
    def _texts(self) -> dict[bytes, int]:
        return {w: i for i, w in reversed(list(enumerate(self._student.words))) if w and i not in self._student.controls}

    @cached_property
    def _controls(self) -> dict[bytes, int]:
        return {self._student.words[i]: i for i in self._student.controls}

    @cached_property
    def _by_start(self) -> dict[int, dict[int, tuple[Array, Array]]]:
        """First byte to length to (the words of that length as bytes NL, their ids N, ascending)."""
        groups: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for word, token in sorted(self._texts.items(), key=lambda pair: pair[1]):
            groups[word[0]][len(word)].append(token)
        return {start: {length: self._table(ids) for length, ids in by_length.items()} for start, by_length in groups.items()}

    def _table(self, ids: list[int]) -> tuple[Array, Array]:
        return np.array([list(self._student.words[i]) for i in ids], np.uint8), np.array(ids)


@dataclass(frozen=True)
class _Spans:
    text: bytes
    starts: list[tuple[int, bool]]
    """Of each token: where it begins, and whether it adds nothing to the text."""


def _shift(theirs: bytes, ours: bytes) -> int | None:
    """Return how many bytes the teacher's text has before the student's: a tokenizer may put a space before a text."""
    for shift in (0, 1, -1):
        left, right = (theirs[shift:], ours) if shift >= 0 else (theirs, ours[-shift:])
        space = theirs[:shift] if shift >= 0 else ours[:-shift]
        if space.strip(b" ") == b"" and left.startswith(right):
            return shift
    return None


def _distances(word: bytes, candidates_NL: Array) -> Array:
    """Return the Levenshtein distance of a word to each of some words of one length (Wagner and Fischer, a row at a time for all)."""
    length = candidates_NL.shape[1]
    before = np.tile(np.arange(length + 1), (len(candidates_NL), 1))
    for i, byte in enumerate(word):
        now = np.empty_like(before)
        now[:, 0] = i + 1
        differs_NL = candidates_NL != byte
        for j in range(length):
            now[:, j + 1] = np.minimum(np.minimum(now[:, j], before[:, j + 1]) + 1, before[:, j] + differs_NL[:, j])
        before = now
    return before[:, -1]
