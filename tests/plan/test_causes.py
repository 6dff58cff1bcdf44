"""What is said about why a stage is stale."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdbuild.compile import stages
from kdbuild.compile.stages import Stage, keyed
from kdbuild.plan import causes
from kdbuild.plan.causes import Reason
from kdbuild.plan.lockfile import Entry

SECTION = {"operators": [{"kind": "label", "kind_revision": 1, "limit": 16, "top": 1}], "rows": "a"}


def _stage(section=SECTION, *also, **changes) -> Stage:
    bare = Stage("s", "elicit", "p", "r.json", ("p", "elicit"), section, deps=(("rows", "a"),), outs=("o",))
    return keyed(replace(bare, **changes), *also)


def _entry(stage: Stage) -> Entry:
    return Entry(stage.command, {path: "x" for _, path in stage.deps}, {"r.json": causes.tracked(stage)}, dict.fromkeys(stage.outs, "y"))


def _changed(**fields) -> dict:
    return {**SECTION, "operators": [{**SECTION["operators"][0], **fields}]}


def test_nothing_changed():
    assert causes.of_params(_stage(), _entry(_stage())) == []


def test_value_old_and_new():
    (cause,) = causes.of_params(_stage(_changed(limit=20)), _entry(_stage()))
    assert cause.reason is Reason.PARAM
    assert cause.text() == "operators.0.limit: 16 -> 20"


@pytest.mark.parametrize(("old", "new", "text"), [(1, 1.0, "1 -> 1.0"), (1, True, "1 -> true"), (0, False, "0 -> false")])
def test_types_that_dvc_takes_for_equal(old, new, text):
    (cause,) = causes.of_params(_stage(_changed(top=new)), _entry(_stage(_changed(top=old))))
    assert cause.text() == f"operators.0.top: {text}"


def test_key_added_and_removed():
    fewer = {**SECTION, "operators": [{"kind": "label", "kind_revision": 1, "limit": 16}]}
    assert [c.text() for c in causes.of_params(_stage(fewer), _entry(_stage()))] == ["operators.0.top: 1 -> absent"]
    assert [c.text() for c in causes.of_params(_stage(), _entry(_stage(fewer)))] == ["operators.0.top: absent -> 1"]


def test_revision_of_a_kind():
    (cause,) = causes.of_params(_stage(_changed(kind_revision=2)), _entry(_stage()))
    assert cause.reason is Reason.CODE
    assert cause.text() == "code changed: operators.0 (label) (revision 1 -> 2)"


def test_revision_of_a_step(monkeypatch):
    before = _entry(_stage(SECTION, "template"))
    now = stages.STEP_REVISIONS["elicit"]
    monkeypatch.setitem(stages.STEP_REVISIONS, "elicit", now + 2)
    (cause,) = causes.of_params(_stage(SECTION, "template"), before)
    assert cause.text() == f"code changed: step `elicit` (revision {now} -> {now + 2})"


def test_packaged_template():
    (cause,) = causes.of_params(_stage(SECTION, "new template"), _entry(_stage(SECTION, "template")))
    assert cause.reason is Reason.CODE
    assert "packaged template" in cause.text()


def test_input_taken_away_is_told():
    before = _stage(deps=(("rows", "a"), ("template", "t.j2")))
    (cause,) = causes.of_params(_stage(), _entry(before))
    assert (cause.subject, cause.old, cause.new) == ("what it reads", ["t.j2"], [])


def test_long_values_are_cut():
    (cause,) = causes.of_params(_stage(_changed(limit="x" * 500)), _entry(_stage(_changed(limit="short"))))
    assert cause.new == "x" * 500
    assert len(cause.text()) < 120
