"""Texts as vectors, for the kinds of a stage that compare meanings. What was embedded or compared in an earlier build is not again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kdbuild.embedders import Embedder
from kdbuild.errors import StageError
from kdbuild.rows.vectors import VectorCache
from kdbuild.spec.sections import EmbedderUse
from kdbuild.stages.job import Job

if TYPE_CHECKING:
    import numpy as np

    from kdbuild.selectors._near import Near

_GROUP = 1024
"""Vectors that are kept at once: what a kill costs."""


@dataclass
class Vectors:
    """A stage's embedder; each different text is read once, in this build or an earlier one."""

    job: Job
    use: EmbedderUse | None
    num_embedded: int = 0
    """Texts that were embedded here."""
    num_compared: int = 0
    """Pairs of texts that `near` compared here."""
    _num_graphs: int = field(default=0, repr=False)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of `texts`: float32 of shape (number of texts, dimension)."""
        different = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        vectors_UD = self._vectors(list(different), [_digest(text) for text in different])
        return vectors_UD if len(different) == len(texts) else vectors_UD[[different[text] for text in texts]]

    def near(self, texts: Sequence[str], at_least: float) -> Near | None:
        """Return which texts have vectors whose cosine is at least `at_least`, or None where so many have that it is not worth knowing.

        Texts that were compared by the same stage before, at this cosine or a lower one, are compared with new ones only.
        """
        import numpy as np

        from kdbuild.selectors import _near

        different = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        digests = [_digest(text) for text in different]
        # The stage's selectors come in one order: its n-th graph is of the same one as before, or else of no use and replaced.
        self._num_graphs += 1
        name = f"{self.job.name}/{self._num_graphs}"
        stored = self._cache.graph(name)
        pairs, known_U = _near.nothing(at_least), np.zeros(len(digests), bool)
        if stored is not None:
            before, known_before_U = _near.decode(stored, {digest: i for i, digest in enumerate(digests)})
            if before.floor <= at_least:
                pairs, known_U = before, known_before_U
        if not known_U.all():
            whole = _near.complete(self._vectors(list(different), digests), known_U, pairs)
            if whole is None:
                return None
            self.num_compared += whole.num_compared
            self._cache.put_graph(name, _near.encode(digests, whole))
            pairs = whole
        return _near.Near(np.array([different[text] for text in texts], np.int64), pairs)

    # --- one text, one vector --------------------------------------------------------------------------------------------

    def _vectors(self, texts: list[str], digests: list[bytes]) -> np.ndarray:
        """Return the vectors of different texts: known ones as they were kept, the others embedded."""
        import numpy as np

        vectors_UD, missing = np.empty((0, 0), np.float32), np.ones(len(texts), bool)
        for at, found_KD in self._cache.vectors(digests):
            vectors_UD = _room(vectors_UD, len(texts), found_KD)
            vectors_UD[at], missing[at] = found_KD, False
        new = np.flatnonzero(missing).tolist()
        for local, found_KD in self._embedded([texts[i] for i in new]):
            at = [new[i] for i in local]
            vectors_UD = _room(vectors_UD, len(texts), found_KD)
            vectors_UD[at] = found_KD
            self._cache.put([digests[i] for i in at], found_KD)
            self.num_embedded += len(at)
        return vectors_UD

    def _embedded(self, texts: list[str]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield what the embedder makes of texts, in groups worth a transaction."""
        import numpy as np

        positions: list[int] = []
        parts: list[np.ndarray] = []
        for at, found_KD in self._embedder.batches(texts, self._weights) if texts else ():
            positions += at
            parts.append(np.ascontiguousarray(found_KD, np.float32))
            if len(positions) >= _GROUP:
                yield positions, np.concatenate(parts)
                positions, parts = [], []
        if parts:
            yield positions, np.concatenate(parts)

    @cached_property
    def _embedder(self) -> Embedder:
        return self.job.embedder(self._used)

    @cached_property
    def _weights(self) -> Path | None:
        return self.job.weights(self._used.weights)

    @property
    def _used(self) -> EmbedderUse:
        if self.use is None:
            raise StageError("meanings are compared here and there is no embedder", hint="add `embedder:` to params.yaml")
        return self.use

    @cached_property
    def _cache(self) -> VectorCache:
        identity = self._embedder.vector_identity(self._weights)
        return VectorCache.open(self.job.root, self.job.runtime.rows_dir, identity)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _room(vectors_UD: np.ndarray, num_texts: int, found_KD: np.ndarray) -> np.ndarray:
    """Return the array, made once the dimension is known."""
    import numpy as np

    return vectors_UD if len(vectors_UD) else np.empty((num_texts, found_KD.shape[1]), np.float32)
