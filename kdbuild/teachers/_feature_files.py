"""A data set of stored signals: `features/` of a phase.

Distributions of few tokens are a column. Whole distributions and hidden states, of which training reads some positions at a time, lie
beside the Parquet file of the same shard as safetensors, an array by the name `<row id>/<row key>/<array>`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdbuild import canonical, records
from kdbuild.elicitors._reading import ReadsAnswers
from kdbuild.errors import ArtifactError
from kdbuild.records import Feature
from kdbuild.teachers import Answer, Ask, Reading, _features
from kdbuild.teachers._features import Array, Distributions, Hidden
from kdbuild.teachers._vocabulary import Vocabulary


@dataclass(frozen=True)
class Source:
    """Who read the rows."""

    name: str
    """Its name in params.yaml, or the phase that trained it."""
    identity: Mapping[str, Any]
    """Its `answer_identity`: model, revision, chat template."""
    vocabulary: Vocabulary | None
    """What its tokens say, where that is known."""


@dataclass(frozen=True)
class Offer:
    """One reading that a data set holds."""

    reading: Reading
    actors: tuple[str, ...]
    """Who read each row; several are fused."""
    fusion: str | None
    """`average` or `min-cross-entropy`."""


def feature(ask: Ask, key: str, answer: Answer, answer_json: str) -> Feature:
    """Return an answer as a row of the data set; `answer_json` is the answer without its payload."""
    reading = canonical.dumps(_plain(ask.reading or Reading("full")))
    digest = _features.tokens_digest(answer.payload)
    return Feature(ask.row, key, ask.to, ask.max_new_tokens, reading, digest, answer_json, answer.payload)


def offer_of(operator: ReadsAnswers) -> Offer:
    """Return what an operator offers."""
    return Offer(operator.reading, operator.actors, operator.fusion)


def write_features(folder: Path, features: Iterable[Feature], offers: Iterable[Offer], sources: Mapping[str, Source]) -> None:
    """Write stored signals into `folder`, which must exist, manifest last.

    Args:
        folder: where they go.
        features: one for each row and actor, also where two rows share an answer.
        offers: what they offer.
        sources: each actor of the offers.
    """
    rows = sorted(features, key=lambda one: (one.id, one.key, one.max_new_tokens))
    for name, members in records.shards(rows):
        _write_arrays(folder / name.replace(".parquet", ".safetensors"), members)
    for actor, source in sources.items():
        if source.vocabulary is not None:
            source.vocabulary.write(folder / f"vocabulary-{actor}.json")
    teachers = {
        actor: {"name": s.name, "identity": dict(s.identity), "vocabulary": s.vocabulary and s.vocabulary.digest}
        for actor, s in sources.items()
    }
    readings = [{"reading": _plain(offer.reading), "actors": list(offer.actors), "fusion": offer.fusion} for offer in offers]
    stripped = [replace(one, payload=b"") if _features.is_tensors(one.payload) else one for one in rows]
    records.write_dataset(folder, Feature, stripped, manifest={"readings": readings, "teachers": teachers})


def _write_arrays(path: Path, features: list[Feature]) -> None:
    from safetensors.numpy import save_file

    arrays = {
        f"{_where(one)}/{name}": array
        for one in features
        if _features.is_tensors(one.payload)
        for name, array in _features.tensors_of(one.payload).items()
    }
    if arrays:
        save_file(arrays, path)


def _plain(reading: Reading) -> dict[str, Any]:
    return {**asdict(reading), "layers": list(reading.layers)}


class FeatureFiles:
    """A data set of stored signals, opened: arrays are read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the manifest and the rows.

        Raises:
            ArtifactError: it is missing, torn or something else.
        """
        from safetensors import safe_open

        self.folder = folder
        manifest = records.read_manifest(folder)
        self._names = set(manifest["files"])
        self._by_row: dict[str, list[Feature]] = defaultdict(list)
        for one in records.read_dataset(folder, Feature):
            self._by_row[one.id].append(one)
        try:
            self.offers = tuple(
                Offer(Reading(**{**o["reading"], "layers": tuple(o["reading"]["layers"])}), tuple(o["actors"]), o["fusion"])
                for o in manifest["readings"]
            )
            self.teachers: dict[str, dict[str, Any]] = manifest["teachers"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the manifest of {folder} does not say who read its rows and how ({error})") from error
        self._arrays: dict[str, dict[str, Any]] = defaultdict(dict)
        for name in sorted(manifest["files"]):
            if name.endswith(".safetensors"):
                self._index(safe_open(folder / name, "numpy"))

    def _index(self, handle: Any) -> None:
        for path in handle.keys():  # noqa: SIM118 (it is no dict)
            where, _, name = path.rpartition("/")
            self._arrays[where][name] = handle

    def __iter__(self) -> Iterator[Feature]:
        """Yield every row with its payload, in the order of ids."""
        for members in self._by_row.values():
            yield from (one if one.payload else replace(one, payload=_features.payload_of(self._all(one))) for one in members)

    def vocabulary(self, actor: str) -> Vocabulary | None:
        """Return what an actor's tokens say, where that is stored.

        Raises:
            ArtifactError: it is not what the manifest says.
        """
        digest = self.teachers[actor]["vocabulary"]
        if digest is None:
            return None
        name = f"vocabulary-{actor}.json"
        if name not in self._names:  # which no name of an actor can lead out of
            raise ArtifactError(f"{self.folder} has no vocabulary of `{actor}`, and its manifest says it has one")
        found = Vocabulary.read(self.folder / name)
        if found.digest != digest:
            raise ArtifactError(f"{self.folder}: the vocabulary of `{actor}` is not what the manifest says")
        return found

    def of_row(self, row: str, offer: Offer) -> list[Feature]:
        """Return what an offer has of a row: one of each actor, or nothing where one lacks."""
        wanted = canonical.dumps(_plain(offer.reading))
        found = {one.actor: one for one in self._by_row.get(row, ()) if one.reading == wanted}
        return [found[actor] for actor in offer.actors] if all(actor in found for actor in offer.actors) else []

    def token_ids(self, one: Feature) -> Array:
        """Return the token ids of the answer, by the teacher's tokenizer."""
        return _features.token_ids(one.payload) if one.payload else np.asarray(self._array(one, "token_ids"))

    def signals(self, one: Feature) -> Distributions | Hidden:
        """Return the signals; of `full` all of them: `full_rows` reads some."""
        return _features.decode(one.payload) if one.payload else _features.decode_tensors(self._all(one))

    def answer_nats(self, one: Feature) -> float:
        """Return the sum of -log p(token) over the answer's tokens."""
        if not one.payload:
            return float(np.asarray(self._array(one, "answer_nats"))[0])
        signals = _features.decode(one.payload)
        assert isinstance(signals, Distributions)
        return signals.answer_nats

    def full_rows(self, one: Feature, start: int, end: int) -> Array:
        """Return log-probabilities (float16) of some positions of a row whose whole distributions are stored."""
        return np.asarray(self._handle(one, "logprobs").get_slice(f"{_where(one)}/logprobs")[start:end])

    def _all(self, one: Feature) -> dict[str, Array]:
        return {name: self._array(one, name) for name in self._arrays.get(_where(one), ())}

    def _array(self, one: Feature, name: str) -> Array:
        found: Array = self._handle(one, name).get_tensor(f"{_where(one)}/{name}")
        return found

    def _handle(self, one: Feature, name: str) -> Any:
        try:
            return self._arrays[_where(one)][name]
        except KeyError:
            raise ArtifactError(f"{self.folder} has no `{name}` of row `{one.id}`") from None


def _where(one: Feature) -> str:
    return f"{one.id}/{one.key}"
