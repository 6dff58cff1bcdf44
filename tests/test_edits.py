"""The table of edits: what each edit of a built project asks of the teacher and what it runs, through plain `dvc repro`.

The same table runs on the fake teacher and on the real SmolLM2 (marked `real`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

COMPILE = {"kdbuild_structure", "models_compile", "t_compile"}
DATA = {"t_sft_elicit", "t_sft_select"}
ON = {"t_sft_train", "t_kl_train", "t_evaluate", "t_report"}

NUM_SEEDS = 12


def real_params(project_params: str) -> str:
    """Return this repository's own params.yaml with its teacher called `asked`, a revision and a price to edit."""
    named = "  asked:\n    kind: transformers\n    revision: one\n    price: {prompt_usd_per_mtok: 0.0}"
    return project_params.replace("  smollm2:\n    kind: transformers", named)


@pytest.fixture(
    scope="module",
    params=["fake", pytest.param("real", marks=pytest.mark.real)],
)
def built(request, tmp_path_factory, new_project):
    """Return a project that was built once."""
    root = tmp_path_factory.mktemp(request.param)
    top = request.config.rootpath
    specs = top / "tests" / "specs"
    is_fake = request.param == "fake"
    params = (specs / "table-fake.params.yaml").read_text() if is_fake else real_params((top / "params.yaml").read_text())
    files = {
        "params.yaml": params,
        "specs/t.yaml": (specs / f"table-{request.param}.yaml").read_text(),
        "specs/seeds/t.jsonl": (specs / "seeds" / "table.jsonl").read_text(),
    }
    project = new_project(root, files)
    project.is_fake = is_fake
    done = project.repro()
    assert done.ran >= DATA | ON
    assert project.num_answers() == NUM_SEEDS
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "built")
    return project


@dataclass
class Edit:
    """One row of the table."""

    path: str
    change: Callable[[str], str]
    runs: set[str]
    """Stages that must run, compile aside."""
    may_run: set[str] = field(default_factory=set)
    """Stages that run where what they read changed."""
    calls: Callable[..., int] | int = 0


def _swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert text.count(old) == 1, old
        return text.replace(old, new)

    return change


def _answers(project) -> list[dict]:
    """Return the stored answers the elicit stage used, as dictionaries."""
    from kdbuild.records import Call, read_dataset

    calls = read_dataset(project.root / "artifacts/t/sft/calls", Call)
    return [json.loads(call.answer) for call in calls]


def _cut(project) -> int:
    return sum(not answer["ended"] for answer in _answers(project))


def _longer_than(limit: int) -> Callable[..., int]:
    return lambda project: sum(answer["num_new_tokens"] > limit for answer in _answers(project))


def _rewrite(text: str) -> str:
    """Another comment, another order of keys, other white space."""
    return "# Another.\n" + text.replace("teacher: asked\n", "").replace("seeds:", "teacher:   asked\nseeds:")


NEW_SEED = '{"id": "new", "prompt": "What is a good gift for a friend?"}\n'
EDITS = {
    "nothing": Edit("specs/t.yaml", lambda text: text, set()),
    "comment and key order": Edit(
        "specs/t.yaml",
        lambda text: "# Another.\n" + text.replace("teacher: asked\n", "").replace("seeds:", "teacher:   asked\nseeds:"),
        set(),
    ),
    "learning rate of the last phase": Edit("specs/t.yaml", _swap("2.0e-4", "3.0e-4"), {"t_kl_train", "t_evaluate", "t_report"}),
    "learning rate of the first phase": Edit("specs/t.yaml", _swap("1.0e-3", "2.0e-3"), ON),
    "threshold, same set": Edit("specs/t.yaml", _swap("0.97", "0.975"), {"t_sft_select"}),
    "seed added": Edit("specs/seeds/t.jsonl", lambda text: text + NEW_SEED, DATA, ON, 1),
    "seed changed": Edit("specs/seeds/t.jsonl", _swap("Describe the sea", "Describe the forest"), DATA, ON, 1),
    "seed removed": Edit("specs/seeds/t.jsonl", lambda text: "".join(text.splitlines(keepends=True)[:-1]), DATA, ON, 0),
    "seeds reordered": Edit("specs/seeds/t.jsonl", lambda text: "".join(reversed(text.splitlines(keepends=True))), {"t_sft_elicit"}),
    "system prompt": Edit("specs/t.yaml", _swap("Answer briefly.", "Answer in a few words."), DATA, ON, NUM_SEEDS),
    "limit raised": Edit("specs/t.yaml", _swap("max_new_tokens: 16", "max_new_tokens: 20"), {"t_sft_elicit"}, DATA | ON, _cut),
    "limit lowered": Edit("specs/t.yaml", _swap("max_new_tokens: 16", "max_new_tokens: 12"), {"t_sft_elicit"}, DATA | ON, _longer_than(12)),
    # What asks the teacher itself, or starts from it, also follows its revision: the student's start, online logits, evaluation.
    "teacher's revision": Edit("params.yaml", _swap("revision: one", "revision: two"), {"t_sft_elicit"}, DATA | ON | {"t_init"}, NUM_SEEDS),
    "a knob": Edit("params.yaml", _swap("micro_batch_tokens:", "num_ranks: 1\n    micro_batch_tokens:"), set()),
    "a price": Edit("params.yaml", _swap("prompt_usd_per_mtok: 0.0", "prompt_usd_per_mtok: 1.5"), set()),
}


@pytest.mark.parametrize("name", EDITS)
def test_edit(built, name):
    edit = EDITS[name]
    before, text, calls_before = _digests(built), built.read(edit.path), built.num_answers()
    expected_calls = edit.calls(built) if callable(edit.calls) else edit.calls
    if name == "a knob" and built.is_fake:
        text_after = text.replace("train: {micro_batch_tokens", "train: {num_ranks: 1, micro_batch_tokens")
    else:
        text_after = edit.change(text)
    built.write(edit.path, text_after)
    try:
        done = built.repro()
        ran = done.ran - COMPILE
        assert edit.runs <= ran | done.restored <= edit.runs | edit.may_run | edit.runs
        assert done.restored == set(), "an edit never built before cannot be restored"
        assert built.num_answers() - calls_before == expected_calls
        selected_changed = _digests(built)["t_sft_select"] != before["t_sft_select"]
        if edit.may_run & {"t_sft_train"}:
            assert ("t_sft_train" in ran) == selected_changed
        if name == "nothing":
            assert done.ran == set()
    finally:
        built.write(edit.path, text)
    calls = built.num_answers()
    back = built.repro()
    assert back.ran <= COMPILE
    assert built.num_answers() == calls
    assert _digests(built) == before


def _digests(project) -> dict[str, list[str]]:
    """Return the md5 of every output by stage, from dvc.lock."""
    from ruamel.yaml import YAML

    stages = YAML(typ="safe").load(project.read("dvc.lock"))["stages"]
    return {name: [out["md5"] for out in stage.get("outs", [])] for name, stage in stages.items()}


def test_phase_added_without_compile(built):
    text = built.read("specs/t.yaml")
    built.write("specs/t.yaml", text.replace("evaluate:", "  more:\n    objective: {kind: sft}\nevaluate:"))
    try:
        for target in ((), ("t_report",)):
            done = built.repro(*target, code=None)
            assert done.code != 0
            assert done.ran <= COMPILE
            assert "run `kdbuild compile`" in done.text
            assert "Traceback" not in done.text
    finally:
        built.write("specs/t.yaml", text)
    assert built.repro().ran <= COMPILE


def test_spec_added_without_compile(built):
    built.write("specs/other.yaml", built.read("specs/t.yaml"))
    try:
        done = built.repro(code=None)
        assert done.code != 0
        assert done.ran == {"kdbuild_structure"}
        assert "specs/other.yaml" in done.text
        assert "run `kdbuild compile`" in done.text
    finally:
        (built.root / "specs/other.yaml").unlink()
    assert built.repro().ran <= COMPILE


def test_second_spec_asks_nothing(built):
    calls = built.num_answers()
    text = built.read("specs/t.yaml")
    data_only = text[: text.index("student:")] + text[text.index("seeds:") : text.index("    objective: {kind: sft}")]
    built.write("specs/second.yaml", data_only)
    built.kdbuild("compile")
    done = built.repro()
    assert done.ran - COMPILE == {"second_compile", "second_sft_elicit", "second_sft_select", "second_report"}
    assert built.num_answers() == calls
    first, second = ((built.root / f"artifacts/{spec}/sft/elicited/manifest.json").read_bytes() for spec in ("t", "second"))
    assert first == second
    (built.root / "specs/second.yaml").unlink()
    built.kdbuild("compile")
    assert built.repro().ran <= COMPILE


def test_failing_stage_leaves_nothing_to_commit(built):
    seeds = built.read("specs/seeds/t.jsonl")
    calls = built.num_answers()
    built.write("specs/seeds/t.jsonl", seeds + "{not json\n")
    done = built.repro(code=None)
    assert done.code != 0
    assert "specs/seeds/t.jsonl:13" in done.text
    assert "Traceback" not in done.text
    built.run("git", "add", "-A")
    built.run("git", "commit", "-qm", "broken")
    committed = built.run("git", "ls-files", "artifacts").text.split()
    assert committed
    assert all(path.endswith((".json", ".gitignore")) for path in committed)
    assert not any("/manifest.json" in path or "/model/" in path for path in committed)
    built.write("specs/seeds/t.jsonl", seeds)
    assert built.repro().ran <= COMPILE
    assert built.num_answers() == calls


def test_dvc_yaml_edited_by_hand(built):
    text, spec = built.read("dvc.yaml"), built.read("specs/t.yaml")
    built.write("dvc.yaml", text.replace("exec kdbuild stage evaluate", "true && exec kdbuild stage evaluate"))
    built.write("specs/t.yaml", spec.replace("2.0e-4", "2.5e-4"))
    try:
        for done in (built.repro(code=None), built.kdbuild("build", "--yes", code=None)):
            assert done.code != 0
            assert "dvc.yaml was edited by hand" in done.text
            assert "kdbuild compile --force" in done.text
            assert "specs/ or params.yaml" in done.text
            assert "Traceback" not in done.text
    finally:
        built.write("dvc.yaml", text)
        built.write("specs/t.yaml", spec)
    assert built.repro().ran <= COMPILE


def test_clone_asks_only_for_what_it_edits(built, tmp_path_factory):
    """A clone after push and pull builds nothing; one edited seed is one call."""
    storage, clone = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("clones") / "clone"
    built.run("dvc", "remote", "add", "-f", "-d", "storage", str(storage))
    built.run("git", "add", "-A")
    built.run("git", "commit", "-qm", "share")
    built.run("dvc", "push", "-q")
    built.run("git", "clone", "-q", str(built.root), str(clone))
    copy = type(built)(clone)
    copy.run("dvc", "config", "core.analytics", "false")
    copy.run("dvc", "pull", "-q")
    assert copy.repro().ran == set()
    assert copy.num_answers() == 0
    copy.edit("specs/seeds/t.jsonl", "Describe the sea", "Describe the desert")
    log_before = copy.read("calls.log") if (clone / "calls.log").exists() else ""
    ran = copy.repro().ran
    assert ran >= DATA
    if built.is_fake:
        assert len(copy.read("calls.log").splitlines()) - len(log_before.splitlines()) == 1
    keys = {call["key"] for call in map(vars, _calls(copy))} - {call["key"] for call in map(vars, _calls(built))}
    assert len(keys) == 1


def _calls(project) -> list:
    from kdbuild.records import Call, read_dataset

    return read_dataset(project.root / "artifacts/t/sft/calls", Call)
