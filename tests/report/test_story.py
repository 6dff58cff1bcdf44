import json

import pytest

from kdbuild.errors import ArtifactError
from kdbuild.report.story import gather


def test_an_answer_that_two_rows_share_is_paid_for_once(whole):
    paid = gather(whole.job()).data[0].paid
    assert paid.num_answers == 5
    assert paid.num_prompt_tokens == 5 * 20
    assert paid.num_answer_tokens == 10 + 20 + 30 + 40 + 50
    assert paid.num_cut == 1
    assert paid.lengths == (10, 20, 30, 40, 50)


def test_reasons_are_counted_and_rejections_told_apart(whole):
    reasons = gather(whole.job()).data[0].reasons
    assert [(r.by, r.count, r.is_rejection) for r in reasons] == [
        ("semantic-dedup", 2, False),
        ("exact-dedup", 1, False),
        ("label", 1, True),
    ]


def test_rows_are_counted_by_side(whole):
    part = gather(whole.job()).data[0]
    assert (part.num_training, part.num_held_out, part.num_dropped) == (3, 2, 4)


def test_curves_are_every_value_by_step(whole):
    sft = gather(whole.job()).training[0]
    assert sft.phase == "sft"
    assert set(sft.curves) == {"loss_nats_per_token", "learning_rate"}
    assert sft.curves["loss_nats_per_token"][1] == (2.0, 1.5)


def test_a_metrics_file_that_an_earlier_form_of_the_spec_left_is_not_shown(whole):
    job = whole.job()
    (whole.root / "artifacts/helper/resolved.json").write_text(json.dumps({"report": {}}))
    assert gather(job).comparison is None


@pytest.mark.parametrize("path", ["metrics.json", "sft/train.json", "sft/elicit.json", "sft/dropped/manifest.json"])
def test_a_missing_input_is_an_error_that_names_it(whole, path):
    job = whole.job()
    (whole.root / "artifacts/helper" / path).unlink()
    with pytest.raises(ArtifactError, match=path.removesuffix("/manifest.json")):
        gather(job)


def test_phases_and_models_stand_in_the_specs_order(whole):
    story = gather(whole.job())
    assert story.last_phase == "kl"
    assert list(story.comparison.metrics) == ["init", "sft", "kl", "teacher"]
    assert [answer["model"] for answer in story.comparison.samples[0]["answers"]] == ["init", "sft", "kl", "teacher"]
