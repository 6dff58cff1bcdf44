"""Stored signals of the rows a phase trains on: found by row and by the answer's tokens, checked, and handed over pass by pass."""

# Shape suffixes: T trained positions, K named tokens, C positions of one chunk, V vocabulary.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdbuild import canonical
from kdbuild.errors import StageError
from kdbuild.objectives import Named, Objective, Stored
from kdbuild.records import Feature
from kdbuild.teachers import Reading
from kdbuild.teachers._feature_files import FeatureFiles, Offer
from kdbuild.teachers._features import Array, Distributions, Hidden
from kdbuild.teachers._vocabulary import Vocabulary
from kdbuild.training.alignment import NONE, Alignment, Counterparts
from kdbuild.training.batches import Example
from kdbuild.training.reduction import Masses, merged, mixture, weights

_REBUILD = "put the `logits` or `hidden` operator in a phase with `on: <the phase whose rows are trained>`, and build it again"


@dataclass(frozen=True)
class _Voice:
    """What one teacher said of one row."""

    feature: Feature
    counterparts: Counterparts | None
    """None where the teacher's tokens are the student's."""
    alignment: Alignment | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class _Found:
    """What is stored of one row."""

    files: FeatureFiles
    voices: tuple[_Voice, ...]
    answer_ids: list[int] = field(repr=False)
    """The student's trained tokens."""


class StoredSignals:
    """The stored signals that one objective matches."""

    def __init__(
        self,
        folders: Sequence[Path],
        objective: Objective,
        vocabulary: Vocabulary,
        examples: Sequence[Example],
        expected: Mapping[str, Mapping[str, Any]],
        num_logits: int,
    ) -> None:
        """Find the signals of every example.

        Args:
            folders: `features/` data sets, in which the rows may be.
            objective: what reads them.
            vocabulary: the student's.
            examples: the rows.
            expected: teachers (name in params.yaml) to what identifies their answers now; others are taken as they come.
            num_logits: width of the student's head.

        Raises:
            StageError: a row has no signals, was read with another answer, or the teachers or readings are not what is asked for.
            ArtifactError: a data set is torn.
        """
        self._vocabulary, self._num_logits = vocabulary, num_logits
        self._alignments: dict[str, Alignment] = {}
        offers = _fitting([FeatureFiles(folder) for folder in folders], objective, expected)
        readings = {offer.reading for _, offer in offers}
        if len(readings) > 1:
            raise StageError(
                f"objective `{objective.kind}` finds signals of {len(readings)} readings, and takes one",
                hint="say which: its `teacher:`, or `top_k:`; or drop one of the operators that store them",
            )
        self.reading: Reading = readings.pop()
        self._found = {example.key: self._find(example, offers) for example in examples}

    # --- finding -----------------------------------------------------------------------------------------------------------

    def _find(self, example: Example, offers: Sequence[tuple[FeatureFiles, Offer]]) -> _Found:
        stored = [(files, offer, features) for files, offer in offers if (features := files.of_row(example.row, offer))]
        if not stored:
            raise StageError(f"row `{example.row}` has no stored signals", hint=_REBUILD)
        ids = [token for token, trained in list(zip(example.encoded.ids, example.encoded.trained, strict=True))[1:] if trained]
        heard: dict[tuple[str, ...], _Found] = {}
        for files, offer, features in stored:
            found = self._hear(files, offer, features, ids)
            if found is not None:
                heard[tuple(one.key for one in features)] = found
        if not heard:
            raise StageError(f"row `{example.row}`: its signals were stored for another answer than the one that is trained", hint=_REBUILD)
        if len(heard) > 1:
            raise StageError(f"row `{example.row}` has signals of more than one teacher", hint="say `teacher:` in the objective")
        return next(iter(heard.values()))

    def _hear(self, files: FeatureFiles, offer: Offer, features: Sequence[Feature], ids: list[int]) -> _Found | None:
        voices = [self._voice(files, one, ids) for one in features]
        if any(voice is None for voice in voices):
            return None
        said = [voice for voice in voices if voice is not None]
        if len(said) > 1:
            shares = weights([files.answer_nats(one) for one in features], len(ids), offer.fusion or "average")
            said = [replace(voice, weight=share) for voice, share in zip(said, shares, strict=True) if share > 0]
        return _Found(files, tuple(said), ids)

    def _voice(self, files: FeatureFiles, one: Feature, ids: list[int]) -> _Voice | None:
        theirs = files.token_ids(one).tolist()
        if files.teachers[one.actor]["vocabulary"] in (None, self._vocabulary.digest):
            return _Voice(one, None) if theirs[: len(ids)] == ids else None
        alignment = self._alignment(files, one.actor)
        counterparts = alignment.row(theirs, ids)
        if counterparts is not None and self.reading.form == "hidden":
            raise StageError(
                f"the hidden states of `{one.actor}` are at the tokens of another tokenizer than the student's",
                hint="hidden states are matched token by token: take a teacher with the student's tokenizer",
            )
        return None if counterparts is None else _Voice(one, counterparts, alignment)

    def _alignment(self, files: FeatureFiles, actor: str) -> Alignment:
        digest = files.teachers[actor]["vocabulary"]
        if digest not in self._alignments:
            vocabulary = files.vocabulary(actor)
            assert vocabulary is not None
            self._alignments[digest] = Alignment(vocabulary, self._vocabulary)
        return self._alignments[digest]

    # --- handing over ------------------------------------------------------------------------------------------------------

    def of(self, members: Sequence[Example], device: torch.device | str) -> Stored:
        """Return the signals of the examples of one forward pass, in their order.

        Raises:
            StageError: a teacher names a token that the student has no logit for.
        """
        found = [self._found[example.key] for example in members]
        if self.reading.form == "hidden":
            return self._hidden(found, device)
        if self.reading.form == "full":
            return Stored(self.reading, full_CV=_FullRows(found, device, self._num_logits))
        named = [_named(one, self.reading) for one in found]
        width = max((ids.shape[1] for ids, _, _ in named), default=1)
        ids, logprobs, tail = (np.concatenate(part) for part in zip(*(_widened(*one, width) for one in named or [_nothing()]), strict=True))
        if ids.size and int(ids.max()) >= self._num_logits:
            raise StageError(
                f"a teacher names token {int(ids.max())}, and the student has {self._num_logits} logits",
                hint="the teacher's tokenizer must be the student's, or be stored with its vocabulary",
            )
        tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in (ids.astype(np.int64), logprobs, tail)]
        return Stored(self.reading, named=Named(*tensors))

    def _hidden(self, found: Sequence[_Found], device: torch.device | str) -> Stored:
        signals = []
        for one in found:
            said = one.files.signals(one.voices[0].feature)
            assert isinstance(said, Hidden)
            signals.append((said, len(one.answer_ids)))
        layers = self.reading.layers if signals else ()
        states = {
            layer: torch.cat([torch.from_numpy(said.states[layer][:length].astype(np.float32)) for said, length in signals]).to(device)
            for layer in layers
        }
        shown = [layer for layer in layers if all(layer in said.maps for said, _ in signals)]
        maps = {
            layer: [torch.from_numpy(said.maps[layer][:, :length, :length].astype(np.float32)).to(device) for said, length in signals]
            for layer in shown
        }
        return Stored(self.reading, states=states, maps=maps)


def _fitting(
    sets: Sequence[FeatureFiles], objective: Objective, expected: Mapping[str, Mapping[str, Any]]
) -> list[tuple[FeatureFiles, Offer]]:
    """Return what of the data sets an objective can read.

    Raises:
        StageError: nothing of it.
    """
    fitting, reasons = [], []
    for files in sets:
        for offer in files.offers:
            reason = objective.refuses(offer.reading) or _other_teacher(files, offer, objective, expected)
            if reason is None:
                fitting.append((files, offer))
            else:
                reasons.append(f"  {files.folder.parent.name}/{files.folder.name}: {reason}")
    if not fitting:
        raise StageError("\n".join([f"objective `{objective.kind}` finds no stored signals it can match", *reasons]), hint=_REBUILD)
    return fitting


def _other_teacher(files: FeatureFiles, offer: Offer, objective: Objective, expected: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what of the teachers of an offer is not as it should be."""
    facts = [files.teachers.get(actor) for actor in offer.actors]
    if any(fact is None for fact in facts):
        return "its manifest does not say who read the rows"
    names = [(fact or {})["name"] for fact in facts]
    if objective.teacher is not None and objective.teacher not in names:
        return f"read by {', '.join(f'`{name}`' for name in names)}, and the objective's teacher is `{objective.teacher}`"
    for name, fact in zip(names, facts, strict=True):
        now, then = expected.get(name), (fact or {})["identity"]
        now = now and json.loads(canonical.dumps(now))  # as a manifest holds it: lists for tuples
        if now is not None and now != then:
            changed = sorted(key for key in {*now, *then} if now.get(key) != then.get(key))
            return f"read by `{name}` as it was, and its {', '.join(changed)} changed since"
    return None


# --- one row ---------------------------------------------------------------------------------------------------------------

_Rows = tuple[Array, Array, Array]
"""ids_TK, logprobs_TK, tail_T, in nats."""


def _nothing() -> _Rows:
    return np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32), np.zeros(0, np.float32)


def _named(found: _Found, reading: Reading) -> _Rows:
    """Return the distributions of one row in the student's tokens."""
    length = len(found.answer_ids)
    if len(found.voices) == 1 and found.voices[0].counterparts is None:
        said = _distributions(found, found.voices[0])
        assert said.ids_TK is not None
        return said.ids_TK[:length], said.logprobs_TK[:length], said.tail_T[:length]
    parts = [_masses(found, voice).weighted(voice.weight) for voice in found.voices]
    whole = merged(mixture(parts), parts[0].ids_TK.shape[1] if reading.form == "top-k" else sum(part.ids_TK.shape[1] for part in parts))
    if reading.form == "sampled":  # what has no counterpart is as if it had not been drawn
        total_T1 = whole.mass_TK.sum(1, keepdims=True)
        whole = replace(whole, mass_TK=whole.mass_TK / np.where(total_T1 > 0, total_T1, 1.0), tail_T=np.zeros(length))
    with np.errstate(divide="ignore"):
        return whole.ids_TK, np.log(whole.mass_TK).astype(np.float32), np.log(np.maximum(whole.tail_T, 0.0)).astype(np.float32)


def _distributions(found: _Found, voice: _Voice) -> Distributions:
    said = found.files.signals(voice.feature)
    assert isinstance(said, Distributions)
    return said


def _masses(found: _Found, voice: _Voice) -> Masses:
    """Return one teacher's distributions in the student's tokens; where they have no counterpart, the answer's own tokens."""
    masses, length = Masses.of(_distributions(found, voice)), len(found.answer_ids)
    if voice.counterparts is None or voice.alignment is None:
        return Masses(masses.ids_TK[:length], masses.mass_TK[:length], masses.tail_T[:length])
    at = voice.counterparts.positions_T
    whole = Masses(voice.alignment.ids(masses.ids_TK[at], voice.counterparts.ends), masses.mass_TK[at], masses.tail_T[at])
    whole = merged(whole, whole.ids_TK.shape[1])
    lost = (at == NONE) | (whole.ids_TK[:, 0] == NONE)
    whole.ids_TK[lost] = np.array(found.answer_ids)[lost, None]
    whole.mass_TK[lost] = 0.0
    whole.mass_TK[lost, 0] = 1.0
    whole.tail_T[lost] = 0.0
    return whole


def _widened(ids: Array, logprobs: Array, tail: Array, width: int) -> _Rows:
    """Fill positions up to `width` entries with their first token, of no probability."""
    missing = width - ids.shape[1]
    if not missing:
        return ids, logprobs, tail
    filler = np.full((len(ids), missing), -np.inf, np.float32)
    return np.concatenate([ids, np.repeat(ids[:, :1], missing, 1)], 1), np.concatenate([logprobs, filler], 1), tail


class _FullRows:
    """Whole distributions of a pass, read from disk and fused a chunk at a time."""

    def __init__(self, found: Sequence[_Found], device: torch.device | str, num_logits: int) -> None:
        self._device, self._num_logits = device, num_logits
        self._found, self._starts = found, np.cumsum([0, *(len(one.answer_ids) for one in found)])

    def __call__(self, rows: slice) -> torch.Tensor:
        """Return the log-probabilities of positions `rows` of the pass (CV)."""
        parts = []
        for one, start, end in zip(self._found, self._starts[:-1], self._starts[1:], strict=True):
            first, last = max(rows.start, start), min(rows.stop, end)
            if first < last:
                parts.append(self._row(one, int(first - start), int(last - start)))
        return torch.cat(parts).to(self._device)

    def _row(self, found: _Found, first: int, last: int) -> torch.Tensor:
        if len(found.voices) == 1 and found.voices[0].counterparts is None:
            logprobs_CV = torch.from_numpy(found.files.full_rows(found.voices[0].feature, first, last)).float()
            return self._checked(logprobs_CV)
        mixed_CV = sum(voice.weight * self._masses(found, voice, first, last) for voice in found.voices)
        assert isinstance(mixed_CV, torch.Tensor)
        return mixed_CV.clamp_(min=1e-30).log_()

    def _masses(self, found: _Found, voice: _Voice, first: int, last: int) -> torch.Tensor:
        if voice.counterparts is None or voice.alignment is None:
            return self._checked(torch.from_numpy(found.files.full_rows(voice.feature, first, last)).float()).exp()
        columns_V = torch.from_numpy(voice.alignment.columns(voice.counterparts.ends))
        masses_CV = torch.zeros((last - first, self._num_logits))
        for i, at in enumerate(voice.counterparts.positions_T[first:last].tolist()):
            if at != NONE:
                theirs_V = torch.from_numpy(found.files.full_rows(voice.feature, at, at + 1)[0]).float().exp()
                columns = columns_V[: len(theirs_V)]  # a tokenizer and a head need not be of one size
                known = (columns != NONE) & (columns < self._num_logits)
                masses_CV[i].index_add_(0, columns[known], theirs_V[: len(columns)][known])
            total = masses_CV[i].sum()
            if at == NONE or not total > 0:
                masses_CV[i, found.answer_ids[first + i]] = total = torch.ones(())
            masses_CV[i] /= total  # words without a counterpart are left out
        return masses_CV

    def _checked(self, rows_CV: torch.Tensor) -> torch.Tensor:
        if rows_CV.shape[1] != self._num_logits:
            raise StageError(
                f"stored distributions are over {rows_CV.shape[1]} tokens, and the student has {self._num_logits} logits",
                hint="take a teacher with as many, or store `form: top-k`",
            )
        return rows_CV
