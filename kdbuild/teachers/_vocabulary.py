"""What the tokens of a tokenizer say, as bytes: by that two tokenizers can be compared and aligned."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from kdbuild import canonical
from kdbuild.errors import ArtifactError, KdbuildError
from kdbuild.teachers import Signal, Teacher

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """Token id to what the token says."""

    words: tuple[bytes, ...]
    """The bytes a token stands for; of a control token, its name."""
    controls: frozenset[int]
    """Ids of tokens that are no text: ends of turns and the like."""

    def text(self, token: int) -> bytes:
        """Return what a token adds to a text: nothing where it is a control or none of these."""
        return b"" if token in self.controls or not 0 <= token < len(self.words) else self.words[token]

    @cached_property
    def digest(self) -> str:
        """Equal for tokenizers that give the same ids to the same texts."""
        return canonical.digest(["kdbuild-vocabulary/1", self._values()])

    def _values(self) -> dict[str, Any]:
        return {"controls": sorted(self.controls), "words": [word.decode("latin-1") for word in self.words]}

    def write(self, path: Path) -> None:
        """Write it as canonical JSON; a byte is the character of its number."""
        path.write_text(canonical.dumps(self._values()), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Return what `write` wrote.

        Raises:
            ArtifactError: the file is torn.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(tuple(word.encode("latin-1") for word in values["words"]), frozenset(values["controls"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path} is no vocabulary: {error}") from error


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """Return the vocabulary of a tokenizer: of byte-level BPE, or of pieces with `▁` for a space."""
    ids = tokenizer.get_vocab()
    added = tokenizer.added_tokens_decoder
    names = [""] * (max(ids.values(), default=-1) + 1)
    for name, token in ids.items():
        names[token] = name
    controls = {token for token, found in added.items() if found.special} | set(tokenizer.all_special_ids)
    plain = controls | set(added)
    to_bytes = _of_characters if _is_byte_level(tokenizer) else _of_piece
    words = [name.encode() if token in plain else to_bytes(name) for token, name in enumerate(names)]
    return Vocabulary(tuple(words), frozenset(controls))


def of_teacher(teacher: Teacher, root: Path, weights: Path | None) -> Vocabulary | None:
    """Return the vocabulary of a teacher whose tokenizer is here, else None."""
    from kdbuild.training.models import load_tokenizer

    if weights is not None:
        try:
            return of_tokenizer(load_tokenizer(weights))
        except KdbuildError:
            return None
    return of_tokenizer(teacher.load(root, None)[1]) if Signal.LOGITS in teacher.gives else None


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and '"ByteLevel"' in canonical.dumps(json.loads(backend.to_str()).get("decoder"))


def _of_characters(name: str) -> bytes:
    return b"".join(_BYTES[c] if c in _BYTES else c.encode() for c in name)


def _of_piece(name: str) -> bytes:
    byte = _BYTE.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace("▁", " ").encode()


def _byte_characters() -> dict[str, bytes]:
    """Return the characters that byte-level BPE (GPT-2) writes bytes as: themselves where they print, else from 256 on."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    found = {chr(byte): bytes([byte]) for byte in printing}
    return found | {chr(256 + i): bytes([byte]) for i, byte in enumerate(others)}


_BYTES = _byte_characters()
