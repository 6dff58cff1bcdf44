import re

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from kdbuild.report import cards
from kdbuild.report.story import gather


@pytest.fixture
def made(whole):
    return cards.render(gather(whole.job()))


def test_the_model_card_is_one_that_the_hub_reads(made):
    card = ModelCard(made["model"])
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "org/teacher-135m"
    assert {"distillation", "kdbuild"} <= set(card.data.tags)
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "held_out_loss_nats_per_token": 2.7,
        "kl_to_teacher_nats_per_token": 1.75,
        "top1_agreement_frac": 0.55,
    }


def test_the_front_matter_is_yaml_of_its_own(made):
    for text in made.values():
        _, front, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
        assert isinstance(yaml.safe_load(front), dict)
        assert body.strip().startswith("# helper")
    index = yaml.safe_load(made["model"].split("---")[1])["model-index"]
    assert index[0]["name"] == "helper"


def test_the_dataset_card_is_one_that_the_hub_reads(made):
    card = DatasetCard(made["dataset"])
    assert card.data.size_categories == ["n<1K"]
    assert card.data.to_dict()["configs"] == [{"config_name": "sft", "data_files": "sft/*.parquet", "default": True}]
    assert card.data.to_dict()["dataset_info"][0]["splits"] == [{"name": "train", "num_examples": 5}]


def test_the_features_told_are_those_the_datasets_library_finds(whole, made, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path))
    files = str(whole.root / "artifacts/helper/sft/selected/*.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    told = DatasetCard(made["dataset"]).data.to_dict()["dataset_info"][0]["features"]
    assert told == rows.features._to_yaml_list()
    assert rows.filter(lambda row: not row["held_out"]).num_rows == 3


def test_what_rows_and_reasons_say_cannot_break_the_page(made):
    body = made["dataset"].split("---", 2)[2]
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {4}
    before, example, after = re.split(r"^`{3,}text\n|\n`{3,}$\n\n## Intended", body, flags=re.MULTILINE)
    assert "<script>" in example
    assert "<script>" not in before + after


def test_results_are_a_table_of_every_model(made):
    lines = made["model"].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| metric"))
    assert lines[start] == "| metric | better | init | sft | kl | teacher |"
    assert lines[start + 1] == "|---|---|---:|---:|---:|---:|"
    assert lines[start + 3] == "| KL to teacher (nats per token) | lower | 5.25 | 2.1 | 1.75 | 0 |"
    assert lines[start + 5] == ""


def test_a_data_set_alone_has_no_model_card_and_says_what_it_does_not_know(project):
    project.write_data()
    made = cards.render(gather(project.job(student=None, licence=None, phases={"sft": ["elicit", "select"]})))
    assert set(made) == {"dataset"}
    assert "license" not in DatasetCard(made["dataset"]).data.to_dict()
    assert "states no licence" in made["dataset"]


def test_a_licence_the_hub_does_not_know_is_named_beside_other(whole):
    made = cards.render(gather(whole.job(licence="Acme Model Licence: v2")))
    data = ModelCard(made["model"]).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "acme-model-licence-v2")


def test_a_model_that_was_not_evaluated_says_so(project):
    project.write_data()
    project.write_training()
    made = cards.render(gather(project.job(teacher="t (pypi:pack==1:file.gguf)")))
    data = ModelCard(made["model"]).data.to_dict()
    assert "model-index" not in data
    assert "base_model" not in data
    assert "It was not evaluated." in made["model"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a | b", r"a \| b"),
        ("# *x* `y`", r"\# \*x\* \`y\`"),
        ("1. one", r"1\. one"),
        ("- a\n- b", r"\- a - b"),
        ("<b>", r"\<b\>"),
        ("a_b", r"a\_b"),
    ],
)
def test_markdown_of_outside_texts_is_literal(text, shown):
    assert cards.md(text) == shown


def test_a_code_block_cannot_be_ended_from_inside():
    assert cards.fenced("a\n````\nb") == "`````text\na\n````\nb\n`````"
