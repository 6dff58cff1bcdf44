"""The select stage on data sets on disk."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbuild import canonical, kinds, records
from kdbuild.errors import ArtifactError, StageError
from kdbuild.kinds import OneOf
from kdbuild.records import Call, Dropped, Message, Row, Scored
from kdbuild.spec.model import Params
from kdbuild.spec.sections import EmbedderUse
from kdbuild.stages import select
from kdbuild.stages.job import Job

FAKE = {"embedder": {"kind": "fake"}, "weights": None}
EXACT = {"kind": "exact-dedup"}
SEMANTIC = {"kind": "semantic-dedup", "max_cosine": 0.9}


def row(id: str, prompt: str, answer: str | None = "yes", **more: Any) -> Row:
    asked = Message("user", prompt)
    return Row(id, (asked,) if answer is None else (asked, Message("assistant", answer, train=True)), keys=("k" * 64,), **more)


def corpus() -> list[Row]:
    """Return 60 rows, a third of which repeat another's text and a third nearly so."""
    rng = random.Random(7)
    texts = [" ".join(f"w{rng.randrange(400)}" for _ in range(12)) for _ in range(20)]
    rows = [row(f"seed-{i:02d}", text, f"answer {i}") for i, text in enumerate(texts)]
    rows += [row(f"same-{i:02d}", text.upper(), f"answer {i}") for i, text in enumerate(texts)]
    return rows + [row(f"near-{i:02d}", f"{text} please", f"answer {i}") for i, text in enumerate(texts)]


def stage(
    root: Path,
    rows: Sequence[Row],
    selectors: list[dict[str, Any]],
    *,
    rejected: Sequence[Dropped] = (),
    held_out_frac: float = 0.2,
    embedder: dict[str, Any] | None = FAKE,
    params: Params | None = None,
    pools: dict[str, str] | None = None,
    accept_failed_frac: float = 0.0,
    teacher: dict[str, Any] | None = None,
) -> Path:
    """Write `elicited/`, run the stage, and return the phase's folder."""
    phase = root / "artifacts/s/p"
    elicited = phase / "elicited"
    if not elicited.exists():
        elicited.mkdir(parents=True)
        if rejected:
            (elicited / records.REJECTED).mkdir()
            records.write_dataset(elicited / records.REJECTED, Dropped, rejected)
        records.write_dataset(elicited, Row, rows)
    section = {
        "_key": "0" * 64,
        "rows": "artifacts/s/p/elicited",
        "steps": [OneOf("selectors", "scorers").load(one["kind"]).model_validate(one).identity() for one in selectors],
        "actors": {"teacher": {"name": "tiny", "teacher": teacher, "weights": None}} if teacher else {},
        "embedder": embedder,
        "pools": pools or {},
        "held_out_frac": held_out_frac,
        "accept_failed_frac": accept_failed_frac,
    }
    job = Job(root, "s", "select", "p", section, params or Params())
    select.run(job)
    job.finish()
    return phase


def outputs(phase: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(phase)): path.read_bytes()
        for path in sorted(phase.rglob("*"))
        if path.is_file() and "elicited" not in path.parts
    }


def selected(phase: Path) -> list[Row]:
    return records.read_dataset(phase / "selected", Row)


def dropped(phase: Path) -> list[Dropped]:
    return records.read_dataset(phase / "dropped", Dropped)


def test_every_row_comes_out_once_with_its_reason(tmp_path: Path) -> None:
    given = corpus()
    phase = stage(tmp_path, given, [EXACT, SEMANTIC])
    kept, gone = selected(phase), dropped(phase)
    assert sorted([r.id for r in kept] + [d.id for d in gone]) == sorted(r.id for r in given)
    texts = {r.id: f"user: {r.messages[0].content}\n\nassistant: {r.messages[1].content}" for r in given}
    assert all(d.text == texts[d.id] for d in gone)
    facts = json.loads((phase / "select.json").read_text(encoding="utf-8"))
    assert facts["num_rows"] == 60
    assert facts["num_held_out"] == sum(r.held_out for r in kept)
    assert facts["num_kept"] == sum(not r.held_out for r in kept)
    assert facts["num_dropped"] == {
        kind: {reason: sum(d.by == kind and d.reason == reason for d in gone) for reason in {d.reason for d in gone if d.by == kind}}
        for kind in {d.by for d in gone}
    }
    assert set(facts["num_dropped"]) == {"exact-dedup", "semantic-dedup"}


def test_a_selector_sees_what_the_one_before_kept(tmp_path: Path) -> None:
    rows = [row("a", "one two"), row("b", "one two"), row("c", "ONE two")]
    phase = stage(tmp_path, rows, [EXACT, SEMANTIC], held_out_frac=0)
    assert [(d.id, d.by, d.because_of) for d in dropped(phase)] == [("b", "exact-dedup", "a"), ("c", "exact-dedup", "a")]


def test_held_out_rows_are_those_of_the_seed_and_pass_untouched(tmp_path: Path) -> None:
    given = [row(f"r{i:03d}", "all the same", "text", roots=(f"seed-{i % 10}",)) for i in range(100)]
    phase = stage(tmp_path, given, [EXACT, SEMANTIC], held_out_frac=0.3)
    expected = {r.id for r in given if canonical.fraction("held-out", r.roots[0]) < 0.3}
    kept = selected(phase)
    assert {r.id for r in kept if r.held_out} == expected
    assert 0 < len(expected) < 100
    assert [r.id for r in kept if not r.held_out] == [min(r.id for r in given if r.id not in expected)]
    assert not expected & {d.id for d in dropped(phase)}
    assert not expected & {d.because_of for d in dropped(phase)}
    by_id = {r.id: r for r in given}
    assert all(replace(r, held_out=False, keys=by_id[r.id].keys) == by_id[r.id] for r in kept)


def test_rejected_and_unanswered_rows_go_from_both_sides(tmp_path: Path) -> None:
    rejected = [Dropped("r1", "label", "cut short", text="user: x")]
    given = [row("a", "one"), row("b", "two", None), row("c", "three", "  \n"), *(row(f"d{i}", f"q{i}", None) for i in range(30))]
    phase = stage(tmp_path, given, [], rejected=rejected, held_out_frac=0.5 if canonical.fraction("held-out", "a") >= 0.5 else 0.0)
    assert [r.id for r in selected(phase)] == ["a"]
    assert len(dropped(phase)) == 33
    assert rejected[0] in dropped(phase)
    facts = json.loads((phase / "select.json").read_text(encoding="utf-8"))
    assert facts["num_dropped"] == {"label": {"cut short": 1}, "select": {"no answer": 32}}
    assert facts["num_rows"] == 34


def test_prompts_alone_can_be_selected(tmp_path: Path) -> None:
    phase = stage(tmp_path, [row("a", "one", None), row("b", "ONE", None), row("c", "two", None)], [EXACT], held_out_frac=0)
    assert [r.id for r in selected(phase)] == ["a", "c"]


def test_order_and_keys_of_the_input_change_nothing(tmp_path: Path) -> None:
    given = corpus()
    first = outputs(stage(tmp_path / "one", given, [EXACT, SEMANTIC]))
    shuffled = [replace(r, keys=("z" * 64, "y" * 64)) for r in given]
    random.Random(1).shuffle(shuffled)
    assert outputs(stage(tmp_path / "two", shuffled, [EXACT, SEMANTIC])) == first
    assert outputs(stage(tmp_path / "two", shuffled, [EXACT, SEMANTIC])) == first


def test_a_limit_that_drops_the_same_rows_gives_the_same_bytes(tmp_path: Path) -> None:
    first = outputs(stage(tmp_path, corpus(), [SEMANTIC]))
    assert outputs(stage(tmp_path, [], [{**SEMANTIC, "max_cosine": 0.91}])) == first
    assert outputs(stage(tmp_path, [], [{**SEMANTIC, "max_cosine": 0.999}])) != first


def test_selected_depends_on_the_kept_rows_alone(tmp_path: Path) -> None:
    """Early cut-off: other selectors, the same rows, the same bytes of `selected/`."""
    given = [row("a", "one two three"), row("b", "one two three")]
    exact = outputs(stage(tmp_path, given, [EXACT], held_out_frac=0))
    semantic = outputs(stage(tmp_path, given, [SEMANTIC], held_out_frac=0))
    assert {k: v for k, v in exact.items() if k.startswith("selected")} == {k: v for k, v in semantic.items() if k.startswith("selected")}
    assert exact != semantic
    manifest = json.loads((tmp_path / "artifacts/s/p/selected/manifest.json").read_text(encoding="utf-8"))
    assert set(manifest) == {"files", "num_rows", "record"}


def test_knobs_of_the_embedder_come_from_params(tmp_path: Path) -> None:
    kind = {"kind": "sentence-transformers", "model": "path:models/tiny"}
    use = {"embedder": kind, "weights": "models/tiny"}
    params = Params.model_validate({"embedder": {**kind, "batch_tokens": 7, "device": "cpu"}})
    job = Job(tmp_path, "s", "select", "p", {}, params)
    turned: Any = job.embedder(EmbedderUse.model_validate(use))
    assert (turned.batch_tokens, turned.device) == (7, "cpu")
    other = Job(tmp_path, "s", "select", "p", {}, Params.model_validate({"embedder": {"kind": "fake"}}))
    assert other.embedder(EmbedderUse.model_validate(use)) == kinds.parse("embedders", kind)


@pytest.mark.parametrize(
    ("rows", "held_out_frac", "sentence"),
    [
        ([], 0.2, "no training row is left of 0"),
        ([row(f"r{i}", f"q{i}") for i in range(5)], 0.999999, "no training row is left of 5: 5 held out"),
    ],
)
def test_nothing_left_is_an_error(tmp_path: Path, rows: list[Row], held_out_frac: float, sentence: str) -> None:
    with pytest.raises(StageError, match=sentence) as caught:
        stage(tmp_path, rows, [EXACT], held_out_frac=held_out_frac)
    assert caught.value.hint
    assert not (tmp_path / "artifacts/s/p/selected").exists()


def test_the_reasons_are_told_where_nothing_is_left(tmp_path: Path) -> None:
    rejected = [Dropped("r1", "label", "answer is not JSON"), Dropped("r2", "label", "answer is not JSON")]
    with pytest.raises(StageError, match="left of 2: 0 held out; 2 by label: answer is not JSON"):
        stage(tmp_path, [], [], rejected=rejected)


def test_a_missing_embedder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no embedder"):
        stage(tmp_path, corpus(), [SEMANTIC], embedder=None)


def test_a_torn_input_is_refused(tmp_path: Path) -> None:
    phase = stage(tmp_path, corpus(), [EXACT])
    shard = phase / "elicited/part-0.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"part-0\.parquet"):
        stage(tmp_path, [], [EXACT])


def test_select_json_tells_what_each_step_left_of_both_sides(tmp_path: Path) -> None:
    given = [row(f"r{i:03d}", "all the same" if i % 2 else f"text {i}", "text") for i in range(40)] + [row("x", "no answer", None)]
    phase = stage(tmp_path, given, [EXACT, SEMANTIC], held_out_frac=0.3)
    kept = selected(phase)
    num_held_out = sum(r.held_out for r in kept)
    steps = json.loads((phase / "select.json").read_text(encoding="utf-8"))["steps"]
    assert [step["kind"] for step in steps] == ["select", "exact-dedup", "semantic-dedup"]
    assert (steps[0]["num_training_in"] + steps[0]["num_held_out_in"], steps[-1]["num_training_left"]) == (41, len(kept) - num_held_out)
    assert [step["num_held_out_left"] for step in steps] == [num_held_out] * 3
    for step, following in itertools.pairwise(steps):
        assert step["num_training_left"] == following["num_training_in"]
    for step in steps[1:]:
        assert step["num_training_in"] - step["num_training_left"] == sum(d.by == step["kind"] for d in dropped(phase))


def test_the_text_of_a_pools_row_that_won_lies_beside_what_lost_to_it(tmp_path: Path) -> None:
    pool = tmp_path / "artifacts/s/old/selected"
    pool.mkdir(parents=True)
    records.write_dataset(pool, Row, [row("old", "one two", "yes"), row("other", "unlike", "yes")])
    given = [row("a", "ONE two", "yes"), row("b", "three", "yes"), row("c", "three", "yes")]
    phase = stage(tmp_path, given, [{**EXACT, "against": ["old"]}], pools={"old": "artifacts/s/old/selected"}, held_out_frac=0)
    assert [(d.id, d.because_of) for d in dropped(phase)] == [("a", "old"), ("c", "b")]
    found = records.read_dataset(phase / "dropped" / records.MATCHED, records.Matched)
    assert found == [records.Matched("old", "user: one two\n\nassistant: yes")]


# --- scorers -----------------------------------------------------------------------------------------------------------------

ANSWER = {"kind": "answer"}
RATING = {"kind": "rating"}
FAKE_TEACHER = {"kind": "fake"}


def sums(count: int) -> list[Row]:
    """Return rows of which every third is answered wrongly."""
    return [row(f"q{i:03d}", f"What is {i} + 1?", f"Answer: {i + 1 + (i % 3 == 0)}", gold=str(i + 1)) for i in range(count)]


def scores_of(phase: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for one in records.read_dataset(phase / "dropped" / records.SCORES, Scored):
        found.setdefault(one.id, {})[one.name] = one.value
    return found


def test_scores_decide_and_are_told_of_kept_and_dropped_rows(tmp_path: Path) -> None:
    given = sums(30)
    phase = stage(tmp_path, given, [{**ANSWER, "answers": "number"}, {"kind": "keep", "where": "answer > 0.5"}], held_out_frac=0.2)
    kept, gone = selected(phase), dropped(phase)
    held_out = {r.id for r in kept if r.held_out}
    wrong = {r.id for i, r in enumerate(given) if i % 3 == 0}
    assert {d.id for d in gone} == wrong - held_out
    assert {r.id for r in kept} == {r.id for r in given} - (wrong - held_out)
    assert scores_of(phase) == {r.id: {"answer": float(r.id not in wrong), "answer.read": 1.0} for r in given if r.id not in held_out}
    assert all(r.scores == {} for r in kept)


def test_a_score_goes_on_with_the_rows_where_the_spec_says_so(tmp_path: Path) -> None:
    phase = stage(tmp_path, sums(12), [{**ANSWER, "name": "right", "carry": True}], held_out_frac=0.2)
    assert all(r.held_out or set(r.scores) == {"right", "right.read"} for r in selected(phase))


def test_a_row_that_cannot_be_scored_is_apart_and_fails_the_stage_unless_accepted(tmp_path: Path) -> None:
    given = [*sums(20), row("nogold", "What is 1 + 1?", "Answer: 2")]
    with pytest.raises(StageError) as caught:
        stage(tmp_path / "a", given, [ANSWER], held_out_frac=0.0)
    assert "scorer `answer` failed on 1 of 21 rows" in str(caught.value)
    assert "nogold: no right answer to compare with" in str(caught.value)
    phase = stage(tmp_path / "b", given, [ANSWER], held_out_frac=0.0, accept_failed_frac=0.1)
    assert [(d.id, d.by, d.reason) for d in dropped(phase)] == [("nogold", "answer", "no right answer to compare with")]
    assert len(selected(phase)) == 20


def test_of_scorers_that_follow_each_other_the_cheap_one_runs_first(tmp_path: Path) -> None:
    """A row that fails the cheap one is not asked about."""
    given = [*sums(20), row("nogold", "What is 1 + 1?", "Answer: 2")]
    phase = stage(tmp_path, given, [RATING, ANSWER], held_out_frac=0.0, accept_failed_frac=0.1, teacher=FAKE_TEACHER)
    asked = {call.id for call in records.read_dataset(phase / "dropped" / records.JUDGED, Call)}
    assert "nogold" not in asked
    assert {r.id for r in sums(20)} <= asked


def test_answers_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    given, log = sums(10), tmp_path / "calls.log"
    first = outputs(stage(tmp_path, given, [RATING], teacher={**FAKE_TEACHER, "calls_log": str(log)}))
    num_calls = len(log.read_text().splitlines())
    assert num_calls == 2 * 48 + sum(not r.held_out for r in selected(tmp_path / "artifacts/s/p"))
    assert outputs(stage(tmp_path, given, [RATING], teacher={**FAKE_TEACHER, "calls_log": str(log)})) == first
    assert len(log.read_text().splitlines()) == num_calls
    assert any(name.startswith("dropped/calls/") for name in first)


def test_a_judge_says_how_good_it_is_and_may_not_be_good_enough(tmp_path: Path) -> None:
    given = sums(10)
    phase = stage(tmp_path / "a", given, [RATING], teacher=FAKE_TEACHER)
    calibration = json.loads((phase / "select.json").read_text())["calibration"]["rating"]
    assert calibration["num_pairs"] == 48
    assert 0.0 <= calibration["accuracy"] < 1.0
    with pytest.raises(StageError, match=r"prefers the good answer in .* of 48 shipped pairs; `min_accuracy` is 100%"):
        stage(tmp_path / "b", given, [{**RATING, "min_accuracy": 1.0}], teacher=FAKE_TEACHER)


def test_the_best_candidate_becomes_the_answer_on_both_sides(tmp_path: Path) -> None:
    given = [
        Row(f"q{i:03d}", (Message("user", f"What is {i} + 1?"),), gold=str(i + 1), candidates=({"text": f"{i}"}, {"text": f"{i + 1}"}))
        for i in range(20)
    ]
    steps = [{**ANSWER, "answers": "number"}, {"kind": "keep", "score": "answer", "best_of": "candidates"}]
    kept = selected(stage(tmp_path, given, steps, held_out_frac=0.3))
    assert {r.id: r.answer for r in kept} == {r.id: r.gold for r in given}
    assert 0 < sum(r.held_out for r in kept) < 20
