"""The stage that writes the untrained student, once: what phases start from and are compared with."""

from __future__ import annotations

from kdbuild import records
from kdbuild.errors import StageError
from kdbuild.spec import layout
from kdbuild.spec.sections import InitSection
from kdbuild.stages.job import Job


def run(job: Job) -> None:
    """Write `artifacts/<spec>/init/model/`."""
    from kdbuild.training.models import save_causal_lm

    section = InitSection.of(job.section)
    use = section.teacher
    model, tokenizer = section.student.build(
        root=job.root,
        weights=job.weights(section.weights),
        teacher=None if use is None else job.teacher(use),
        teacher_weights=None if use is None else job.weights(use.weights),
    )
    if not tokenizer.chat_template:
        raise StageError(
            "the student's tokenizer has no chat template, so its rows cannot be written as prompts",
            hint="start from an instruction-tuned model, or from a config with such a `tokenizer:`",
        )
    folder = job.out(layout.out(job.spec, "init", "model"))
    save_causal_lm(model, tokenizer, folder)
    records.write_manifest(folder, {"num_parameters": model.num_parameters()})
