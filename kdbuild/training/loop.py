"""The training loop: one for every objective, ZeRO stage, device and number of ranks."""

# Shape suffixes: K terms of the loss.

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, get_scheduler

from kdbuild.errors import StageError
from kdbuild.objectives import Head, Stored
from kdbuild.records import Row
from kdbuild.spec.model import Train
from kdbuild.teachers import _vocabulary
from kdbuild.training.batches import Example, Pack, optimiser_steps, pack, split
from kdbuild.training.checkpoint import Checkpoints
from kdbuild.training.engine import Engine
from kdbuild.training.models import load_causal_lm, load_tokenizer, save_causal_lm
from kdbuild.training.networks import Learner, Network
from kdbuild.training.place import Place, placed
from kdbuild.training.stored import StoredSignals
from kdbuild.training.task import Task
from kdbuild.training.tokens import encode


@dataclass(frozen=True)
class Trained:
    """What is known after a phase was trained; functions of the task alone."""

    num_rows: int
    num_rows_without_trained_token: int
    """Rows left out because nothing of them is trained, or `max_tokens` cut it all off."""
    num_tokens_trained: int
    """Trained tokens of one epoch."""
    num_steps: int
    final_loss: dict[str, float]
    """Each term in the last step, per token, in nats."""
    curve: list[dict[str, Any]]
    """Each step: its number, the weighted loss, the terms, the learning rate, the gradient's norm."""


def train(task: Task) -> Trained:
    """Train one phase, go on from its checkpoint if there is one, and on rank 0 write the model.

    Raises:
        StageError: there is nothing to train on, the models do not fit together, or the loss is not a number.
    """
    with warnings.catch_warnings():
        # DeepSpeed 0.19 calls collectives by the names that torch 2.13 is about to drop.
        warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
        return _train(task, placed(task.runtime))


def _train(task: Task, place: Place) -> Trained:
    tokenizer = load_tokenizer(task.start)
    examples, num_without = _examples(tokenizer, task.rows, task.train.max_tokens)
    steps = optimiser_steps(examples, num_epochs=task.train.num_epochs, batch_tokens=task.train.batch_tokens, seed=task.train.seed)
    rates = learning_rates(task.train, len(steps))

    student = _student(task).to(place.device)
    network = Network(student, "the student")
    network.check_head()
    teachers = _teachers(task, network, tokenizer, place)
    stored = _stored(task, examples, tokenizer, len(network.weight_VD))
    networks = [network, *teachers.values()]
    for net in networks:
        net.check_length(max(map(len, examples)))
    packs_rows = all(net.keeps_sequences_apart() for net in networks)
    learner = Learner(student, network, task.objectives)

    checkpoints = Checkpoints(task.checkpoints, task.key, task.runtime.train.checkpoint_interval_s, place.device)
    num_done, curve = checkpoints.find(learner)
    engine = Engine(learner, task.train, task.runtime.train, place)
    if num_done:
        _make_empty_step(engine, teachers, stored, place)
        checkpoints.restore(engine, num_done)

    names = term_names(task)
    weights_K = torch.tensor([objective.weight for objective in task.objectives], device=place.device)
    bar = tqdm(total=len(steps), initial=num_done, desc="train", unit="step", delay=2, disable=place.rank != 0, file=sys.stderr)
    for number in range(num_done, len(steps)):
        group = steps[number]
        num_tokens = sum(example.encoded.num_trained for example in group)  # of all ranks and all forward passes
        passes = split(
            group,
            num_ranks=place.num_ranks,
            micro_batch_tokens=task.runtime.train.micro_batch_tokens if packs_rows else 1,
        )[place.rank]
        means_K = torch.zeros_like(weights_K)
        for i, members in enumerate(passes):
            packed = pack(members).to(place.device)
            terms_K = engine.deepspeed(packed, _teacher_heads(teachers, packed), _said(stored, members, place)) / num_tokens
            engine.backward(terms_K @ weights_K, is_last=i == len(passes) - 1)
            means_K += terms_K.detach()
        dist.all_reduce(means_K)
        norm = engine.step(rates[number])
        curve.append(_point(number + 1, names, means_K, weights_K, rates[number], norm))
        bar.update()
        bar.set_postfix(loss=f"{curve[-1]['loss_nats_per_token']:.3f}", refresh=False)
        if _agree(checkpoints.is_due and number + 1 < len(steps), place):
            checkpoints.write(engine, number + 1, curve)
    bar.close()

    _write_model(task, engine, tokenizer, place)
    return Trained(
        num_rows=len(examples),
        num_rows_without_trained_token=num_without,
        num_tokens_trained=sum(example.encoded.num_trained for example in examples),
        num_steps=len(steps),
        final_loss={name: curve[-1][f"{name}_nats_per_token"] for name in names} if curve else {},
        curve=curve,
    )


def learning_rates(train: Train, num_steps: int) -> list[float]:
    """Return the learning rate of every optimiser step.

    The shapes are transformers' own, taken one step late: they start from 0, and a first step at rate 0 would teach nothing.
    """
    shape = "constant_with_warmup" if train.schedule == "constant" else train.schedule
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=train.learning_rate)
    schedule = get_scheduler(shape, optimiser, num_warmup_steps=math.ceil(train.warmup_frac * num_steps), num_training_steps=num_steps + 1)
    return [train.learning_rate * schedule.lr_lambdas[0](number + 1) for number in range(num_steps)]


def term_names(task: Task) -> list[str]:
    """Return a name for each term of the loss: its kind, numbered where a kind comes twice."""
    kinds = [objective.kind.replace("-", "_") for objective in task.objectives]
    return [kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)]


def _examples(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], max_tokens: int) -> tuple[list[Example], int]:
    encoded = [Example(row.id, encode(tokenizer, row, max_tokens)) for row in rows]
    examples = [example for example in encoded if example.encoded.num_trained]
    if not examples:
        raise StageError(
            f"none of {len(rows)} rows has a token to train",
            hint="look at what the phase selected; raise `max_tokens` if answers were cut off",
        )
    return examples, len(encoded) - len(examples)


def _student(task: Task) -> torch.nn.Module:
    """Return the model to train, in evaluation mode: dropout would make the result depend on how a step is cut."""
    student: torch.nn.Module = load_causal_lm(task.start, task.train.dtype)
    if task.adaptation is None:
        return student.requires_grad_(True)
    torch.manual_seed(task.train.seed)
    adapted: torch.nn.Module = task.adaptation.apply(student)
    return adapted.eval()


def _teachers(task: Task, student: Network, tokenizer: PreTrainedTokenizerBase, place: Place) -> dict[str, Network]:
    """Return the networks of the teachers that an objective needs, by the name it uses."""
    networks = {}
    for key in sorted({objective.teacher or "" for objective in task.objectives if objective.is_online}):
        use = task.teachers[key]
        model, its_tokenizer = use.teacher.load(task.root, use.weights)
        network = Network(model.to(place.device).eval().requires_grad_(False), f"teacher `{use.name}`")
        network.check_head()
        words, its_words = tokenizer.get_vocab(), its_tokenizer.get_vocab()
        if words != its_words or len(student.weight_VD) != len(network.weight_VD):
            raise StageError(
                f"the student and teacher `{use.name}` do not share a vocabulary: "
                f"{len(words)} words and {len(student.weight_VD)} logits against {len(its_words)} and {len(network.weight_VD)}",
                hint="distil logits from a teacher with the student's own tokenizer, or train on its answers with `kind: sft`",
            )
        networks[key] = network
    return networks


@torch.no_grad()
def _teacher_heads(teachers: Mapping[str, Network], packed: Pack) -> dict[str, Head]:
    return {key: Head(network.hidden_TD(packed), network.weight_VD) for key, network in teachers.items()}


def _stored(task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, num_logits: int) -> dict[int, StoredSignals]:
    """Return the stored signals of each objective that reads some, by its number."""
    return {
        number: StoredSignals(task.features, objective, _vocabulary.of_tokenizer(tokenizer), examples, task.expected, num_logits)
        for number, objective in enumerate(task.objectives)
        if objective.is_stored
    }


def _said(stored: Mapping[int, StoredSignals], members: Sequence[Example], place: Place) -> dict[int, Stored]:
    return {number: signals.of(members, place.device) for number, signals in stored.items()}


def _make_empty_step(engine: Engine, teachers: Mapping[str, Network], stored: Mapping[int, StoredSignals], place: Place) -> None:
    """Make AdamW's moments exist, without moving a weight."""
    packed = pack([]).to(place.device)
    engine.backward(engine.deepspeed(packed, _teacher_heads(teachers, packed), _said(stored, [], place)).sum(), is_last=True)
    engine.step(0.0)


def _point(step: int, names: Sequence[str], means_K: torch.Tensor, weights_K: torch.Tensor, rate: float, norm: float) -> dict[str, Any]:
    loss = float(means_K @ weights_K)
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise StageError(f"the loss is not a number at step {step} (loss {loss}, gradient norm {norm})", hint="lower `learning_rate`")
    terms = {f"{name}_nats_per_token": mean for name, mean in zip(names, means_K.tolist(), strict=True)}
    return {"step": step, "loss_nats_per_token": loss, **terms, "learning_rate": rate, "grad_norm": norm}


def _agree(flag: bool, place: Place) -> bool:
    """Return rank 0's answer on every rank: clocks differ, and a checkpoint takes all."""
    shared = torch.tensor([int(flag)], device=place.device)
    dist.broadcast(shared, 0)
    return bool(shared)


def _write_model(task: Task, engine: Engine, tokenizer: PreTrainedTokenizerBase, place: Place) -> None:
    """Put the trained weights into a fresh copy of the starting model and write that, on rank 0."""
    weights = {name: tensor.detach().cpu() for name, tensor in engine.weights() if place.rank == 0}
    engine.close()
    if place.rank != 0:
        return
    fresh = _student(task)
    parameters = dict(fresh.named_parameters(prefix="student"))
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
    if task.adaptation is not None and task.adapter_out is not None:
        fresh = task.adaptation.merge(fresh, task.adapter_out)
    save_causal_lm(fresh, tokenizer, task.model_out)
