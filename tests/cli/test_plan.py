"""`kdbuild plan` from the outside: what it prints, its JSON, its exit codes, and that it changes nothing."""

from __future__ import annotations

import json

import pytest

FILES = {
    "params.yaml": "teachers:\n  asked: {kind: fake, price: {answer_usd_per_mtok: 2.0}}\n",
    "specs/a.yaml": """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/s.jsonl}
phases:
  sft:
    elicit:
      - {kind: label, max_new_tokens: 12, system: "Answer briefly."}
    select:
      - {kind: exact-dedup}
""",
    "specs/seeds/s.jsonl": "".join(f'{{"id": "s{i}", "prompt": "Say {i}."}}\n' for i in range(6)),
}
STAGES = ["a_sft_elicit", "a_sft_select", "a_report"]


@pytest.fixture(scope="module")
def built(tmp_path_factory, new_project):
    project = new_project(tmp_path_factory.mktemp("built") / "project", FILES)
    project.repro()
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "built")
    return project


@pytest.fixture
def edited(built):
    """Return the built project, and undo what the test did to its sources afterwards."""
    yield built
    built.run("git", "checkout", "-q", ".")


def _plan(project, *arguments: str, code: int) -> dict:
    return json.loads(project.kdbuild("plan", "--json", *arguments, code=code).text)


def _stage(plan: dict, name: str) -> dict:
    return next(stage for stage in plan["stages"] if stage["name"] == name)


def test_nothing_to_do(built):
    assert built.kdbuild("plan").text == "3 stages fresh\nnothing to do\n"
    plan = _plan(built, code=0)
    assert plan["schema"] == "kdbuild-plan/1"
    assert plan["fresh"] is True
    assert {stage["status"] for stage in plan["stages"]} == {"fresh"}
    assert [stage["name"] for stage in plan["stages"] if stage["step"] not in ("compile", "structure")] == STAGES


def test_specs_that_were_never_compiled(tmp_path, new_project):
    project = new_project(tmp_path / "p", {path: text for path, text in FILES.items() if path != "specs/a.yaml"})
    project.write("specs/a.yaml", FILES["specs/a.yaml"])
    before = _files(project)
    plan = _plan(project, code=2)
    assert {name: _stage(plan, name)["status"] for name in STAGES} == dict.fromkeys(STAGES, "stale")
    assert _stage(plan, "a_sft_elicit")["causes"][0]["text"] == "never built"
    assert plan["rewrites"] == ["artifacts/a/resolved.json", "dvc.yaml"]
    assert plan["totals"]["num_calls"] == 6
    assert _files(project) == before


def _files(project) -> set[str]:
    return {str(p.relative_to(project.root)) for p in project.root.rglob("*") if ".dvc/kdbuild" not in str(p) and ".git/" not in str(p)}


def test_rows_calls_and_money(edited):
    rows = [json.loads(line) for line in FILES["specs/seeds/s.jsonl"].splitlines()]
    rows[1]["prompt"] = "Say something else."
    edited.write("specs/seeds/s.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows[:-1], {"id": "new", "prompt": "Say hello."}]))
    plan = _plan(edited, code=2)
    asks = _stage(plan, "a_sft_elicit")["asks"]
    assert asks["rows"] == {"new": 1, "changed": 1, "removed": 1, "reused": 4}
    assert (asks["num_calls"], asks["bound"], asks["teacher"]) == (2, "exact", "asked")
    assert asks["answer_tokens"] > 0
    assert asks["usd"] == pytest.approx(asks["answer_tokens"] * 2.0 / 1e6)
    assert _stage(plan, "a_sft_select")["status"] == "maybe"
    text = edited.kdbuild("plan", code=2).text
    assert "input specs/seeds/s.jsonl changed" in text
    assert "asks asked: 2 teacher calls; rows: 1 new, 1 changed, 1 removed, 4 reused" in text
    assert text.splitlines()[-1].startswith("1 stage to run, 2 that may; 2 teacher calls (about ")


def test_values_old_and_new(edited):
    edited.edit("specs/a.yaml", "Answer briefly.", "Answer at length.")
    stage = _stage(_plan(edited, code=2), "a_sft_elicit")
    assert [cause["text"] for cause in stage["causes"]] == ["operators.0.system: Answer briefly. -> Answer at length."]
    assert (stage["causes"][0]["old"], stage["causes"][0]["new"]) == ("Answer briefly.", "Answer at length.")


def test_a_knob_touches_the_compile_stages_alone(edited):
    edited.edit("params.yaml", "2.0", "3.0")
    plan = _plan(edited, code=2)
    assert {stage["step"] for stage in plan["stages"] if stage["status"] != "fresh"} == {"compile", "structure"}
    assert plan["totals"]["num_calls"] == 0


PHASES = """\
target: {skill: testing}
teacher: asked
seeds: {kind: dataset, path: specs/seeds/s.jsonl}
phases:
  sft:
    elicit:
      - {kind: label, max_new_tokens: 12}
    select:
      - {kind: exact-dedup}
  pairs:
    on: sft
    elicit:
      - {kind: sample, by: teacher, num_samples: 3, max_new_tokens: 6}
      - {kind: rank, max_new_tokens: 16}
      - {kind: pair, best: ranking, worst: ranking}
"""


def test_stages_whose_rows_are_not_there_are_bounded(tmp_path, new_project):
    project = new_project(tmp_path / "p", {**FILES, "specs/a.yaml": PHASES})
    plan = _plan(project, code=2)
    # Six seeds, three samples of each, three pairs of these in both orders.
    asks = _stage(plan, "a_pairs_elicit")["asks"]
    assert (asks["bound"], asks["num_calls"], asks["least_calls"], asks["most_calls"]) == ("up to", 54, 0, 54)
    totals = plan["totals"]
    assert (totals["bound"], totals["least_calls"], totals["most_calls"]) == ("up to", 6, 60)
    text = project.kdbuild("plan", code=2).text
    assert "asks asked: up to 54 teacher calls\n" in text
    assert "; 6 to 60 teacher calls (up to about " in text
    said = project.kdbuild("build", code=1).text
    assert "this build asks asked for up to about $" in said
    project.kdbuild("build", "--yes")
    made = project.num_answers()
    assert 6 + 18 < made <= 60


def test_what_nothing_bounds_is_at_least(tmp_path, new_project):
    text = PHASES.replace(
        "- {kind: sample", "- {kind: template, each: match, extract: {word: '\\w+'}, prompt: 'Say {{ word }}.'}\n      - {kind: sample"
    )
    project = new_project(tmp_path / "p", {**FILES, "specs/a.yaml": text})
    plan = _plan(project, code=2)
    asks = _stage(plan, "a_pairs_elicit")["asks"]
    assert (asks["bound"], asks["num_calls"], asks["most_calls"]) == ("unknown", 0, None)
    assert (plan["totals"]["bound"], plan["totals"]["num_calls"], plan["totals"]["most_calls"]) == ("at least", 6, None)
    said = project.kdbuild("plan", code=2).text
    assert "asks asked: an unknown number of teacher calls\n" in said
    assert "; at least 6 teacher calls (at least about " in said
    assert "this build asks asked for at least about $" in project.kdbuild("build", code=1).text


def test_rows_are_those_that_a_stage_is_given(tmp_path, new_project):
    two = "- {kind: rewrite, num_variants: 2, temperature: 1.0, max_new_tokens: 99}\n      - {kind: label, max_new_tokens: 12}"
    text = FILES["specs/a.yaml"].replace('- {kind: label, max_new_tokens: 12, system: "Answer briefly."}', two)
    project = new_project(tmp_path / "p", {**FILES, "specs/a.yaml": text})
    assert _stage(_plan(project, code=2), "a_sft_elicit")["asks"]["rows"] == {"new": 6, "changed": 0, "removed": 0, "reused": 0}
    project.kdbuild("build", "--yes")
    rows = [json.loads(line) for line in FILES["specs/seeds/s.jsonl"].splitlines()]
    rows[1]["prompt"] = "Say something else."
    project.write("specs/seeds/s.jsonl", "".join(json.dumps(row) + "\n" for row in [*rows[:-1], {"id": "new", "prompt": "Say hello."}]))
    asks = _stage(_plan(project, code=2), "a_sft_elicit")["asks"]
    assert asks["rows"] == {"new": 1, "changed": 1, "removed": 1, "reused": 4}
    # Two variants of two rows, and an answer to each.
    assert (asks["least_calls"], asks["most_calls"]) == (4, 8)
    project.write("specs/seeds/s.jsonl", FILES["specs/seeds/s.jsonl"])
    project.edit("specs/a.yaml", "max_new_tokens: 12", "max_new_tokens: 1")
    asks = _stage(_plan(project, code=2), "a_sft_elicit")["asks"]
    assert asks["rows"] == {"new": 0, "changed": 6, "removed": 0, "reused": 0}


def test_named_specs(edited):
    edited.write("specs/b.yaml", FILES["specs/a.yaml"].replace("briefly", "well"))
    assert {stage["spec"] for stage in _plan(edited, "specs/b.yaml", code=2)["stages"]} == {"b"}
    assert {stage["spec"] for stage in _plan(edited, code=2)["stages"]} == {"a", "b", "kdbuild"}
    (edited.root / "specs/b.yaml").unlink()
    text = edited.kdbuild("plan", "aa", code=1).text
    assert text == "error: there is no spec named `aa`\n\nhint: did you mean `a`?\n"


def test_answers_that_were_pulled(built, tmp_path):
    built.run("dvc", "remote", "add", "-d", "--local", "near", str(tmp_path / "remote"))
    built.run("dvc", "push", "-q")
    clone = type(built)(tmp_path / "clone")
    built.run("git", "clone", "-q", ".", str(clone.root))
    clone.run("dvc", "remote", "add", "-d", "--local", "near", str(tmp_path / "remote"))
    assert "not in the cache; `dvc pull` may fetch it" in clone.kdbuild("plan", code=2).text
    clone.run("dvc", "pull", "-q")
    assert _plan(clone, code=0)["fresh"] is True
    clone.write("specs/seeds/s.jsonl", FILES["specs/seeds/s.jsonl"] + '{"id": "new", "prompt": "Say hello."}\n')
    asks = _stage(_plan(clone, code=2), "a_sft_elicit")["asks"]
    assert (asks["num_calls"], asks["bound"]) == (1, "exact")
    assert asks["rows"] == {"new": 1, "changed": 0, "removed": 0, "reused": 6}


@pytest.mark.parametrize(
    ("path", "text", "code", "says"),
    [
        ("dvc.yaml", "stages: {}\n", 4, "dvc.yaml was not written by kdbuild"),
        ("dvc.lock", "schema: '2.0'\nstages:\n  a_sft_elicit:\n    cmd: [", 1, "`kdbuild doctor --fix` repairs it"),
        ("dvc.lock", "", 1, "dvc.lock is torn"),
        ("specs/a.yaml", "target: {skill: x}\nphasse: {}\n", 1, "specs/a.yaml:2"),
        (".dvc/config", "no section\n", 1, ".dvc/config cannot be read"),
    ],
)
def test_errors(edited, path, text, code, says):
    edited.write(path, text)
    done = edited.kdbuild("plan", code=code)
    assert says in done.text
    assert "Traceback" not in done.text


def test_no_dvc_project(tmp_path, built):
    done = type(built)(tmp_path).run("kdbuild", "plan", code=1)
    assert "`kdbuild init`" in done.text
    assert list(tmp_path.iterdir()) == []
