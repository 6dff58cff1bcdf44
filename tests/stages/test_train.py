"""The train and init stages as the runner calls them, on the fake teacher's network."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdbuild import records
from kdbuild.records import Message, Row
from kdbuild.spec.model import Params
from kdbuild.stages import init, train
from kdbuild.stages.job import Job

DATA, START = "artifacts/s/sft/selected", "artifacts/s/init/model"
FAKE = {"name": "t", "teacher": {"kind": "fake"}, "weights": None}


def row(name, question, answer, *, held_out=False):
    return Row(name, (Message("user", question), Message("assistant", answer, train=True)), held_out=held_out)


ROWS = [
    row("a", "How old is the cat?", "Three years."),
    row("b", "What is bread made of?", "Flour, water, salt and yeast."),
    row("c", "Where does rice grow?", "In wet fields."),
    row("d", "Who sat on the mat?", "The cat.", held_out=True),
]


def make_job(root, step, section, runtime=None):
    params = Params.model_validate({"runtime": {"device": "cpu", **(runtime or {})}})
    return Job(root, "s", step, "sft" if step == "train" else None, {"_key": "k", **section}, params)


@pytest.fixture
def project(tmp_path):
    """A project whose student is initialised: half of the fake teacher's layers."""
    (tmp_path / ".dvc").mkdir()
    student = {"kind": "causal-lm", "init": {"from": "teacher", "layers": 2}}
    job = make_job(tmp_path, "init", {"student": student, "weights": None, "teacher": FAKE})
    init.run(job)
    job.finish()
    return tmp_path


def train_on(project, rows=ROWS, runtime=None, **changes):
    folder = project / DATA
    folder.mkdir(parents=True, exist_ok=True)
    records.write_dataset(folder, Row, rows)
    section = {
        "data": [DATA],
        "start": START,
        "objectives": [{"kind": "forward-kl"}],
        "teachers": {"": FAKE},
        "features": [],
        "adaptation": None,
        "train": {"num_epochs": 3, "batch_tokens": 100, "learning_rate": 5e-3},
        **changes,
    }
    job = make_job(project, "train", section, runtime)
    train.run(job)
    job.finish()
    return json.loads((project / "artifacts/s/sft/train.json").read_text(encoding="utf-8"))


def test_init_writes_a_student_that_loads_by_itself(project):
    model = AutoModelForCausalLM.from_pretrained(project / START)
    assert model.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(project / START).chat_template
    assert "model.safetensors" in records.read_manifest(project / START, hashes=True)["files"]


def test_a_phase_writes_a_model_that_loads_by_itself_and_learned_something(project):
    facts = train_on(project)
    folder = project / "artifacts/s/sft/model"
    manifest = records.read_manifest(folder, hashes=True)
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= manifest["files"].keys()
    assert AutoTokenizer.from_pretrained(folder).chat_template
    before, after = (AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (project / START, folder))
    assert any(not torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert facts["final_loss"]["forward_kl"] < facts["curve"][0]["forward_kl_nats_per_token"]
    assert not (project / "artifacts/s/sft/adapter").exists()


def test_the_facts_are_counts_and_a_curve_without_times_or_places(project):
    facts = train_on(project)
    assert set(facts) == {
        "num_rows",
        "num_rows_without_trained_token",
        "num_rows_left_out_held_out",
        "num_rows_left_out_equal_to_held_out",
        "num_tokens_trained",
        "num_steps",
        "final_loss",
        "curve",
    }
    assert (facts["num_rows"], facts["num_rows_left_out_held_out"]) == (3, 1)
    answers = [r.answer for r in ROWS if not r.held_out]
    assert facts["num_tokens_trained"] == sum(len(text.encode()) + 1 for text in answers)  # a token is a byte; and the end of turn
    assert [point["step"] for point in facts["curve"]] == list(range(1, facts["num_steps"] + 1))
    assert set(facts["curve"][0]) == {"step", "loss_nats_per_token", "forward_kl_nats_per_token", "learning_rate", "grad_norm"}


def test_the_same_inputs_give_the_same_bytes(project):
    facts, digests = zip(*((train_on(project), records.read_manifest(project / "artifacts/s/sft/model")) for _ in range(2)), strict=True)
    assert facts[0] == facts[1]
    assert digests[0] == digests[1]


def test_held_out_rows_and_their_equals_play_no_part(project):
    equals = [
        row("e", "  who SAT on\nthe mat? ", "A dog."),
        row("f", "Which animal?", "the  cat."),
        row("g", "Which animal barks?", "A secret.", held_out=True),
    ]
    with_equals = train_on(project, [*ROWS, *equals])
    weights = (project / "artifacts/s/sft/model/model.safetensors").read_bytes()
    without = train_on(project)
    assert (project / "artifacts/s/sft/model/model.safetensors").read_bytes() == weights
    assert with_equals["num_rows_left_out_equal_to_held_out"] == 2
    assert with_equals["num_rows_left_out_held_out"] == 2
    assert without["num_rows_left_out_equal_to_held_out"] == 0
    assert with_equals["curve"] == without["curve"]


def test_equality_with_a_held_out_row_looks_past_system_turns_and_width():
    system = Message("system", "Be brief.")
    mine = Row("x", (system, Message("user", "Ｗｈｏ?"), Message("assistant", "1", train=True)))
    theirs = row("y", "who?", "2", held_out=True)
    assert train.split_sides([mine, theirs]).num_rows_left_out_equal_to_held_out == 1


def test_an_adaptation_writes_the_adapter_beside_the_merged_model(project):
    train_on(project, adaptation={"kind": "lora", "rank": 2})
    adapter = project / "artifacts/s/sft/adapter"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= records.read_manifest(adapter, hashes=True)["files"].keys()
    model = AutoModelForCausalLM.from_pretrained(project / "artifacts/s/sft/model")
    start = AutoModelForCausalLM.from_pretrained(project / START)
    assert model.state_dict().keys() == start.state_dict().keys()
    assert torch.equal(model.model.embed_tokens.weight, start.model.embed_tokens.weight)
    assert not torch.allclose(model.model.layers[0].mlp.up_proj.weight, start.model.layers[0].mlp.up_proj.weight, atol=1e-5)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_an_adapter_is_the_same_at_every_zero_stage(project, zero_stage):
    changes = {"adaptation": {"kind": "lora", "rank": 2}, "objectives": [{"kind": "sft"}]}
    expected = train_on(project, **changes)
    got = train_on(project, runtime={"train": {"zero_stage": zero_stage}}, **changes)
    losses = [[point["loss_nats_per_token"] for point in facts["curve"]] for facts in (got, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_checkpoints_are_gone_when_the_phase_is_done(project):
    train_on(project, runtime={"train": {"checkpoint_interval_s": 1e-9}})
    assert not list((project / ".dvc/kdbuild/scratch").rglob("*.safetensors"))


def test_a_teacher_no_objective_needs_is_not_opened(project):
    broken = {"name": "t", "teacher": {"kind": "transformers", "model": "path:nowhere"}, "weights": "nowhere"}
    facts = train_on(project, objectives=[{"kind": "sft"}], teachers={"": broken})
    assert facts["num_steps"] > 0
