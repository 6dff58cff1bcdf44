"""The elicit stage with a teacher that logs its calls: what is asked, what is written, what survives."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from kdbuild import records
from kdbuild.errors import RowError, SpecError, StageError
from kdbuild.records import Call, Dropped, Message, Row
from kdbuild.rows import place
from kdbuild.rows.forecast import missing_asks
from kdbuild.rows.store import Store
from kdbuild.spec.model import Params
from kdbuild.spec.sections import ElicitSection
from kdbuild.stages import elicit
from kdbuild.stages.job import Job

OUTPUTS = ("elicited", "calls", "elicit.json")


def seeds(*names: str) -> list[Row]:
    return [Row(name, (Message("user", f"Say something about {name}."),)) for name in names]


def write_rows(root: Path, rows: list[Row]) -> None:
    folder = root / "artifacts/in/rows"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    records.write_dataset(folder, Row, rows)


def job_of(
    root: Path,
    *,
    operator: dict[str, Any] | None = None,
    teacher: dict[str, Any] | None = None,
    spec: str = "s",
    accept_failed_frac: float = 0.0,
    commit_interval_s: float = 0.01,
) -> Job:
    full = {"kind": "fake", "calls_log": "calls.log", **(teacher or {})}
    section = {
        "_key": "0" * 64,
        "rows": "artifacts/in/rows",
        "seeds": None,
        "from_seeds": True,
        "actors": {"teacher": {"name": "t", "teacher": full, "weights": None}},
        "operators": [{"kind": "label", "max_new_tokens": 64, **(operator or {})}],
        "embedder": None,
        "held_out_frac": None,
        "accept_failed_frac": accept_failed_frac,
    }
    params = Params.model_validate({"teachers": {"t": full}, "runtime": {"elicit": {"commit_interval_s": commit_interval_s}}})
    return Job(root, spec, "elicit", "p", section, params)


def run(root: Path, **more: Any) -> dict[str, bytes]:
    """Run the stage and return every file it wrote."""
    job = job_of(root, **more)
    elicit.run(job)
    job.finish()
    return written(root, job.spec)


def written(root: Path, spec: str = "s") -> dict[str, bytes]:
    phase = root / "artifacts" / spec / "p"
    return {p.relative_to(phase).as_posix(): p.read_bytes() for p in sorted(phase.rglob("*")) if p.is_file()}


def asked(root: Path) -> list[str]:
    """Return the row ids of the calls made since the last look."""
    log = root / "calls.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split("\t")[0] for line in lines]


def elicited(root: Path, spec: str = "s") -> dict[str, Row]:
    return {row.id: row for row in records.read_dataset(root / "artifacts" / spec / "p/elicited", Row)}


def rejected(root: Path) -> dict[str, Dropped]:
    return {row.id: row for row in records.read_dataset(root / "artifacts/s/p/elicited" / records.REJECTED, Dropped)}


def facts(root: Path) -> dict[str, Any]:
    return json.loads((root / "artifacts/s/p/elicit.json").read_text())


def forecast(root: Path, **more: Any) -> Any:
    job = job_of(root, **more)
    rows = records.read_dataset(root / "artifacts/in/rows", Row)
    with Store.open(place.store_dir(root, None), read_only=True) as store:
        return missing_asks(ElicitSection.of(job.section), rows, store, root)


@pytest.fixture
def root(tmp_path):
    write_rows(tmp_path, seeds("ant", "bee", "cow", "dog"))
    return tmp_path


def test_every_row_is_asked_once_and_carries_its_answer_and_key(root):
    run(root)
    assert sorted(asked(root)) == ["ant", "bee", "cow", "dog"]
    rows = elicited(root)
    calls = {call.id: call for call in records.read_dataset(root / "artifacts/s/p/calls", Call)}
    assert set(rows) == set(calls) == {"ant", "bee", "cow", "dog"}
    for name, row in rows.items():
        answer = json.loads(calls[name].answer)
        assert row.messages[0] == Message("user", f"Say something about {name}.")
        assert row.messages[1] == Message("assistant", answer["text"], train=True, ended=True)
        assert row.keys == (calls[name].key,)
    tokens = [json.loads(call.answer)["num_new_tokens"] for call in calls.values()]
    assert facts(root) == {
        "num_seeds": 4,
        "num_rows": 4,
        "num_rejected": {},
        "num_failed": 0,
        "num_cut": 0,
        "answer_tokens": sum(tokens),
        "mean_answer_tokens": round(sum(tokens) / 4, 3),
        "operators": [
            {
                "kind": "label",
                "num_asked": 4,
                "num_rows": 4,
                "num_dropped": 0,
                "prompt_tokens": sum(json.loads(call.answer)["num_prompt_tokens"] for call in calls.values()),
                "answer_tokens": sum(tokens),
            }
        ],
    }


def test_nothing_new_asks_nothing_and_writes_the_same_bytes(root):
    first = run(root)
    asked(root)
    assert run(root) == first
    assert asked(root) == []


@pytest.mark.parametrize(
    ("names", "calls"),
    [
        (["ant", "bee", "cow", "dog", "elk"], ["elk"]),
        (["ant", "bee", "cow"], []),
        (["dog", "cow", "bee", "ant"], []),
    ],
)
def test_a_seed_added_removed_or_moved(root, names, calls):
    run(root)
    asked(root)
    write_rows(root, seeds(*names))
    assert forecast(root).num_calls == len(calls)
    run(root)
    assert asked(root) == calls
    assert set(elicited(root)) == set(names)


def test_a_seed_changed_asks_one(root):
    run(root)
    asked(root)
    changed = [Row("bee", (Message("user", "Say something else."),))]
    write_rows(root, [*seeds("ant", "cow", "dog"), *changed])
    with Store.open(place.store_dir(root, None)) as store:
        before = store.last_run("s_p_elicit")
    ahead = forecast(root)
    assert [question.ask.row for question in ahead.missing] == ["bee"]
    assert {name for name, keys in ahead.keys.items() if before[name] != keys} == {"bee"}
    run(root)
    assert asked(root) == ["bee"]
    with Store.open(place.store_dir(root, None)) as store:
        assert store.last_run("s_p_elicit") == ahead.keys


def test_the_limit_raised_asks_the_cut_rows_and_lowered_the_longer_ones(root):
    write_rows(root, seeds(*(f"row-{i:02d}" for i in range(40))))
    first = run(root, operator={"max_new_tokens": 20})
    asked(root)
    ended = {row.id for row in elicited(root).values() if row.messages[-1].ended}
    assert 0 < len(ended) < 40
    assert facts(root)["num_cut"] == 40 - len(ended)

    run(root, operator={"max_new_tokens": 30})
    assert set(asked(root)) == set(elicited(root)) - ended
    tokens = {call.id: json.loads(call.answer)["num_new_tokens"] for call in records.read_dataset(root / "artifacts/s/p/calls", Call)}

    run(root, operator={"max_new_tokens": 10})
    assert set(asked(root)) == {name for name, count in tokens.items() if count > 10}
    assert run(root, operator={"max_new_tokens": 20}) == first
    assert asked(root) == []


def test_outputs_are_the_same_whatever_the_store_went_through(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_rows(other, seeds("ant", "bee", "cow", "dog"))
    run(root, operator={"max_new_tokens": 100})
    run(root, operator={"max_new_tokens": 12})
    assert run(root) == run(other)


@pytest.mark.parametrize(
    "edit",
    [{"operator": {"system": "Be brief."}}, {"teacher": {"revision": "2"}}, {"operator": {"temperature": 0.5}}],
)
def test_what_defines_the_answers_asks_all_again(root, edit):
    run(root)
    asked(root)
    assert forecast(root, **edit).num_calls == 4
    run(root, **edit)
    assert len(asked(root)) == 4


@pytest.mark.parametrize("edit", [{"latency_s": 0.001}, {"price": {"answer_usd_per_mtok": 3.0}}, {"licence": "MIT"}])
def test_what_does_not_define_them_asks_nothing(root, edit):
    first = run(root)
    asked(root)
    assert run(root, teacher=edit) == first
    assert asked(root) == []


def test_a_template_asks_what_it_writes_and_the_student_keeps_the_seed(root):
    (root / "ask.j2").write_text("In one word: {{ prompt }}")
    run(root, operator={"template": "ask.j2"})
    assert elicited(root)["ant"].messages[0].content == "Say something about ant."
    asked(root)
    (root / "ask.j2").write_text("In two words: {{ prompt }}")
    run(root, operator={"template": "ask.j2"})
    assert len(asked(root)) == 4


def test_another_spec_with_the_same_teacher_and_seeds_asks_nothing(root):
    first = run(root)
    asked(root)
    assert run(root, spec="other") == first
    assert asked(root) == []


def test_equal_questions_are_asked_once(root):
    write_rows(root, [Row(name, (Message("user", "The same."),)) for name in ("a", "b", "c")])
    assert forecast(root).num_calls == 1
    run(root)
    assert len(asked(root)) == 1
    rows = elicited(root)
    assert len(rows) == 3
    assert len({row.answer for row in rows.values()}) == 1
    # Drawn answers differ by row: the seed comes from its id.
    run(root, operator={"temperature": 1.0})
    assert len(asked(root)) == 3


def test_seeds_inside_the_project_are_read_directly(root):
    (root / "seeds.jsonl").write_text('{"id": "x", "prompt": "Name a tree."}\n')
    job = job_of(root)
    job.section |= {"rows": "", "seeds": {"kind": "dataset", "path": "seeds.jsonl"}}
    elicit.run(job)
    job.finish()
    assert set(elicited(root)) == {"x"}
    (root / "seeds.jsonl").write_text('{"id": "x", "prompt": "Name a tree."}\n{"id": \n')
    with pytest.raises(RowError, match=r"seeds\.jsonl:2"):
        elicit.run(dataclasses.replace(job_of(root), section=job.section))
    job.discard()


# --- what goes wrong -------------------------------------------------------------------------------------------------------------


def test_a_teacher_that_answers_nothing(root):
    with pytest.raises(StageError, match="teacher `t` answered nothing usable: 4 x empty answer"):
        run(root, teacher={"answer": ""})
    assert len(asked(root)) == 4
    with Store.open(place.store_dir(root, None)) as store:
        assert store.num_answers() == 4
        assert store.last_run("s_p_elicit") is None


def test_rows_without_what_the_operator_reads_are_no_fault_of_the_teacher(root):
    cot = {"kind": "cot", "check": "gold"}
    write_rows(root, seeds("ant", "bee"))
    said = r"^operator `cot` reads `gold`, which 2 of 2 rows lack \(the first: row `ant`\)$"
    for look in (run, forecast):
        with pytest.raises(StageError) as caught:
            look(root, operator=cot)
        assert re.fullmatch(said, caught.value.message)
        assert caught.value.hint == "the rows have: prompt"
    assert not (root / "calls.log").exists()
    write_rows(root, [*seeds("ant"), *(dataclasses.replace(row, gold="7") for row in seeds("bee", "cat"))])
    with pytest.raises(StageError) as caught:
        run(root, operator=cot)
    assert caught.value.message == (
        "s_p_elicit: teacher `t` answered nothing usable: 2 x no line with the answer, 1 x no right answer to show or compare with; "
        "it reads `gold`, which 1 of 3 rows lack (the first: row `ant`)"
    )
    write_rows(root, [dataclasses.replace(row, candidates=({"text": "one"}, {"text": "two"})) for row in seeds("ant", "bee")])
    with pytest.raises(StageError) as caught:
        run(root, operator={"kind": "rank", "of": "context"})
    assert "operator `rank` reads `context`, which 2 of 2 rows lack" in caught.value.message
    job = job_of(root)
    job.section |= {"operators": [{"kind": "pair"}]}
    with pytest.raises(StageError, match=r"^s_p_elicit: operator `pair` could use none of 2 rows: 2 x no"):
        elicit.run(job)
    job.discard()


def test_an_empty_seed_set(root):
    write_rows(root, [])
    with pytest.raises(StageError, match="no rows to ask about"):
        run(root)


def test_a_rejected_row_is_listed_beside_the_others(root):
    write_rows(root, [*seeds("ant"), Row("odd", (Message("user", "Hi"), Message("assistant", "Hello")))])
    run(root)
    assert set(elicited(root)) == {"ant"}
    dropped = rejected(root)
    assert set(dropped) == {"odd"}
    assert dropped["odd"].by == "label"
    assert dropped["odd"].text == "Hi\n\nHello"
    assert facts(root)["num_rejected"] == {"no question: the last turn is not the user's": 1}


def test_failed_rows_end_the_stage_and_only_they_are_asked_again(root):
    write_rows(root, seeds(*(f"row-{i:02d}" for i in range(40))))
    with pytest.raises(StageError, match=r"the teacher failed on \d+ of 40 rows") as caught:
        run(root, teacher={"fail_frac": 0.2})
    assert "told to" in caught.value.message
    assert len(asked(root)) == 40
    with Store.open(place.store_dir(root, None)) as store:
        num_stored = store.num_answers()
        assert [run.finished for run in store.runs("s_p_elicit")] == [False]
    assert 20 < num_stored < 40
    with pytest.raises(StageError, match="failed on"):
        run(root, teacher={"fail_frac": 0.2})
    assert len(asked(root)) == 40 - num_stored


def test_accepted_failures_are_final_and_listed(root):
    write_rows(root, seeds(*(f"row-{i:02d}" for i in range(40))))
    more = {"teacher": {"fail_frac": 0.2}, "accept_failed_frac": 0.5}
    first = run(root, **more)
    num_failed = facts(root)["num_failed"]
    assert len(elicited(root)) == 40 - num_failed
    assert {d.reason for d in rejected(root).values()} == {"failed: the fake teacher fails here, as it was told to"}
    assert len(rejected(root)) == num_failed > 0
    asked(root)
    assert forecast(root, **more).num_calls == 0
    assert run(root, **more) == first
    assert asked(root) == []
    # Fewer are accepted now: the failed ones are asked again.
    more["accept_failed_frac"] = 0.0
    assert forecast(root, **more).num_calls == num_failed
    with pytest.raises(StageError, match="failed on"):
        run(root, **more)
    assert len(asked(root)) == num_failed


@pytest.mark.parametrize(
    ("text", "message"),
    [("{{ prompt", r"ask\.j2:1"), ("a\n{{ nothing }}", r"ask\.j2:2.*nothing"), ("{{ ''.__class__.__mro__ }}", r"ask\.j2")],
)
def test_a_template_that_does_not_render(root, text, message):
    (root / "ask.j2").write_text(text)
    with pytest.raises(SpecError, match=message):
        run(root, operator={"template": "ask.j2"})


def test_a_full_disk_loses_no_answer(root, small_disk):
    write_rows(root, seeds(*(f"row-{i:04d}" for i in range(600))))
    job = job_of(root, teacher={"answer": "word " * 3000})
    job.section["operators"][0]["max_new_tokens"] = 4000
    job.params = job.params.model_copy(update={"runtime": job.params.runtime.model_copy(update={"rows_dir": str(small_disk)})})
    with pytest.raises(StageError, match="disk is full") as caught:
        elicit.run(job)
    assert "kept" in caught.value.hint
    num_calls = len(asked(root))
    assert 100 < num_calls < 600
    with Store.open(small_disk, read_only=True) as store:
        assert store.num_answers() == num_calls


# --- kill -9 ---------------------------------------------------------------------------------------------------------------------

_STAGE = """
    import sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_elicit import run
    run(Path({root!r}), teacher={{"latency_s": 0.004}}, commit_interval_s=0.02)
"""


@pytest.mark.parametrize("num_kills", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_as_if_undisturbed(tmp_path, num_kills):
    seed = random.randrange(2**32)
    print("seed of the moments:", seed)
    rng = random.Random(seed)
    names = [f"row-{i:04d}" for i in range(60 * num_kills)]
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for root in (calm, rough):
        write_rows(root, seeds(*names))
    expected = run(calm)
    script = textwrap.dedent(_STAGE.format(tests=str(Path(__file__).parent), root=str(rough)))
    num_lost = 0
    for _ in range(num_kills):
        stage = subprocess.Popen([sys.executable, "-c", script])
        _wait_for_calls(rough, stage, rng.randrange(1, 50))
        time.sleep(rng.random() * 0.05)
        stage.send_signal(signal.SIGKILL)
        stage.wait()
        num_lost += len(_logged(rough)) - _num_stored(rough)
        assert not (rough / "artifacts/s/p/elicited").exists()
    subprocess.run([sys.executable, "-c", script], check=True)
    assert written(rough) == expected
    num_calls = len(asked(rough))
    print(num_kills, "kills,", num_calls, "calls for", len(names), "rows,", num_lost, "answers in flight")
    assert num_calls <= len(names) + num_lost


def _logged(root: Path) -> set[str]:
    log = root / "calls.log"
    return {line for line in log.read_text().splitlines() if line.count("\t")} if log.exists() else set()


def _num_stored(root: Path) -> int:
    with Store.open(place.store_dir(root, None)) as store:
        return store.num_answers()


def _wait_for_calls(root: Path, stage: subprocess.Popen[bytes], num_calls: int) -> None:
    """Wait until the stage has made so many calls of its own."""
    enough = len(_logged(root)) + num_calls
    while len(_logged(root)) < enough:
        assert stage.poll() is None, "the stage ended before it was killed"
        time.sleep(0.001)
