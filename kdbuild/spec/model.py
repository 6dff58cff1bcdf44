"""The models of `specs/<name>.yaml` and `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from kdbuild.adaptations import Adaptation
from kdbuild.elicitors import Elicitor
from kdbuild.embedders import Embedder
from kdbuild.evaluators import Evaluator
from kdbuild.kinds import Knob, Model, OneOf
from kdbuild.objectives import Objective
from kdbuild.scorers import Scorer
from kdbuild.seeds import Seeds
from kdbuild.selectors import Selector
from kdbuild.spec.names import check_phase_name, check_teacher_name
from kdbuild.students import Student
from kdbuild.teachers import Teacher


def _one_word(target: Target) -> Target:
    if (target.skill is None) == (target.vertical is None):
        raise PydanticCustomError("target", "a target has either a `skill` or a `vertical`")
    return target


class Target(Model):
    """What the student is for: a skill or a vertical."""

    skill: str | None = None
    """A skill, such as `instruction-following`."""
    vertical: str | None = None
    """A field of work, such as `law`."""


class Source(Model):
    """One data set a phase trains on."""

    from_: str = Field(alias="from")
    """`<phase>` of this spec, or `<spec>/<phase>`: what that phase selected."""


class Train(Model):
    """How a phase trains. Knobs (ranks, ZeRO stage, micro-batch) are under `runtime:` in params.yaml."""

    num_epochs: int = Field(1, ge=1)
    """Times every training row is seen."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate."""
    batch_tokens: int = Field(4096, ge=1)
    """Tokens of one optimiser step, over all ranks and micro-batches."""
    max_tokens: int = Field(1024, ge=8)
    """Longest training sequence; a longer row is cut at its end."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape of the learning rate after warm-up."""
    warmup_frac: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the rate rises to its peak."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay (AdamW)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights while training. bfloat16 is slow on a CPU without hardware support."""
    seed: int = Field(0, ge=0)
    """Decides the order of the rows and the start of an adapter."""


class Phase(Model):
    """One round of elicit, select and train; any part may be absent."""

    on: str = "seeds"
    """What it elicits from: `seeds`, or `<phase>` (what that phase selected)."""
    elicit: list[Annotated[Elicitor, OneOf("elicitors")]] = []
    """Operators in order: each reads the rows the one before wrote."""
    select: list[Annotated[Scorer | Selector, OneOf("selectors", "scorers")]] = []
    """Scorers and selectors in order: each sees the rows the selector before kept."""
    data: list[Source] | None = None
    """What it trains on; absent: what it selected itself, else what the latest phase with data selected."""
    objective: Annotated[Objective, OneOf("objectives")] | list[Annotated[Objective, OneOf("objectives")]] | None = None
    """What the student matches: one kind, or several with weights."""
    adaptation: Annotated[Adaptation, OneOf("adaptations")] | None = None
    """Which parameters train; absent: all."""
    from_: str | None = Field(None, alias="from")
    """Checkpoint it starts from: `init` or a phase; absent: the latest."""
    train: Train = Train()
    """How it trains."""

    @property
    def objectives(self) -> list[Objective]:
        """The objectives as a list; empty where the phase trains nothing."""
        if self.objective is None:
            return []
        return self.objective if isinstance(self.objective, list) else [self.objective]


class Spec(Model):
    """One student, or one data set: the whole of `specs/<name>.yaml`."""

    target: Annotated[Target, AfterValidator(_one_word)]
    """What it is for."""
    description: Annotated[str, Knob("a note for people")] = ""
    """A note for people."""
    teacher: str | None = None
    """A name under `teachers:` in params.yaml."""
    roles: dict[Annotated[str, AfterValidator(check_teacher_name)], str | Annotated[list[str], Field(min_length=1)]] = {}
    """Further actors by name: a teacher of params.yaml, `phase:<name>` (the model an earlier phase trained), or a list of these."""
    student: Annotated[Student, OneOf("students")] | None = None
    """What is trained; absent where the data set is the product."""
    seeds: Annotated[Seeds, OneOf("seeds")] | None = None
    """Where prompts come from."""
    held_out_frac: float = Field(0.2, ge=0, lt=1)
    """Share of the seeds kept from training, for evaluation; decided by each seed's id."""
    accept_failed_frac: float = Field(0.0, ge=0, lt=1)
    """Share of a stage's rows whose teacher call may fail for good without failing the stage."""
    phases: dict[Annotated[str, AfterValidator(check_phase_name)], Phase]
    """The phases, in order."""
    evaluate: list[Annotated[Evaluator, OneOf("evaluators")]] = []
    """How the initialised student, each trained phase and the teacher are compared."""


class TrainRuntime(Model):
    """Where and how training runs; never what comes out."""

    num_ranks: int = Field(1, ge=1)
    """Processes on each host; one per GPU, or several on a CPU."""
    hostfile: str | None = None
    """DeepSpeed hostfile, for several hosts."""
    zero_stage: int = Field(0, ge=0, le=3)
    """DeepSpeed ZeRO stage."""
    offload: bool = False
    """Keep optimiser states (and with ZeRO 3 the weights) in the host's memory."""
    micro_batch_tokens: int = Field(2048, ge=1)
    """Tokens of one forward pass of one rank; a longer row is a micro-batch of its own."""
    checkpoint_interval_s: float = Field(60.0, gt=0)
    """Seconds between checkpoints; an interrupted phase goes on from the last one."""


class Budget(Model):
    """What a stage may spend on teachers before it stops; what it has is kept. Counted since its section was last changed."""

    usd: float | None = Field(None, gt=0)
    """Most US dollars, by the teachers' prices."""
    tokens: int | None = Field(None, ge=1)
    """Most tokens, of prompts and answers."""


class ElicitRuntime(Model):
    """How teachers are driven."""

    budget: Budget = Budget()
    """What an elicit stage may spend."""
    student_engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the student where `by: student` asks it."""
    student_batch_tokens: int = Field(16384, ge=1)
    """Positions (rows x prompt and new tokens) of the student at a time, in `transformers`."""

    commit_interval_s: float = Field(0.02, gt=0)
    """Seconds between two durable writes of answers; what a crash can lose is what came since."""


class SelectRuntime(Model):
    """How rows are compared."""

    max_memory_gb: float = Field(8.0, gt=0)
    """What comparing rows may take, about; less is slower."""


class EvaluateRuntime(Model):
    """How models are evaluated."""

    batch_tokens: int = Field(4096, ge=1)
    """Tokens of one forward pass."""


class Runtime(Model):
    """How and where things are computed. Nothing here makes anything stale."""

    rows_dir: str | None = None
    """Folder of the row store; absent: beside the DVC cache."""
    num_threads: int | None = Field(None, ge=1)
    """CPU threads of a stage; absent: all."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, or a torch device such as `cuda:1`."""
    elicit: ElicitRuntime = ElicitRuntime()
    """Teachers."""
    select: SelectRuntime = SelectRuntime()
    """Selection."""
    train: TrainRuntime = TrainRuntime()
    """Training."""
    evaluate: EvaluateRuntime = EvaluateRuntime()
    """Evaluation."""


class Defaults(Model):
    """What a spec that does not say gets, section by section; a spec's own value wins."""

    train: Train = Train()
    """Defaults of every phase's `train`."""
    held_out_frac: float = Field(0.2, ge=0, lt=1)
    """Default of `held_out_frac`."""
    accept_failed_frac: float = Field(0.0, ge=0, lt=1)
    """Default of `accept_failed_frac`."""


class Params(Model):
    """The whole of `params.yaml`."""

    teachers: dict[Annotated[str, AfterValidator(check_teacher_name)], Annotated[Teacher, OneOf("teachers")]] = {}
    """Teachers by name."""
    embedder: Annotated[Embedder, OneOf("embedders")] | None = None
    """What turns texts into vectors, for every selector that compares meanings."""
    defaults: Defaults = Defaults()
    """Defaults of the specs."""
    runtime: Annotated[Runtime, Knob("where and how, never what")] = Runtime()
    """Knobs."""
