"""The loop against plain torch, and against itself under every knob."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from kdbuild.errors import StageError
from kdbuild.spec.model import Train
from kdbuild.teachers import _network
from kdbuild.training.batches import Example, optimiser_steps
from kdbuild.training.launch import train
from kdbuild.training.loop import learning_rates
from kdbuild.training.models import load_causal_lm, load_tokenizer, save_causal_lm
from kdbuild.training.tokens import encode

CLOSE = {"atol": 1e-5, "rtol": 0}
RATE = {"learning_rate": 5e-4}  # the shipped spec's
EVERY_STEP = {"checkpoint_interval_s": 1e-9}
KL = {"kind": "forward-kl", "temperature": 2.0, "weight": 0.5}
MIXED = ({"kind": "sft"}, KL)


def weights_of(task):
    return AutoModelForCausalLM.from_pretrained(task.model_out).state_dict()


def moments_of(task):
    """AdamW's first moments after the last step but one, which are linear in the gradients of all steps before."""
    stored = load_file(task.checkpoints / "train.safetensors")
    return {name.removeprefix("student.").removesuffix("/exp_avg"): m for name, m in stored.items() if name.endswith("/exp_avg")}


def assert_same_weights(got, expected):
    """Weights are equal to 1e-5, but for those few whose gradient was rounding error.

    AdamW divides a gradient by its own size, so noise of 1e-9 in a gradient of 1e-8 moves the weight by a tenth of the learning rate;
    one weight of the 6,000 here is such a one. It may differ by no more than the rate.
    """
    assert got.keys() == expected.keys()
    apart = torch.cat([(got[name] - expected[name]).abs().flatten() for name in expected])
    assert (apart > 1e-5).sum() <= len(apart) / 1000
    assert apart.max() < RATE["learning_rate"] / 10


def assert_same_run(got, expected, task, expected_weights, expected_moments):
    """Losses, gradients, their norms and final weights are equal to 1e-5."""
    assert len(got.curve) == len(expected.curve)
    for point, other in zip(got.curve, expected.curve, strict=True):
        assert point.keys() == other.keys()
        assert all(math.isclose(point[name], other[name], rel_tol=1e-5, abs_tol=1e-5) for name in point)
    weights = weights_of(task)
    assert_same_weights(weights, expected_weights)
    moments = moments_of(task)
    assert moments.keys() == expected_moments.keys()
    assert all(torch.allclose(moments[name], expected_moments[name], atol=1e-6, rtol=0) for name in moments)


def plain_torch(task):
    """Train as the task says, with nothing of the loop: one row at a time, whole logits, autograd; return losses, weights and moments."""
    tokenizer, model = load_tokenizer(task.start), load_causal_lm(task.start)
    teacher = _network.build(4, 64, 0)[0]
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=task.train.weight_decay)
    examples = [Example(row.id, encode(tokenizer, row, task.train.max_tokens)) for row in task.rows]
    steps = optimiser_steps(examples, num_epochs=task.train.num_epochs, batch_tokens=task.train.batch_tokens, seed=task.train.seed)
    losses = []
    for rate, group in zip(learning_rates(task.train, len(steps)), steps, strict=True):
        terms = {objective.kind: torch.zeros(()) for objective in task.objectives}
        count = 0
        for example in group:
            ids = torch.tensor([example.encoded.ids])
            at = [i - 1 for i, trained in enumerate(example.encoded.trained) if trained]
            logits = model(ids).logits[0, at]
            count += len(at)
            for objective in task.objectives:
                if objective.kind == "sft":
                    terms["sft"] = terms["sft"] + torch.nn.functional.cross_entropy(logits, ids[0, 1:][at], reduction="sum")
                else:
                    t = objective.temperature
                    with torch.no_grad():
                        p = (teacher(ids).logits[0, at] / t).log_softmax(-1)
                    q = (logits / t).log_softmax(-1)
                    terms["forward-kl"] = terms["forward-kl"] + t * t * (p.exp() * (p - q)).sum()
        loss = sum(objective.weight * terms[objective.kind] / count for objective in task.objectives)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), task.train.max_grad_norm)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        if len(losses) == len(steps) - 1:
            moments = {name: optimiser.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    return losses, model.state_dict(), moments


@pytest.mark.parametrize("objectives", [({"kind": "sft"},), (KL,), MIXED], ids=["sft", "forward-kl", "both"])
def test_losses_and_weights_are_those_of_plain_torch(new_task, objectives):
    task = new_task(objectives=objectives, train={**RATE, "weight_decay": 0.1, "schedule": "cosine"}, runtime=EVERY_STEP)
    losses, weights, moments = plain_torch(task)
    trained = train(task)
    assert trained.num_steps == len(losses) > 4
    assert all(math.isclose(point["loss_nats_per_token"], loss, abs_tol=1e-5) for point, loss in zip(trained.curve, losses, strict=True))
    assert_same_weights(weights_of(task), weights)
    got = moments_of(task)
    assert all(torch.allclose(got[name], moments[name], atol=1e-6, rtol=0) for name in moments)
    assert max(moment.abs().max() for moment in moments.values()) > 1e-2


@pytest.fixture
def reference(new_task):
    task = new_task(objectives=MIXED, train=RATE, runtime=EVERY_STEP)
    return train(task), weights_of(task), moments_of(task)


def test_neither_micro_batches_nor_zero_stages_change_the_run(new_task, reference):
    expected, weights, moments = reference
    for knobs in (
        {"micro_batch_tokens": 1},
        {"micro_batch_tokens": 100},
        {"zero_stage": 1},
        {"zero_stage": 2, "micro_batch_tokens": 100},
        {"zero_stage": 3},
    ):
        task = new_task(objectives=MIXED, train=RATE, runtime={**EVERY_STEP, **knobs})
        assert_same_run(train(task), expected, task, weights, moments)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_ranks_are_one(new_task, reference, zero_stage):
    expected, weights, moments = reference
    knobs = {"num_ranks": 2, "zero_stage": zero_stage, "micro_batch_tokens": 150}
    task = new_task(objectives=MIXED, train=RATE, runtime={**EVERY_STEP, **knobs})
    assert_same_run(train(task), expected, task, weights, moments)


def test_an_untied_head_is_trained_too_at_every_zero_stage(new_task, tmp_path, tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    save_causal_lm(
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, **sizes)), tokenizer, tmp_path / "untied"
    )
    found = []
    for stage in (0, 3):
        task = new_task(start=tmp_path / "untied", runtime={"zero_stage": stage})
        train(task)
        found.append(weights_of(task))
    before = load_causal_lm(tmp_path / "untied").state_dict()
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.allclose(found[0][name], found[1][name], **CLOSE)
        assert not torch.allclose(found[0][name], before[name], atol=1e-3)


def test_bfloat16_trains_with_float32_master_weights(new_task):
    low, full = new_task(train={"dtype": "bfloat16"}), new_task()
    trained = train(low)
    assert load_causal_lm(low.model_out, "bfloat16").dtype == torch.bfloat16
    expected = train(full)
    assert trained.final_loss["sft"] == pytest.approx(expected.final_loss["sft"], abs=0.05)
    assert trained.final_loss["sft"] < trained.curve[0]["sft_nats_per_token"] - 0.3


def test_the_same_task_gives_the_same_bytes(new_task):
    first, second = new_task(), new_task()
    train(first)
    train(second)
    assert (first.model_out / "model.safetensors").read_bytes() == (second.model_out / "model.safetensors").read_bytes()


def test_the_order_of_the_rows_does_not_matter(new_task):
    first = new_task()
    second = new_task(rows=first.rows[::-1])
    assert train(first) == train(second)
    assert (first.model_out / "model.safetensors").read_bytes() == (second.model_out / "model.safetensors").read_bytes()


def test_forward_kl_of_a_student_that_is_its_teacher_is_zero(new_task, tmp_path):
    model, tokenizer = _network.build(4, 64, 0)
    save_causal_lm(model, tokenizer, tmp_path / "same")
    trained = train(new_task(objectives=(KL,), start=tmp_path / "same", train={"num_epochs": 1}))
    assert trained.curve[0]["forward_kl_nats_per_token"] == pytest.approx(0, abs=1e-6)


def test_rows_with_nothing_to_train_are_counted_and_left_out(new_task):
    task = new_task()
    mute = replace(task.rows[0], id="mute", messages=task.rows[0].messages[:1])
    with_mute = train(new_task(rows=(*task.rows, mute)))
    without = train(task)
    assert with_mute.num_rows_without_trained_token == 1
    assert with_mute.num_rows == without.num_rows == len(task.rows)
    assert with_mute.curve == without.curve


def test_nothing_to_train_at_all_is_an_error(new_task):
    with pytest.raises(StageError, match="none of 0 rows"):
        train(new_task(rows=()))


def test_a_teacher_of_another_vocabulary_is_refused(new_task, tmp_path, tokenizer):
    more = len(tokenizer) + 3
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=more, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    save_causal_lm(LlamaForCausalLM(config), tokenizer, tmp_path / "wide")
    with pytest.raises(StageError, match="do not share a vocabulary"):
        train(new_task(objectives=(KL,), start=tmp_path / "wide"))


def test_rows_longer_than_the_context_are_refused(new_task):
    task = new_task()
    long = replace(task.rows[0].messages[1], content="word " * 100)
    row = replace(task.rows[0], messages=(task.rows[0].messages[0], long))
    with pytest.raises(StageError, match="at most 256 tokens"):
        train(new_task(rows=(row,)))


def test_a_loss_that_is_not_a_number_ends_the_run(new_task):
    with pytest.raises(StageError, match="not a number"):
        train(new_task(train={"learning_rate": 1e30}))


@pytest.mark.slow
def test_an_error_on_a_rank_is_the_same_sentence(new_task):
    with pytest.raises(StageError, match="not a number"):
        train(new_task(train={"learning_rate": 1e30}, runtime={"num_ranks": 2}))


def test_a_hostfile_that_is_not_there_is_named(new_task):
    with pytest.raises(StageError, match=r"hosts\.txt, which is not there"):
        train(new_task(runtime={"hostfile": "hosts.txt"}))


def test_a_device_that_is_not_there_is_named(new_task):
    task = new_task()
    with pytest.raises(StageError, match="no CUDA device"):
        train(replace(task, runtime=task.runtime.model_copy(update={"device": "cuda"})))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 0.75, 0.5, 0.25])],
)
def test_learning_rates_rise_from_above_zero_and_end_above_zero(schedule, expected):
    rates = learning_rates(Train(schedule=schedule, warmup_frac=0.4, learning_rate=2.0), 5)
    assert rates == pytest.approx([2.0 * factor for factor in expected])


def test_a_single_step_is_made_at_the_full_rate():
    assert learning_rates(Train(learning_rate=2.0), 1) == [2.0]
