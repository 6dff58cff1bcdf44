"""A sentence-transformers model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from kdbuild.embedders import Embedder
from kdbuild.errors import SourceError
from kdbuild.kinds import Knob
from kdbuild.spec.sources import check_source

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

_HUB = "hf:"
_CPU_TOKENS, _GPU_TOKENS = 1024, 16_384


class SentenceTransformers(Embedder):
    """A sentence-transformers model, in float32. A text longer than the model reads is cut at its end, as the model's own settings say.

    Loads safetensors only and never a model's own code. From a folder it loads without a hub.
    """

    source: ClassVar[str | None] = "Reimers and Gurevych 2019, Sentence-BERT, arXiv 1908.10084"

    kind: Literal["sentence-transformers"] = "sentence-transformers"
    model: Annotated[str, AfterValidator(check_source)] = Field(examples=["path:models/minilm"])
    """Where the model is: `hf:org/name@revision`, `path:folder`, or `pypi:package==version:path/inside#sha256=...`."""
    batch_tokens: Annotated[int | None, Knob("padding changes no vector by more than 1e-5")] = Field(None, ge=1)
    """Tokens of one forward pass, padding included; absent: 1,024 on a CPU, where they fit its caches, 16,384 elsewhere."""
    device: Annotated[str, Knob("moves low bits only")] = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`, or a torch device such as `cuda:1`."""

    def sources(self) -> tuple[str, ...]:
        """Return the model's source."""
        return (self.model,)

    def batches(self, texts: Sequence[str], weights: Path | None) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield positions in `texts`, long texts first, with their unit vectors: float32 of shape (number of positions, dimension).

        Raises:
            SourceError: `weights` does not hold a model that can be loaded.
        """
        from tqdm import tqdm

        if not texts:
            return
        model = _load(self.model, weights, None if self.device == "auto" else self.device)
        lengths = _num_tokens(model, texts)
        with tqdm(total=len(texts), desc="embed", unit="text", delay=2, dynamic_ncols=True) as progress:
            for at in _batches(lengths, self.batch_tokens or (_CPU_TOKENS if model.device.type == "cpu" else _GPU_TOKENS)):
                batch = [texts[i] for i in at]
                yield at, model.encode(batch, batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False)
                progress.update(len(batch))


def _load(source: str, weights: Path | None, device: str | None) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    name = source if weights is None else str(weights)
    on_hub = name.startswith(_HUB)
    where, _, revision = name.removeprefix(_HUB).partition("@") if on_hub else (name, "", "")
    if not on_hub and not (Path(where) / "modules.json").is_file():
        raise SourceError(
            f"{name} is not a sentence-transformers model: it has no modules.json",
            hint="name a folder that `SentenceTransformer.save_pretrained` wrote, or a hub model of that kind",
        )
    try:
        return SentenceTransformer(
            where,
            revision=revision or None,
            device=device,
            local_files_only=not on_hub,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # transformers, the hub's client, safetensors and torch share no base class
        cause = " ".join(str(error).split())[:300]
        hint = "check the name, the revision and the network, or name the model as `path:` or `pypi:`" if on_hub else None
        raise SourceError(f"the embedder's model {name} cannot be loaded: {cause}", hint=hint) from error


def _num_tokens(model: SentenceTransformer, texts: Sequence[str]) -> list[int]:
    """Return how many tokens the model reads of each text; for a model without padding (static vectors), its characters."""
    if not callable(model.tokenizer):
        return [len(text) for text in texts]
    encoded = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length, return_attention_mask=False)
    return [len(ids) for ids in encoded["input_ids"]]


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield positions of texts, longest first, so that each batch has little padding and at most `batch_tokens`; at least one text."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while order:
        size = max(1, batch_tokens // max(lengths[order[0]], 1))
        yield order[:size]
        order = order[size:]
