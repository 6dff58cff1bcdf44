"""Evaluate: the initialised student, the model after each training phase and the teacher, in turn, on the same held-out rows."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbuild import canonical, records
from kdbuild.errors import StageError
from kdbuild.evaluators import Evaluator, Subject
from kdbuild.records import Row
from kdbuild.spec import layout
from kdbuild.spec.sections import EvaluateSection, TeacherUse
from kdbuild.stages.job import Job
from kdbuild.teachers import Signal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEACHER = "teacher"
DECIMALS = 4
"""Digits kept of a metric: what another BLAS or another batch moves lies below them."""
NUM_SAMPLES = 8
SAMPLE_NEW_TOKENS = 64
"""Limit of a sample's answer where no evaluator made the model write."""


@dataclass
class Found:
    """What is known of one subject once it is freed."""

    name: str
    metrics: dict[str, float] = field(default_factory=dict)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def run(job: Job) -> None:
    """Write metrics.json and `evaluate/plots/` (models compared by each metric, scores of each row, samples).

    Raises:
        StageError: there is no held-out row, or an evaluator needs a teacher that is not there.
    """
    section = EvaluateSection.of(job.section)
    rows = held_out_rows(job, section.rows)
    samples = sorted((row for row in rows if row.answer is not None), key=lambda row: (canonical.fraction("sample", row.id), row.id))
    found = list(_measure_all(job, section, rows, samples[:NUM_SAMPLES]))
    metrics: dict[str, Any] = {one.name: one.metrics for one in found}
    job.write_json(layout.metrics(job.spec), {**metrics, "num_held_out_rows": len(rows)})
    folder = job.out(layout.out(job.spec, "evaluate", "plots"))
    _write_plots(folder, section.evaluators, found, samples[:NUM_SAMPLES])
    records.write_manifest(folder, {"record": "Evaluation", "num_rows": len(rows)})


def held_out_rows(job: Job, paths: Sequence[str]) -> list[Row]:
    """Return the held-out side of the data sets, by id; two different rows of one id both count.

    Raises:
        StageError: there is none.
    """
    found: dict[str, Row] = {}
    for path in paths:
        for row in records.read_dataset(job.input(path), Row):
            name, number = row.id, 1
            while found.get(name, row) != row:
                number += 1
                name = f"{row.id}#{number}"
            if row.held_out:
                found[name] = row
    if not found:
        raise StageError(
            f"{', '.join(paths)} has no held-out rows, so there is nothing to evaluate on",
            hint="set `held_out_frac` to a share that leaves at least 20 rows (the default is 0.2), or give more seeds; "
            "where an operator makes the rows (`self-instruct`), raise its `target_rows`",
        )
    return [replace(row, id=id) for id, row in sorted(found.items())]


def _measure_all(job: Job, section: EvaluateSection, rows: list[Row], samples: list[Row]) -> Iterator[Found]:
    needing = [evaluator.kind for evaluator in section.evaluators if Signal.LOGITS in evaluator.needs]
    if needing and section.teacher is None:
        raise StageError(
            f"{' and '.join(needing)} compares with the teacher's logits, and this spec's teacher gives none",
            hint=f"take {' and '.join(needing)} out of `evaluate:`, or use a teacher of kind `transformers`",
        )
    beside = _teacher(job, section.teacher) if needing and section.teacher else None
    for name, path in section.models.items():
        with _student(job, name, path) as subject:
            yield _measure(section.evaluators, subject, rows, beside, samples)
    if section.teacher:
        subject = beside or _teacher(job, section.teacher)
        yield _measure(section.evaluators, subject, rows, subject, samples)


def _measure(evaluators: Sequence[Evaluator], subject: Subject, rows: list[Row], teacher: Subject | None, samples: list[Row]) -> Found:
    from kdbuild.evaluators._writing import write

    print(f"evaluating {subject.name} on {len(rows)} held-out rows", file=sys.stderr, flush=True)
    found = Found(subject.name)
    for evaluator in evaluators:
        measured = evaluator.measure(subject, rows, teacher if evaluator.needs else None)
        found.metrics.update({metric: _rounded(value) for metric, value in measured.metrics.items()})
        for row, scores in measured.rows.items():
            found.rows.setdefault(row, {}).update({score: _rounded(value) for score, value in scores.items()})
        found.texts.update(measured.texts)
    silent = [row for row in samples if row.id not in found.texts]
    if silent:
        found.texts.update(write(subject, silent, SAMPLE_NEW_TOKENS, skip_failures=True))
    return found


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, DECIMALS) + 0.0  # never -0.0


# --- models ----------------------------------------------------------------------------------------------------------


@contextmanager
def _student(job: Job, name: str, path: str) -> Iterator[Subject]:
    """Load a model of the spec, and free it again before the next one is loaded."""
    from kdbuild.training.models import load_causal_lm, load_tokenizer

    folder = job.input(path)
    held = [load_causal_lm(folder, device=_device(job))]
    try:
        yield _subject(job, name, held[0], load_tokenizer(folder))
    finally:
        held.clear()
        _free()


def _teacher(job: Job, use: TeacherUse) -> Subject:
    model, tokenizer = job.teacher(use).load(job.root, job.weights(use.weights))
    return _subject(job, TEACHER, model.to(_device(job)).eval(), tokenizer)


def _subject(job: Job, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Subject:
    from kdbuild.training.tokens import encode

    def cut(row: Row, max_tokens: int) -> tuple[list[int], list[bool]]:
        encoded = encode(tokenizer, row, max_tokens)
        return encoded.ids, encoded.trained

    return Subject(name, model, tokenizer, cut, job.runtime.evaluate.batch_tokens)


def _device(job: Job) -> str:
    import torch

    wanted = job.runtime.device
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError):  # AssertionError: a torch built without CUDA
        raise StageError(
            f"`runtime.device` in params.yaml is `{wanted}`, and torch finds no such device", hint="use `auto` or `cpu`"
        ) from None
    return wanted


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- what is written -------------------------------------------------------------------------------------------------


def _write_plots(folder: Path, evaluators: Sequence[Evaluator], found: Sequence[Found], samples: Sequence[Row]) -> None:
    better: Mapping[str, str] = {metric: way for evaluator in evaluators for metric, way in evaluator.directions.items()}
    for metric, way in better.items():
        # A file a metric, so that `dvc plots` gives each its own axis.
        lines = [{"model": one.name, "metric": metric, "value": one.metrics[metric], "better": way} for one in found]
        (folder / layout.metric_file(metric)).write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    scores = [{"id": row, "model": one.name, **one.rows[row]} for one in found for row in sorted(one.rows)]
    sampled = [
        {
            "id": row.id,
            "messages": [[message.role, message.content] for message in row.messages[: _asked(row)]],
            "answer": row.answer,
            "answers": [{"model": one.name, "text": one.texts[row.id]} for one in found if row.id in one.texts],
        }
        for row in samples
    ]
    (folder / "samples.json").write_text(json.dumps(sampled, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "scores.jsonl").write_text("".join(canonical.dumps(line) + "\n" for line in scores), encoding="utf-8")


def _asked(row: Row) -> int:
    from kdbuild.evaluators._writing import question

    return len(question(row))
