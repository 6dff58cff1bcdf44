"""LoRA: low-rank changes beside frozen weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdbuild.adaptations import Adaptation
from kdbuild.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Lora(Adaptation):
    """Each adapted weight W becomes W + (alpha / rank) B A, of which only A and B are trained; merged into W at the end."""

    source: ClassVar[str | None] = "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685, equation 3"
    block: ClassVar[str | None] = "train.lora"

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    """Rank of the change."""
    alpha: float = Field(32.0, gt=0)
    """The change is scaled by alpha / rank."""
    target_modules: str | list[str] = "all-linear"
    """`all-linear` (every linear layer but the head), or names of modules."""

    def apply(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with adapters; A is drawn from torch's generator, B is 0, so it starts as the model it was.

        Raises:
            StageError: no module is called as `target_modules` says.
        """
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=0.0, target_modules=self.target_modules, task_type="CAUSAL_LM")
        try:
            adapted: PreTrainedModel = get_peft_model(model, config)
        except ValueError as error:
            raise StageError(
                f"`target_modules` {self.target_modules} of the lora adaptation fits no module of the student: {error}",
                hint="`all-linear` adapts every linear layer but the head",
            ) from None
        return adapted

    def merge(self, model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
        """Write adapter_config.json and adapter_model.safetensors into `adapter`; return the plain model with the change merged in."""
        model.save_pretrained(adapter)
        _forget_place(adapter)
        merged: PreTrainedModel = model.merge_and_unload()
        return merged


def _forget_place(adapter: Path) -> None:
    """Take out of the adapter's files what depends on where and with which versions it was made."""
    import json

    config = adapter / "adapter_config.json"
    facts = json.loads(config.read_text(encoding="utf-8"))
    facts["base_model_name_or_path"] = None
    facts.pop("peft_version", None)
    if isinstance(facts.get("target_modules"), list):
        facts["target_modules"] = sorted(facts["target_modules"])
    config.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (adapter / "README.md").unlink(missing_ok=True)
