from html.parser import HTMLParser

import pytest

from kdbuild.report import page
from kdbuild.report.story import Comparison, gather

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page as its elements: which tags, which attributes, what text; fails on a tag that closes another."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.words, self._open = [], [], [], []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def html(whole):
    return page.render(gather(whole.job()))


def test_it_is_well_formed_and_loads_nothing(html):
    found = Page(html)
    assert "script" not in found.tags
    assert not {"img", "link", "iframe", "object", "embed"} & set(found.tags)
    assert all(not str(value).startswith(("http:", "https:", "//")) for _, value in found.attributes)
    assert [value for name, value in found.attributes if name in ("src", "srcset")] == []
    assert all(str(value).startswith("#") for name, value in found.attributes if name == "href")
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert "url(" not in html
    assert "@import" not in html


def test_texts_of_rows_are_shown_as_they_are(html):
    found = Page(html)
    # In a dropped row, the row that two gave way to, the prompt of a sample and an answer.
    assert found.text.count("<script>alert('x')</script>") == 5
    assert found.text.count("{{ 7 * 7 }}") == 5
    assert "\x00" not in html


def test_every_reason_is_told_with_examples(html):
    text = Page(html).text
    for reason in ("nearly the same as another row", "same prompt as another row", "empty answer"):
        assert reason in text
    for one in ("d1", "d2", "d3", "d4"):
        assert one in text
    assert "rejected: empty answer" in text
    assert "kept instead: r1" in text
    assert "score 0.97" in text


def test_results_tell_change_and_direction(html):
    text = Page(html).text
    assert "-3.5 (-67 %), better" in text  # 5.25 to 1.75
    assert "+0.45 (+450 %), better" in text  # 0.10 to 0.55
    assert "On 2 held-out rows" in text


def test_rows_tokens_and_paths_are_told(html):
    text = Page(html).text
    for said in (
        "came in 9",
        "1 elicit rejected before selection: the answer could not be used 1 8",
        "2 held out set aside for evaluation; no selector compares them 6 2",
        "3 exact-dedup selected 1 5 2",
        "4 semantic-dedup selected 2 3 2",
        "for training 3",
        "held out for evaluation 2",
        "Answer tokens 150",
        "Prompt tokens 100",
        "Cut at the token limit 1",
    ):
        assert said in text
    assert "artifacts/helper/kl/model" in text
    assert "artifacts/helper/sft/selected" in text


def test_both_phases_have_their_curves(html):
    labels = [value for name, value in Page(html).attributes if name == "aria-label"]
    assert labels.count("Loss (nats per token) over optimiser step: from 3 to 0.375") == 2


def test_it_depends_on_its_inputs_alone(whole):
    assert page.render(gather(whole.job())) == page.render(gather(whole.job()))


def test_a_data_set_alone_has_a_page_without_models(project):
    project.write_data()
    html = page.render(gather(project.job(student=None, phases={"sft": ["elicit", "select"]})))
    text = Page(html).text
    assert "A data set for the skill instruction-following" in text
    assert "nearly the same as another row" in text
    assert "Results" not in text
    assert "from transformers" not in text


def test_a_worse_model_is_told_to_be_worse():
    metrics = {
        "init": {"a_frac": 0.5, "b_nats_per_token": 2.0},
        "sft": {"a_frac": 0.25, "b_nats_per_token": 2.0},
        "teacher": {"a_frac": 1.0},
    }
    compared = Comparison(metrics, {"a_frac": "higher", "b_nats_per_token": "lower"}, 2, ())
    assert page.cell(compared, "sft", "a_frac") == page.Cell("0.25", "-0.25 (-50 %)", "worse")
    assert page.cell(compared, "sft", "b_nats_per_token") == page.Cell("2", "no change", "same")
    assert page.cell(compared, "teacher", "b_nats_per_token") == page.Cell("–")
    assert page.cell(compared, "teacher", "a_frac").verdict == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("held_out_loss_nats_per_token", "Held-out loss (nats per token)"),
        ("top1_agreement_frac", "Top-1 agreement (share)"),
        ("rouge_l_f1", "ROUGE-L F1"),
    ],
)
def test_names_of_metrics_are_words_with_a_unit(name, said):
    assert page.words(name) == said


def test_long_texts_are_cut():
    assert len(page.clip("a" * 5000)) < 620
    assert page.clip("a\r\nb\x1b[31m") == "a\nb\ufffd[31m"
