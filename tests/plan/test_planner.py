"""What the plan says is what `dvc repro` does: after random edits, one upon another."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from kdbuild.compile import project as project_module
from kdbuild.plan import lockfile, whole
from kdbuild.plan.planner import Status


def _plan(project) -> whole.Plan:
    return whole.make(project.root, project_module.load(project.root))


def _seeds(project) -> list[dict]:
    return [json.loads(line) for line in project.read("specs/seeds/s.jsonl").splitlines()]


def _write_seeds(project, rows: list[dict]) -> None:
    project.write("specs/seeds/s.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _add_seed(project, dice):
    rows = _seeds(project)
    _write_seeds(project, [*rows, {"id": f"n{len(rows)}", "prompt": f"What is {dice.randrange(3)} plus {len(rows)}?"}])


def _change_seed(project, dice):
    rows = _seeds(project)
    dice.choice(rows)["prompt"] = f"Say {dice.randrange(3)}."
    _write_seeds(project, rows)


def _remove_seed(project, dice):
    rows = _seeds(project)
    if len(rows) > 3:
        rows.pop(dice.randrange(len(rows)))
    _write_seeds(project, rows)


def _reorder_seeds(project, dice):
    rows = _seeds(project)
    dice.shuffle(rows)
    _write_seeds(project, rows)


def _replace(path: str, *choices: str):
    def edit(project, dice):
        text = project.read(path)
        old = next(choice for choice in choices if choice in text)
        project.write(path, text.replace(old, dice.choice(choices)))

    return edit


def _drop_output(project, dice):
    found = [*project.root.glob("artifacts/*/*/elicited"), *project.root.glob("artifacts/*/*/selected")]
    if found:
        shutil.rmtree(dice.choice(sorted(found)))


def _drop_metrics(project, dice):
    (project.root / f"artifacts/{dice.choice('ab')}/sft/select.json").unlink(missing_ok=True)


def _spoil_output(project, dice):
    for path in sorted(project.root.glob("artifacts/b/sft/dropped/manifest.json")):
        text = path.read_text()
        path.unlink()
        path.write_text(text + "\n")


def _drop_cache_object(project, dice):
    entry = lockfile.read(project.root).get(f"{dice.choice('ab')}_sft_elicit")
    if entry is not None:
        digest = dice.choice(sorted(set(entry.outs.values())))
        (project.root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink(missing_ok=True)


EDITS = {
    "seed added": _add_seed,
    "seed changed": _change_seed,
    "seed removed": _remove_seed,
    "seeds reordered": _reorder_seeds,
    "comment": lambda project, dice: project.write("specs/a.yaml", f"# {dice.random()}\n" + project.read("specs/a.yaml")),
    "system prompt": _replace("specs/a.yaml", "Answer briefly.", "Answer at length.", "Answer in verse."),
    "second system prompt": _replace("specs/a.yaml", "Once more.", "Again.", "And again."),
    "limit": _replace("specs/b.yaml", "max_new_tokens: 12", "max_new_tokens: 10", "max_new_tokens: 6"),
    "threshold": _replace("specs/a.yaml", "max_cosine: 0.97", "max_cosine: 0.96", "max_cosine: 0.5"),
    "revision": _replace("params.yaml", "revision: one", "revision: two"),
    "price": _replace("params.yaml", "prompt_usd_per_mtok: 0.0", "prompt_usd_per_mtok: 1.0"),
    "output gone": _drop_output,
    "metrics gone": _drop_metrics,
    "output spoilt": _spoil_output,
    "cache object gone": _drop_cache_object,
    "dvc.lock gone": lambda project, dice: (project.root / "dvc.lock").unlink(missing_ok=True),
    "run cache gone": lambda project, dice: shutil.rmtree(project.root / ".dvc/cache/runs", ignore_errors=True),
}


def _check(project, history: list[str]) -> None:
    plan = _plan(project)
    said = {status: {one.stage.name for one in plan.planned if one.status is status} for status in Status}
    calls = project.num_answers()
    done = project.repro()
    asked = project.num_answers() - calls
    told = f"after {history}: {said}\n{done.text}"
    assert said[Status.STALE] <= done.ran, told
    assert said[Status.RESTORABLE] <= done.restored, told
    assert done.ran <= said[Status.STALE] | said[Status.MAYBE], told
    assert done.restored <= said[Status.RESTORABLE] | said[Status.MAYBE], told
    exact = {asks.stage: asks.num_calls for asks in plan.asks if asks.bound == "exact"}
    # Two specs share answers: the second to ask finds those of the first.
    assert asked <= plan.num_calls or plan.bound == "unknown", told
    if len(exact) == len(plan.asks) == 1:
        assert asked == plan.num_calls, told
    after = _plan(project)
    assert after.is_fresh, [(one.stage.name, [cause.text() for cause in one.causes]) for one in after.planned if one.causes]


@pytest.mark.parametrize(("seed", "num_rounds"), [(0, 4), *(pytest.param(seed, 25, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_planned_is_executed(tmp_path, new_project, data_files, seed, num_rounds):
    project, dice = new_project(tmp_path / "project", data_files), random.Random(seed)
    history: list[str] = []
    _check(project, history)
    for _ in range(num_rounds):
        for name in dice.sample(sorted(EDITS), dice.choice([1, 1, 2])):
            history.append(name)
            EDITS[name](project, dice)
        _check(project, history)
