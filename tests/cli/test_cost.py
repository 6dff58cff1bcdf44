"""What is asked of whom, what it costs, where it stops, and asking again: through the real `dvc` and a teacher that counts."""

from __future__ import annotations

import json

import pytest

PARAMS = """\
teachers:
  big: {kind: fake, model: big, calls_log: big.log, price: {prompt_usd_per_mtok: 1000, answer_usd_per_mtok: 2000}}
  judge: {kind: fake, model: judge, calls_log: judge.log}
  shaky: {kind: fake, model: shaky, fail_frac: 0.3, calls_log: shaky.log}
"""
SEEDS = "".join(json.dumps({"id": f"q{i}", "prompt": f"Say something about the number {i}."}) + "\n" for i in range(24))


def spec(phases: str, more: str = "") -> str:
    return f"target: {{skill: talk}}\nteacher: big\nseeds: {{kind: dataset, path: specs/seeds.jsonl}}\n{more}phases:\n{phases}"


@pytest.fixture
def project(tmp_path, new_project):
    return new_project(tmp_path / "p", {"params.yaml": PARAMS, "specs/seeds.jsonl": SEEDS})


def calls(project, name: str) -> list[str]:
    log = project.root / f"{name}.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(line.split("\t")[0] for line in lines)


def test_roles_are_several_actors_and_cost_says_who_took_what(project):
    project.write("specs/a.yaml", spec("  one:\n    elicit: [{kind: label, by: panel}]\n", "roles: {panel: [big, judge]}\n"))
    project.kdbuild("build", "--yes")
    assert calls(project, "big") == calls(project, "judge") == sorted(f"q{i}" for i in range(24))
    facts = json.loads(project.read("artifacts/a/one/elicit.json"))
    assert (facts["num_rows"], facts["operators"][0]["num_asked"]) == (48, 48)
    lines = project.kdbuild("cost").text.splitlines()
    assert [line.split()[:4] for line in lines[1:3]] == [["a_one_elicit", "label", "big", "24"], ["a_one_elicit", "label", "judge", "24"]]
    usd = [float(line.split()[-1]) for line in lines[1:]]
    prompt, answer = (int(text.replace(",", "")) for text in lines[1].split()[4:6])
    assert usd[0] == pytest.approx((1000 * prompt + 2000 * answer) / 1e6, abs=1e-4)
    assert (usd[1], usd[2]) == (0, usd[0])
    assert len(project.kdbuild("cost", "--rows").text.splitlines()) == 22
    project.edit("specs/seeds.jsonl", "the number 7.", "the number seven.")
    assert "2 teacher calls" in project.kdbuild("plan", code=None).text
    project.kdbuild("build", "--yes")
    assert calls(project, "big") == calls(project, "judge") == ["q7"]


def test_a_routed_row_goes_to_one(project):
    project.write("specs/a.yaml", spec("  one:\n    elicit: [{kind: label, by: [big, judge], combine: route}]\n"))
    project.kdbuild("build", "--yes")
    one, other = calls(project, "big"), calls(project, "judge")
    assert one
    assert other
    assert sorted(one + other) == sorted(f"q{i}" for i in range(24))


def test_the_budget_stops_cleanly_and_a_higher_one_goes_on(project):
    project.write("specs/a.yaml", spec("  one:\n    elicit: [{kind: label}]\n"))
    project.write("params.yaml", PARAMS + "runtime: {elicit: {budget: {usd: 0.2}}}\n")
    done = project.kdbuild("build", "--yes", code=None)
    assert done.code != 0
    assert "a_one_elicit: the budget of $0.2 is spent" in done.text
    assert "build again to go on from here" in done.text
    assert not (project.root / "artifacts/a/one/elicited").exists()
    first = calls(project, "big")
    assert 0 < len(first) < 24
    # It stays spent: the same build spends nothing more than it takes to see that.
    project.kdbuild("build", "--yes", code=None)
    again = calls(project, "big")
    assert len(again) <= 1
    project.write("params.yaml", PARAMS + "runtime: {elicit: {budget: {usd: 100}}}\n")
    project.kdbuild("build", "--yes")
    assert sorted([*first, *again, *calls(project, "big")]) == sorted(f"q{i}" for i in range(24))


def test_final_failures_are_asked_again_by_retry_only(project):
    text = spec("  one:\n    elicit: [{kind: label}]\n", "accept_failed_frac: 0.9\n").replace("teacher: big", "teacher: shaky")
    project.write("specs/a.yaml", text)
    project.kdbuild("build")
    asked = calls(project, "shaky")
    num_failed = json.loads(project.read("artifacts/a/one/elicit.json"))["num_failed"]
    assert 0 < num_failed < 24
    project.kdbuild("build")
    assert calls(project, "shaky") == []
    done = project.kdbuild("retry", "a_one_elicit")
    assert f"asking again: {num_failed} that failed for good" in done.text
    again = calls(project, "shaky")
    assert len(again) == num_failed
    assert set(again) < set(asked)
    said = project.kdbuild("retry", "a_two_elicit", code=1).text
    assert said == "error: no stage named `a_two_elicit`. Did you mean `a_one_elicit`?\n\nhint: stages that ask: a_one_elicit\n"
    project.write("specs/b.yaml", text)
    project.kdbuild("compile")
    assert "stage `b_one_elicit` has not been built here" in project.kdbuild("retry", "b_one_elicit", code=1).text


def test_a_stage_that_is_not_there_is_an_error(project):
    project.write("specs/a.yaml", spec("  one:\n    elicit: [{kind: label}]\n  two:\n    elicit: [{kind: label, max_new_tokens: 9}]\n"))
    project.kdbuild("compile")
    assert project.kdbuild("cost", "a_one_elicit").text == "nothing was asked yet\n"
    said = project.kdbuild("cost", "a_one", code=1).text
    assert said == "error: no stage named `a_one`, which begins the names of others\n\nhint: stages that ask: a_one_elicit\n"
    said = project.kdbuild("cost", "a_tow_elicit", code=1).text
    assert (
        said == "error: no stage named `a_tow_elicit`. Did you mean `a_two_elicit`?\n\nhint: stages that ask: a_one_elicit, a_two_elicit\n"
    )
    assert "name no stage with it" in project.kdbuild("cost", "--rows", "a_one_elicit", code=1).text


def test_the_student_answers_as_the_phase_before_left_it(project):
    student = "student: {kind: causal-lm, init: {from: teacher, layers: 1}}\n"
    phases = (
        "  one:\n    elicit: [{kind: label, max_new_tokens: 8}]\n    objective: {kind: sft}\n"
        "  two:\n    elicit: [{kind: label, by: student, max_new_tokens: 4}]\n"
    )
    project.write("specs/a.yaml", spec(phases, student))
    assert "up to 24 teacher calls" in project.kdbuild("plan", code=None).text
    project.kdbuild("build", "--yes")
    assert len(calls(project, "big")) == 24
    assert [line.split()[1:4] for line in project.kdbuild("cost", "a_two_elicit").text.splitlines()[1:2]] == [["label", "student", "24"]]
    # Another student answers anew; what the teacher said stays.
    project.edit("specs/a.yaml", "objective: {kind: sft}", "objective: {kind: sft}\n    train: {learning_rate: 0.001}")
    done = project.kdbuild("build", "--yes")
    assert {"a_one_train", "a_two_elicit"} <= done.ran
    assert calls(project, "big") == []
    assert [line.split()[3] for line in project.kdbuild("cost", "a_two_elicit").text.splitlines()[1:2]] == ["48"]
