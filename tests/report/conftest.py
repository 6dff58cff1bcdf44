"""A project with the outputs of two phases and an evaluation, written by hand."""

import json

import pytest

from kdbuild import canonical, records
from kdbuild.records import Call, Dropped, Message, Row
from kdbuild.rows.answers import encode
from kdbuild.spec.model import Params
from kdbuild.spec.sections import ReportSection
from kdbuild.stages.job import Job
from kdbuild.teachers import Answer

EVIL = "<script>alert('x')</script> & \"quotes\" </div> <img src=http://example.org/a.png> `code` | {{ 7 * 7 }} \x00"
SECTION = {
    "spec": "helper",
    "target": {"skill": "instruction-following", "vertical": None},
    "teacher": "smollm2 (hf:org/teacher-135m@abc)",
    "licence": "Apache-2.0",
    "student": "causal-lm",
    "phases": {"sft": ["elicit", "select", "train"], "kl": ["train"]},
}
METRICS = {
    "init": {"held_out_loss_nats_per_token": 6.5, "kl_to_teacher_nats_per_token": 5.25, "top1_agreement_frac": 0.1},
    "sft": {"held_out_loss_nats_per_token": 2.6, "kl_to_teacher_nats_per_token": 2.1, "top1_agreement_frac": 0.5},
    "kl": {"held_out_loss_nats_per_token": 2.7, "kl_to_teacher_nats_per_token": 1.75, "top1_agreement_frac": 0.55},
    "teacher": {"held_out_loss_nats_per_token": 0.4, "kl_to_teacher_nats_per_token": 0.0, "top1_agreement_frac": 1.0},
}
BETTER = {"held_out_loss_nats_per_token": "lower", "kl_to_teacher_nats_per_token": "lower", "top1_agreement_frac": "higher"}
DROPPED = [
    Dropped("d1", "semantic-dedup", "nearly the same as another row", "r1", 0.97, f"user: {EVIL}"),
    Dropped("d2", "semantic-dedup", "nearly the same as another row", "r2", 0.95, "user: two"),
    Dropped("d3", "exact-dedup", "same prompt as another row", "r1", None, "user: three"),
    Dropped("d4", "label", "empty answer", text="user: four"),
]


STEPS = [("exact-dedup", 6, 5), ("semantic-dedup", 5, 3)]
FACTS = {
    "num_rows": 9,
    "num_kept": 3,
    "num_held_out": 2,
    "num_dropped": {},
    "steps": [
        {"kind": kind, "num_training_in": before, "num_training_left": after, "num_held_out_in": 2, "num_held_out_left": 2}
        for kind, before, after in STEPS
    ],
}


def rows():
    return [
        Row(
            id=f"r{n}",
            messages=(Message("user", EVIL if n == 1 else f"prompt {n}"), Message("assistant", f"answer {n}", train=True)),
            roots=(f"r{n}",),
            held_out=n in (3, 4),
            scores={"x": 0.5},
        )
        for n in range(1, 6)
    ]


def calls():
    answers = {f"r{n}": Answer(f"answer {n}", ended=n != 5, num_prompt_tokens=20, num_new_tokens=10 * n) for n in range(1, 6)}
    # Two rows that asked the same question share one answer, and it was paid for once.
    shared = [Call(row, "k1", 64, encode(answers["r1"])) for row in ("d3", "r1")]
    return [*shared, *(Call(f"r{n}", f"k{n}", 64, encode(answers[f"r{n}"])) for n in range(2, 6))]


def dataset(root, path, record, values):
    folder = root / path
    folder.mkdir(parents=True)
    records.write_dataset(folder, record, values)


def write_json(root, path, value):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(canonical.pretty(value))


class Project:
    def __init__(self, root):
        self.root = root

    def write_data(self, *, dropped=DROPPED, selected=None, facts=FACTS):
        dataset(self.root, "artifacts/helper/sft/selected", Row, rows() if selected is None else selected)
        dataset(self.root, "artifacts/helper/sft/dropped", Dropped, dropped)
        dataset(self.root, "artifacts/helper/sft/calls", Call, calls())
        write_json(self.root, "artifacts/helper/sft/elicit.json", {"num_seeds": 9, "num_rows": 8, "num_rejected": {"empty answer": 1}})
        write_json(self.root, "artifacts/helper/sft/select.json", facts)

    def write_training(self):
        for phase in ("sft", "kl"):
            loss = {step: 3 / step for step in range(1, 9)}
            curve = [
                {"step": step, "loss_nats_per_token": loss[step], "forward-kl_nats_per_token": loss[step], "learning_rate": 1e-4 * step}
                for step in loss
            ]
            facts = {"num_optimiser_steps": 8, "num_training_tokens": 12345, "curve": curve}
            write_json(self.root, f"artifacts/helper/{phase}/train.json", facts)

    def write_evaluation(self, metrics=METRICS):
        write_json(self.root, "artifacts/helper/metrics.json", {**metrics, "num_held_out_rows": 2})
        folder = self.root / "artifacts/helper/evaluate/plots"
        folder.mkdir(parents=True)
        for metric, better in BETTER.items():
            lines = [{"model": model, "metric": metric, "value": metrics[model][metric], "better": better} for model in metrics]
            (folder / f"metric-{metric}.json").write_text(json.dumps(lines))
        texts = [{"model": model, "text": EVIL if model == "init" else f"{model} says"} for model in metrics]
        sample = {"id": "r3", "messages": [["user", "prompt 3 " + EVIL]], "answer": "answer 3", "answers": texts}
        (folder / "samples.json").write_text(json.dumps([sample]))
        records.write_manifest(folder, {"record": "Evaluation"})

    def job(self, **changes):
        section = ReportSection.of({**SECTION, **changes})
        evaluated = (self.root / "artifacts/helper/metrics.json").exists()
        write_json(self.root, "artifacts/helper/resolved.json", {"report": {}, **({"evaluate": {}} if evaluated else {})})
        return Job(self.root, "helper", "report", None, {**section.model_dump(), "_key": "k"}, Params())


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def whole(project):
    project.write_data()
    project.write_training()
    project.write_evaluation()
    return project
