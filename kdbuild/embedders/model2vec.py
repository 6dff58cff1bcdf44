"""A static model: a text is the mean of its tokens' vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from kdbuild.embedders import Embedder
from kdbuild.errors import SourceError
from kdbuild.spec.sources import check_source, parse_source

if TYPE_CHECKING:
    import numpy as np
    from model2vec import StaticModel

_BATCH = 128
"""Texts at a time: the vectors of all their tokens, up to 512 each, are in memory together."""
_FILES = ["config*.json", "tokenizer.json", "*.safetensors", "0_StaticEmbedding/*"]


class Model2Vec(Embedder):
    """A model2vec model, such as the potion models: hundreds of times faster than a transformer, and blind to the order of words.

    A text is cut at its end where the model's own settings say. A text without any token that the model knows gets a direction of its own,
    so that it is near texts equal to it and no other.
    """

    source: ClassVar[str | None] = "Tulkens and van Dongen 2024, Model2Vec, github.com/MinishLab/model2vec"
    needs_packages: ClassVar[tuple[tuple[str, str], ...]] = (("model2vec", "kdbuild[model2vec]"),)

    kind: Literal["model2vec"] = "model2vec"
    model: Annotated[str, AfterValidator(check_source)] = Field(examples=["path:models/potion"])
    """Where the model is: `hf:org/name@revision`, `path:folder`, or `pypi:package==version:path/inside#sha256=...`."""

    def sources(self) -> tuple[str, ...]:
        """Return the model's source."""
        return (self.model,)

    def batches(self, texts: Sequence[str], weights: Path | None) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions in `texts` with their unit vectors: float32 of shape (number of positions, dimension).

        Raises:
            SourceError: `weights` does not hold a model that can be loaded.
        """
        import numpy as np
        from tqdm import tqdm

        if not texts:
            return
        self.require_packages()
        model = _load(self.model if weights is None else str(weights))
        with tqdm(total=len(texts), desc="embed", unit="text", delay=2, dynamic_ncols=True) as progress:
            for at in range(0, len(texts), _BATCH):
                batch = list(texts[at : at + _BATCH])
                mean_KD = model.encode(batch, normalize=False, use_multiprocessing=False).astype(np.float64)
                length_K = np.sqrt((mean_KD * mean_KD).sum(axis=1))
                for i in np.flatnonzero(length_K == 0):
                    mean_KD[i] = _own_direction(batch[i], mean_KD.shape[1])
                    length_K[i] = mean_KD.shape[1] ** 0.5
                yield list(range(at, at + len(batch))), (mean_KD / length_K[:, None]).astype(np.float32)
                progress.update(len(batch))


def _own_direction(text: str, dimension: int) -> np.ndarray:
    """Return a vector of +1 and -1 that depends on the text."""
    import numpy as np

    noise = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(dimension)
    return np.where(np.frombuffer(noise, np.uint8) & 1, 1.0, -1.0)


@lru_cache(1)  # a step that embeds row by row loads it once
def _load(name: str) -> StaticModel:
    on_hub = name.startswith("hf:")
    try:
        from model2vec import StaticModel

        # A folder that is there is never looked up on a hub.
        folder = _fetched(name) if on_hub else Path(name)
        if not folder.is_dir():
            raise SourceError(f"the embedder's model {name} is not a folder", hint="name a folder that `StaticModel.save_pretrained` wrote")
        return StaticModel.from_pretrained(folder)
    except (MemoryError, KeyboardInterrupt, SourceError):
        raise
    except Exception as error:  # model2vec, the hub's client, safetensors and tokenizers share no base class
        cause = " ".join(str(error).split())[:300]
        hint = "check the name, the revision and the network, or name the model as `path:` or `pypi:`" if on_hub else None
        raise SourceError(f"the embedder's model {name} cannot be loaded: {cause}", hint=hint) from error


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    source = parse_source(name)
    return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=_FILES))
