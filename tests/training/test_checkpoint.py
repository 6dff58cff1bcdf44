"""A run that is interrupted and goes on is the run that was not."""

import json
import math
from typing import ClassVar, Literal

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from kdbuild.objectives import Objective, Signals, Term
from kdbuild.training.checkpoint import NAME
from kdbuild.training.launch import train


class PowerCut(Exception):
    pass


class Interrupted(Objective):
    """Cross-entropy that ends the process's work at the n-th forward pass."""

    kind: Literal["interrupted"] = "interrupted"
    calls_left: ClassVar[int] = 0

    def term(self, signals: Signals) -> Term:
        type(self).calls_left -= 1
        if type(self).calls_left == 0:
            raise PowerCut
        logits = signals.student.hidden_TD @ signals.student.weight_VD.T
        return Term(torch.nn.functional.cross_entropy(logits, signals.labels_T, reduction="sum"), len(signals.labels_T))


RATE = {"learning_rate": 5e-4}
EVERY_STEP = {"checkpoint_interval_s": 1e-9}


def run(task, calls=0):
    """Train the task with passes that stop at the n-th; 0: never."""
    Interrupted.calls_left = calls or -1
    return train(task)


@pytest.fixture
def interrupted_task(new_task):
    def make(**changes):
        return new_task(train=RATE, runtime={**EVERY_STEP, **changes.pop("runtime", {})}, objectives=(), **changes)

    return make


def ready(task, **runtime):
    from dataclasses import replace

    objectives = (Interrupted(),)
    changed = task.runtime.model_copy(update={"train": task.runtime.train.model_copy(update=runtime)})
    return replace(task, objectives=objectives, runtime=changed)


def weights_of(task):
    return AutoModelForCausalLM.from_pretrained(task.model_out).state_dict()


def step_stored(task):
    with safe_open(task.checkpoints / NAME, "pt") as file:
        return int(file.metadata()["step"])


@pytest.fixture
def undisturbed(interrupted_task):
    task = ready(interrupted_task())
    return run(task), weights_of(task)


def assert_same(task, trained, undisturbed):
    expected, weights = undisturbed
    assert [p["step"] for p in trained.curve] == [p["step"] for p in expected.curve]
    for point, other in zip(trained.curve, expected.curve, strict=True):
        assert all(math.isclose(point[name], other[name], abs_tol=1e-5) for name in other)
    got = weights_of(task)
    assert all(torch.allclose(got[name], weights[name], atol=1e-5, rtol=0) for name in weights)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(interrupted_task, undisturbed, zero_stage):
    task = ready(interrupted_task(), zero_stage=zero_stage)
    for calls in (2, 3, 4):  # the empty step after a restart is a pass of its own
        with pytest.raises(PowerCut):
            run(task, calls)
    assert step_stored(task) == 1 + 1 + 2
    assert_same(task, run(task), undisturbed)


def test_a_checkpoint_fits_another_zero_stage(interrupted_task, undisturbed):
    task = interrupted_task()
    with pytest.raises(PowerCut):
        run(ready(task, zero_stage=0), 3)
    with pytest.raises(PowerCut):
        run(ready(task, zero_stage=3), 3)
    assert step_stored(task) == 3
    resumed = ready(task, zero_stage=1, micro_batch_tokens=100)
    assert_same(resumed, run(resumed), undisturbed)


def test_a_checkpoint_of_another_key_is_not_used(interrupted_task, undisturbed):
    from dataclasses import replace

    task = ready(interrupted_task())
    with pytest.raises(PowerCut):
        run(replace(task, key="another key"), 4)
    assert_same(task, run(task), undisturbed)


@pytest.mark.parametrize("damage", ["torn", "empty", "of another model"])
def test_a_checkpoint_that_cannot_be_used_means_starting_over(interrupted_task, undisturbed, damage, capfd):
    from safetensors.torch import save_file

    task = ready(interrupted_task())
    with pytest.raises(PowerCut):
        run(task, 4)
    path = task.checkpoints / NAME
    if damage == "of another model":
        save_file({"other": torch.zeros(2)}, path, metadata={"key": task.key, "step": "3", "curve": json.dumps([])})
    else:
        path.write_bytes(path.read_bytes()[:1000] if damage == "torn" else b"")
    assert_same(task, run(task), undisturbed)
    assert ("training starts over" in capfd.readouterr().err) == (damage != "of another model")


def test_a_half_written_checkpoint_beside_the_last_good_one_is_ignored(interrupted_task, undisturbed):
    task = ready(interrupted_task())
    with pytest.raises(PowerCut):
        run(task, 4)
    (task.checkpoints / f"{NAME}.partial").write_bytes(b"half")
    assert_same(task, run(task), undisturbed)


def test_bfloat16_keeps_its_float32_master_weights_over_an_interruption(interrupted_task):
    from dataclasses import replace

    whole, parts = (ready(interrupted_task()) for _ in range(2))
    low = whole.train.model_copy(update={"dtype": "bfloat16"})
    whole, parts = replace(whole, train=low), replace(parts, train=low)
    expected = run(whole)
    with pytest.raises(PowerCut):
        run(parts, 4)
    assert_same(parts, run(parts), (expected, weights_of(whole)))


def test_checkpoints_are_made_at_the_interval_only(interrupted_task):
    task = ready(interrupted_task(), checkpoint_interval_s=3600.0)
    run(task)
    assert not (task.checkpoints / NAME).exists()
