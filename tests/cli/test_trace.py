"""What is told of a row: through the real stages and a teacher that pretends."""

from __future__ import annotations

import json

import pytest

PARAMS = """\
teachers:
  big: {kind: fake, model: big, price: {prompt_usd_per_mtok: 1000, answer_usd_per_mtok: 2000}}
embedder: {kind: fake}
"""
SPEC = """\
target: {skill: talk}
teacher: big
held_out_frac: 0.2
seeds: {kind: dataset, path: specs/seeds.jsonl}
student: {kind: causal-lm, init: {from: teacher, layers: 1}}
phases:
  one:
    elicit: [{kind: label, max_new_tokens: 12}]
    select:
      - {kind: exact-dedup, of: prompt}
      - {kind: rules}
      - {kind: decontaminate, sets: {exam: {kind: dataset, path: specs/exam.jsonl}}}
    objective: {kind: sft}
"""
SAME = "Say the same thing."
EXAM = "How many of the sixty four birds over the old town came back home in the spring after the long war?"


def prompts() -> dict[str, str]:
    plain = {f"q{i:02d}": f"Say something about the number {i}." for i in range(30)}
    return plain | {"exam": EXAM, "twin-b": SAME, "twin-d": SAME, "escape": "Say \x1b[31mred\x1b[0m."}


@pytest.fixture(scope="module")
def project(tmp_path_factory, new_project):
    seeds = "".join(json.dumps({"id": name, "prompt": prompt}) + "\n" for name, prompt in prompts().items())
    exam = json.dumps({"id": "x1", "prompt": EXAM}) + "\n"
    files = {"params.yaml": PARAMS, "specs/a.yaml": SPEC, "specs/seeds.jsonl": seeds, "specs/exam.jsonl": exam}
    project = new_project(tmp_path_factory.mktemp("trace") / "project", files)
    project.kdbuild("stage", "elicit", "a", "one")
    project.kdbuild("stage", "select", "a", "one")
    return project


def test_a_kept_row_is_told_from_its_seed_to_who_trains_on_it(project):
    lines = project.kdbuild("trace", "twin-b").text.splitlines()
    assert lines[:3] == ["row twin-b in a", f"  seed twin-b: user: {SAME}", "  phase one"]
    # Four words to read and at most twelve written, for 1,000 and 2,000 dollars a million.
    assert lines[3].startswith("    elicit: label asked teacher, key ")
    assert lines[3].endswith(" 4 prompt and 12 answer tokens, $0.0280")
    assert lines[4] == f"      question: user: {SAME}"
    assert lines[5].startswith("      answer: ")
    assert lines[6:] == [
        "    select: exact-dedup: went on",
        "    select: rules: rules 1, rules.words 1",
        "    select: decontaminate: went on",
        "  trained on by a one (not built yet)",
    ]


def test_a_duplicate_is_told_with_the_row_it_lost_to(project):
    lines = project.kdbuild("trace", "twin-d", "--spec", "a").text.splitlines()
    assert lines[6] == "    select: exact-dedup: dropped: same prompt as a kept row"
    assert lines[7].startswith(f"      lost to twin-b: user: {SAME} / assistant: ")
    assert lines[8:] == ["  trained on by nothing"]


def test_a_contaminated_row_is_told_with_the_item(project):
    text = project.kdbuild("trace", "exam").text
    assert "    select: decontaminate: dropped: shares a passage with an evaluation set, score 1\n" in text
    assert f"      lost to exam/x1: {EXAM}\n" in text


def test_a_held_out_row_is_told_to_be_held_out(project):
    from kdbuild import canonical

    held_out = next(name for name in prompts() if canonical.fraction("held-out", name) < 0.2)
    text = project.kdbuild("trace", held_out).text
    assert "select: held out" in text
    assert "went on" not in text
    assert text.endswith("  held out, used by nothing\n")


def test_texts_cannot_move_the_cursor(project):
    text = project.kdbuild("trace", "escape").text
    assert "\x1b" not in text
    assert "Say ?[31mred?[0m." in text


def test_names_that_are_not_there(project):
    said = project.kdbuild("trace", "twin-x", code=1).text
    assert said.startswith("error: no row named `twin-x`. Did you mean `twin-")
    assert project.kdbuild("trace", "q01", "--spec", "b", code=1).text == "error: no compiled spec named `b`\n\nhint: there are: a\n"


def test_without_the_store_and_the_spec_the_outputs_still_tell(project_in, project, tmp_path):
    import shutil

    clone = tmp_path / "clone"
    shutil.copytree(project.root, clone, ignore=shutil.ignore_patterns("kdbuild"))
    (clone / "specs/a.yaml").write_text("target: {skill: talk}\n")
    text = project_in(clone).kdbuild("trace", "twin-d").text
    assert "questions of a one are not shown: " in text
    assert "elicit: label asked, key " in text
    assert "4 prompt and 12 answer tokens\n" in text
    assert "lost to twin-b" in text


def test_nothing_is_built(new_project, tmp_path):
    files = {"params.yaml": PARAMS, "specs/a.yaml": SPEC, "specs/seeds.jsonl": '{"prompt": "x"}\n', "specs/exam.jsonl": '{"prompt": "y"}\n'}
    said = new_project(tmp_path / "project", files).kdbuild("trace", "q01", code=1).text
    assert "nothing is built here" in said
    assert "kdbuild build" in said


def test_a_row_made_of_a_seed_names_it(new_project, tmp_path):
    spec = SPEC.replace("elicit: [", "elicit: [{kind: rewrite, max_new_tokens: 40}, ")
    seeds = "".join(json.dumps({"id": f"s{i:02d}", "prompt": f"Number {i} is next."}) + "\n" for i in range(30))
    files = {
        "params.yaml": PARAMS,
        "specs/a.yaml": spec,
        "specs/seeds.jsonl": seeds,
        "specs/exam.jsonl": json.dumps({"prompt": EXAM}) + "\n",
    }
    project = new_project(tmp_path / "project", files)
    project.kdbuild("stage", "elicit", "a", "one")
    hint = project.kdbuild("trace", "s01", code=1).text
    assert "`s01` is a seed: name a row that was made of it" in hint
    made = hint.split("hint: ")[1].split(",")[0].strip()
    text = project.kdbuild("trace", made).text
    assert "  seed s01: user: Number 1 is next.\n" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("    elicit: ")] == ["rewrite", "label"]
