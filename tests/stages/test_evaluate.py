import json
from typing import Literal

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kdbuild import kinds, records
from kdbuild.errors import ArtifactError, StageError
from kdbuild.evaluators.rouge import Rouge
from kdbuild.records import Message, Row
from kdbuild.spec.model import Params
from kdbuild.spec.sections import EvaluateSection, TeacherUse
from kdbuild.stages import evaluate
from kdbuild.stages.job import Job
from kdbuild.teachers import Signal, Teacher
from kdbuild.training.models import load_causal_lm, load_tokenizer, save_causal_lm

WORDS = ["<s>", "</s>", "<user>", "<assistant>", "a", "b", "c"]
TEMPLATE = (
    "{% for m in messages %}{{ '<user> ' + m.content if m.role == 'user' else '<assistant> ' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
EVALUATORS = [{"kind": "held-out-loss"}, {"kind": "teacher-agreement"}, {"kind": "rouge", "max_new_tokens": 4}]


def write_model(folder, seed):
    folder.mkdir(parents=True)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="</s>",
        pad_token="<s>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=TEMPLATE,
    )
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=96, initializer_range=0.6, **sizes))
    save_causal_lm(model, tokenizer, folder)
    records.write_manifest(folder, {"record": "Model"})


class Beside(Teacher):
    """A teacher whose network is a folder of the project."""

    kind: Literal["beside"] = "beside"

    @property
    def gives(self):
        return frozenset({Signal.TEXT, Signal.LOGITS})

    def open(self, root, weights):
        raise NotImplementedError

    def load(self, root, weights):
        return load_causal_lm(weights), load_tokenizer(weights)


def rows_of(num, *, held_out=True, start=0):
    return [
        Row(
            id=f"r{n:02}",
            messages=(Message("user", "a b " * (1 + n % 3)), Message("assistant", "c a " * (1 + n % 2), train=True)),
            held_out=held_out,
        )
        for n in range(start, start + num)
    ]


def write_rows(root, path, rows):
    folder = root / path
    folder.mkdir(parents=True)
    records.write_dataset(folder, Row, rows)


def job_of(root, *, evaluators=EVALUATORS, teacher="artifacts/models/t/weights", rows=("artifacts/s/sft/selected",), **knobs):
    use = None if teacher is None else TeacherUse(name="t", teacher=Beside(), weights=teacher)
    section = EvaluateSection(
        rows=list(rows),
        models={"init": "artifacts/s/init/model", "sft": "artifacts/s/sft/model"},
        teacher=use,
        evaluators=[kinds.parse("evaluators", each) for each in evaluators],
    )
    params = Params.model_validate({"runtime": knobs})
    return Job(root, "s", "evaluate", None, {**dict(section), "_key": "k"}, params)


@pytest.fixture
def root(tmp_path):
    write_model(tmp_path / "artifacts/s/init/model", 1)
    write_model(tmp_path / "artifacts/s/sft/model", 2)
    write_model(tmp_path / "artifacts/models/t/weights", 3)
    write_rows(tmp_path, "artifacts/s/sft/selected", [*rows_of(10), *rows_of(3, held_out=False, start=50)])
    return tmp_path


def finish(job):
    evaluate.run(job)
    job.finish()
    return json.loads((job.root / "artifacts/s/metrics.json").read_text())


def test_every_model_and_the_teacher_are_measured_on_the_held_out_rows(root):
    found = finish(job_of(root))
    assert found.pop("num_held_out_rows") == 10
    assert set(found) == {"init", "sft", "teacher"}
    names = {"held_out_loss_nats_per_token", "kl_to_teacher_nats_per_token", "top1_agreement_frac", "rouge_l_f1"}
    assert all(set(metrics) == names for metrics in found.values())
    assert found["teacher"]["kl_to_teacher_nats_per_token"] == 0.0
    assert found["teacher"]["top1_agreement_frac"] == 1.0
    assert found["init"]["kl_to_teacher_nats_per_token"] > 0.01


def test_what_is_plotted_is_what_was_measured(root):
    metrics = finish(job_of(root))
    folder = root / "artifacts/s/evaluate/plots"
    assert records.read_manifest(folder, hashes=True)["num_rows"] == 10
    comparison = [line for file in sorted(folder.glob("metric-*.json")) for line in json.loads(file.read_text())]
    assert {(line["model"], line["metric"]): line["value"] for line in comparison} == {
        (model, metric): value for model in ("init", "sft", "teacher") for metric, value in metrics[model].items()
    }
    assert {line["metric"]: line["better"] for line in comparison}["top1_agreement_frac"] == "higher"
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert [(line["model"], line["id"]) for line in scores] == [(m, f"r{n:02}") for m in ("init", "sft", "teacher") for n in range(10)]
    ours = [line for line in scores if line["model"] == "sft"]
    mean = sum(line["nll_nats_per_token"] * line["num_trained_tokens"] for line in ours) / sum(line["num_trained_tokens"] for line in ours)
    assert mean == pytest.approx(metrics["sft"]["held_out_loss_nats_per_token"], abs=2e-4)


def test_samples_show_the_prompt_and_everybodys_answer(root):
    finish(job_of(root))
    samples = json.loads((root / "artifacts/s/evaluate/plots/samples.json").read_text())
    assert len(samples) == 8
    first = samples[0]
    assert first["messages"][0][0] == "user"
    assert first["answer"].startswith("c a")
    assert [answer["model"] for answer in first["answers"]] == ["init", "sft", "teacher"]
    # Rouge allowed four tokens, and samples come from what it wrote.
    assert all(len(answer["text"].split()) <= 4 for sample in samples for answer in sample["answers"])


def test_samples_are_written_without_an_evaluator_that_writes(root):
    finish(job_of(root, evaluators=[{"kind": "held-out-loss"}], teacher=None))
    samples = json.loads((root / "artifacts/s/evaluate/plots/samples.json").read_text())
    assert [answer["model"] for answer in samples[0]["answers"]] == ["init", "sft"]
    assert any(len(answer["text"].split()) > 4 for sample in samples for answer in sample["answers"])


def test_equal_inputs_give_equal_bytes_and_a_knob_moves_no_metric(root):
    def everything(job):
        metrics = finish(job)
        return metrics, {p.name: p.read_bytes() for p in (root / "artifacts/s/evaluate/plots").iterdir()}

    first = everything(job_of(root))
    assert everything(job_of(root)) == first
    metrics, _ = everything(job_of(root, evaluate={"batch_tokens": 1}))
    for model in ("init", "sft", "teacher"):
        assert metrics[model] == pytest.approx(first[0][model], abs=2e-4)


def test_the_training_side_is_never_read(root):
    before = finish(job_of(root))
    other = root / "other/selected"
    write_rows(root, "other/selected", [*rows_of(10), *rows_of(9, held_out=False, start=70)])
    assert other.is_dir()
    assert finish(job_of(root, rows=("other/selected",))) == before


def test_a_row_in_two_data_sets_counts_once_and_two_rows_of_one_id_both_count(root):
    changed = Row("r00", (Message("user", "b"), Message("assistant", "b", train=True)), held_out=True)
    write_rows(root, "other/selected", [*rows_of(2, start=1), changed])
    metrics = finish(job_of(root, rows=("artifacts/s/sft/selected", "other/selected")))
    assert metrics["num_held_out_rows"] == 11
    ids = {json.loads(line)["id"] for line in (root / "artifacts/s/evaluate/plots/scores.jsonl").read_text().splitlines()}
    assert {"r00", "r00#2"} <= ids


def test_no_held_out_rows_is_an_error_that_says_how_to_get_some(root):
    write_rows(root, "none/selected", rows_of(4, held_out=False))
    with pytest.raises(StageError, match="none/selected has no held-out rows") as raised:
        evaluate.run(job_of(root, rows=("none/selected",)))
    assert "held_out_frac" in raised.value.hint


def test_an_evaluator_of_logits_without_such_a_teacher_is_an_error(root):
    with pytest.raises(StageError, match="teacher-agreement compares with the teacher's logits"):
        evaluate.run(job_of(root, teacher=None))


def test_a_missing_model_is_an_error(root):
    (root / "artifacts/s/sft/model/manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"sft/model is not there or has no manifest\.json"):
        evaluate.run(job_of(root))


def test_the_teacher_is_loaded_once_and_students_one_at_a_time(root, monkeypatch):
    import gc
    import weakref

    alive, most = weakref.WeakSet(), []
    real = Rouge.measure

    def measure(self, subject, rows, teacher):
        alive.add(subject.model)
        gc.collect()
        most.append(sum(1 for _ in alive))
        return real(self, subject, rows, teacher)

    monkeypatch.setattr(Rouge, "measure", measure)
    loads = []
    monkeypatch.setattr(Beside, "load", lambda self, root, weights: loads.append(1) or (load_causal_lm(weights), load_tokenizer(weights)))
    evaluate.run(job_of(root))
    assert most == [1, 1, 1]
    assert loads == [1]


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_an_error(root, device):
    with pytest.raises(StageError, match=f"`runtime.device` in params.yaml is `{device}`"):
        evaluate.run(job_of(root, device=device))
