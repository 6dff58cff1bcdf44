"""Everything wrong with a project at once, and no traceback whatever a spec says."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbuild.compile.review import review
from kdbuild.errors import SpecError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "specs" / "seeds").mkdir(parents=True)
    rows = "".join(f'{{"prompt": "What is {i} and one?"}}\n' for i in range(200))
    (tmp_path / "specs" / "seeds" / "a.jsonl").write_text(rows)
    return tmp_path


TEXT = "target: {skill: x}\nteacher: %s\nseeds: {kind: dataset, path: specs/seeds/a.jsonl}\nphases: {ask: {elicit: [{kind: label}]}}\n"


def test_review_tells_the_errors_of_every_file(root: Path) -> None:
    (root / "params.yaml").write_text("teachers: {tiny: {kind: fake}}\n")
    for name, teacher in (("a", "tiny"), ("b", "tinny"), ("c", "[")):
        (root / "specs" / f"{name}.yaml").write_text(TEXT % teacher)
    seen = review(root)
    assert seen.good == ["a"]
    assert [error.split(": ")[0] for error in seen.errors] == ["specs/b.yaml:2", "specs/c.yaml:2"]


def test_review_of_one_spec_says_nothing_of_others(root: Path) -> None:
    (root / "params.yaml").write_text("teachers: {tiny: {kind: fake}}\n")
    for name, teacher in (("a", "tiny"), ("b", "tinny"), ("c", "[")):
        (root / "specs" / f"{name}.yaml").write_text(TEXT % teacher)
    assert (review(root, ["a"]).good, review(root, ["a"]).errors) == (["a"], [])
    assert len(review(root, ["specs/b.yaml"]).errors) == 1
    with pytest.raises(SpecError, match=r"no spec named `aa`\. Did you mean `a`\?"):
        review(root, ["aa"])


# --- whatever a spec says --------------------------------------------------------------------------------------------

WHOLE = {
    "spec": {
        "target": {"skill": "x"},
        "teacher": "tiny",
        "student": {"kind": "causal-lm", "init": {"from": "teacher", "layers": 2}},
        "seeds": {"kind": "dataset", "path": "specs/seeds/a.jsonl"},
        "held_out_frac": 0.2,
        "phases": {
            "sft": {
                "elicit": [{"kind": "label", "max_new_tokens": 8}],
                "select": [{"kind": "semantic-dedup", "max_cosine": 0.9}],
                "objective": [{"kind": "sft"}, {"kind": "forward-kl", "weight": 0.5}],
                "adaptation": {"kind": "lora"},
            },
            "kl": {"on": "sft", "data": [{"from": "sft"}], "objective": {"kind": "forward-kl"}, "train": {"num_epochs": 1}},
        },
        "evaluate": [{"kind": "teacher-agreement"}],
    },
    "params": {
        "teachers": {"tiny": {"kind": "fake"}, "big": {"kind": "transformers", "model": "hf:a/b@c", "price": {"answer_usd_per_mtok": 1}}},
        "embedder": {"kind": "fake"},
        "defaults": {"train": {"num_epochs": 2}},
        "runtime": {"train": {"num_ranks": 2}},
    },
}
VALUES = [None, True, 0, -1, 1.5, 10**30, "", "x", "sft", "kl", "tiny", "init", "../x", "path:../x", "hf:a", "${x}", "a/kl", "/", "{given}"]
VALUES += [[], {}, [1], ["a"], [[]], [{}], {"kind": "sft"}, {"kind": 3}, {"kind": ["a"]}, {"a": {"b": 1}}, [{"from": "kl"}]]


def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else []
    return [at, *(place for key, item in below for place in places(item, (*at, key)))]


PLACES = [place for place in places(WHOLE) if len(place) > 1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(VALUES)), max_size=3))
def test_any_spec_is_good_or_told_why_not(root: Path, edits: list[tuple[tuple[Any, ...], Any]]) -> None:
    whole = copy.deepcopy(WHOLE)
    for place, value in edits:
        inside = whole
        try:
            for step in place[:-1]:
                inside = inside[step]
            inside[place[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue
    (root / "specs" / "a.yaml").write_text(json.dumps(whole["spec"]))
    (root / "params.yaml").write_text(json.dumps(whole["params"]))
    seen = review(root)
    assert bool(seen.good) != bool(seen.errors)
    assert all(re.match(r"(specs/a|params)\.yaml(:1)?: \S", block) for error in seen.errors for block in error.split("\n\n"))
