"""The classifier against transformers' own forward pass, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from kdbuild.errors import SourceError
from kdbuild.records import Message
from kdbuild.rows.answers import decode, encode
from kdbuild.teachers import Answer, Ask, Signal, row_key
from kdbuild.teachers.classifier import Classifier
from kdbuild.teachers.fake import Fake

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
NLI = {0: "entailment", 1: "neutral", 2: "contradiction"}
TEACHER = Classifier(model="path:model", device="cpu", batch_tokens=64)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 0.5}


def save(folder: Path, model: torch.nn.Module, tokenizer=None) -> Path:
    if tokenizer is None:
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=48)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert(folder: Path, **more) -> Path:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=48, **SIZES, **{"id2label": NLI, **more})
    return save(folder, BertForSequenceClassification(config).eval())


def llama(folder: Path, pad: int | None) -> Path:
    """A reward model: one output, read off the last token."""
    causal, tokenizer = Fake(num_layers=2, hidden_size=32).load(Path(), None)
    config = causal.config
    config.num_labels, config.pad_token_id = 1, pad
    torch.manual_seed(1)
    return save(folder, LlamaForSequenceClassification(config).eval(), tokenizer)


def pair(first: str, second: str) -> Ask:
    return Ask("p", (Message("user", first), Message("assistant", second)), classify="pair")


def text(content: str) -> Ask:
    return Ask("t", (Message("user", content),), classify="text")


def chat(question: str, answer: str) -> Ask:
    return Ask("c", (Message("user", question), Message("assistant", answer)), classify="chat")


def classify(folder: Path, asks: list[Ask], teacher: Classifier = TEACHER) -> list[Answer]:
    with teacher.open(Path(), folder) as session:
        found = dict(session.generate(asks))
    return [found[i] for i in range(len(asks))]


def direct(folder: Path, *texts: str) -> list[float]:
    """Return the logits of one plain pass over one text or pair."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**AutoTokenizer.from_pretrained(folder)(*texts, return_tensors="pt")).logits[0].tolist()


PAIRS = [("the cat sat on a mat", "a cat sat"), ("rain", "sun and wind"), ("x", "y"), ("a very long story of a ship", "z")]


def test_a_pair_s_labels_are_those_of_a_plain_pass(tmp_path):
    folder = bert(tmp_path)
    answers = classify(folder, [pair(*one) for one in PAIRS] * 3)
    assert {answer.labels for answer in answers} == {("entailment", "neutral", "contradiction")}
    for answer, one in zip(answers[:4], PAIRS, strict=True):
        expected = torch.tensor(direct(folder, *one)).log_softmax(0).tolist()
        assert answer.label_scores == pytest.approx(expected, abs=1e-5)
        assert math.fsum(map(math.exp, answer.label_scores)) == pytest.approx(1, abs=1e-5)
        assert (answer.text, answer.ended, answer.num_new_tokens, answer.failed) == ("", True, 0, None)
    assert len({answer.label_scores for answer in answers[:4]}) == 4


def test_a_text_and_the_first_of_a_pair_differ(tmp_path):
    folder = bert(tmp_path)
    (alone,) = classify(folder, [text("a cat")])
    assert alone.label_scores == pytest.approx(torch.tensor(direct(folder, "a cat")).log_softmax(0).tolist(), abs=1e-5)


def test_several_labels_at_once_stand_by_themselves(tmp_path):
    folder = bert(tmp_path, problem_type="multi_label_classification", id2label={0: "rude", 1: "loud"})
    (answer,) = classify(folder, [text("a cat")])
    assert [math.exp(score) for score in answer.label_scores] == pytest.approx(
        [1 / (1 + math.exp(-logit)) for logit in direct(folder, "a cat")], abs=1e-5
    )


def test_one_output_is_given_as_it_is(tmp_path):
    folder = bert(tmp_path, id2label={0: "score"})
    (answer,) = classify(folder, [pair(*PAIRS[0])])
    assert (answer.labels, answer.label_scores) == (("score",), pytest.approx(direct(folder, *PAIRS[0]), abs=1e-5))


@pytest.mark.parametrize("pad", [None, 0, "eos"])
def test_a_chat_is_written_by_the_template_and_read_to_its_last_token(tmp_path, pad):
    tokenizer = Fake().load(Path(), None)[1]
    folder = llama(tmp_path, tokenizer.eos_token_id if pad == "eos" else pad)
    chats = [("Hi", "Hello there, how are you?"), ("Why?", "So."), ("Name a tree.", "An oak.")]
    answers = classify(folder, [chat(*one) for one in chats], TEACHER.model_copy(update={"batch_tokens": 4096}))
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    for answer, (question, said) in zip(answers, chats, strict=True):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
        written = tokenizer.apply_chat_template(turns, tokenize=False)
        with torch.no_grad():
            expected = float(model(**tokenizer(written, add_special_tokens=False, return_tensors="pt")).logits)
        assert answer.label_scores == pytest.approx((expected,), abs=1e-5)
        assert answer.labels == ("LABEL_0",)


def test_roberta_reads_two_tokens_fewer_than_it_has_positions(tmp_path):
    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=20, pad_token_id=0, **SIZES, id2label=NLI)
    folder = save(tmp_path, RobertaForSequenceClassification(config).eval())
    whole, longer = classify(folder, [text("a " * 17), text("a " * 18)])
    assert whole.failed is None
    assert longer.failed == "20 tokens are more than the 19 that the classifier reads"


def test_too_long_fails_or_is_cut(tmp_path):
    folder = bert(tmp_path)
    asks = [text("a " * 100), pair("a " * 100, "b"), pair("b", "a " * 100), text("a")]
    assert [bool(answer.failed) for answer in classify(folder, asks)] == [True, True, True, False]
    cutting = TEACHER.model_copy(update={"too_long": "cut"})
    answers = classify(folder, asks, cutting)
    assert [bool(answer.failed) for answer in answers] == [False, False, True, False]
    assert answers[2].failed == "the second text alone is longer than the classifier reads"
    assert answers[1].label_scores == pytest.approx(torch.tensor(direct(folder, "a " * 44, "b")).log_softmax(0).tolist(), abs=1e-5)
    assert row_key(cutting.answer_identity(tmp_path), asks[0]) != row_key(TEACHER.answer_identity(tmp_path), asks[0])


def test_company_and_order_do_not_matter(tmp_path):
    folder = bert(tmp_path)
    asks = [text(c * n) for c, n in zip("abcdefgh", range(1, 9), strict=True)] + [text("")]
    together = classify(folder, asks)
    assert together[8].failed is None  # [CLS] [SEP]
    for given in (asks[::-1], asks[2:3]):
        for ask, answer in zip(given, classify(folder, given), strict=True):
            assert answer.label_scores == pytest.approx(together[asks.index(ask)].label_scores, abs=1e-5)
    assert classify(folder, []) == []


def test_it_writes_nothing_and_no_other_classifies(tmp_path):
    folder = bert(tmp_path)
    assert TEACHER.gives == {Signal.SCORES}
    assert text("a").needs is Signal.SCORES
    question = Ask("q", (Message("user", "Name a tree."),), 8)
    refused = classify(folder, [question, replace(question, choices=("a", "b")), pair("a", "b"), replace(text("a"), classify="pair")])
    assert [bool(answer.failed) for answer in refused] == [True, True, False, True]
    assert classify(folder, [chat("a", "b")])[0].failed == "the classifier's tokenizer has no chat template"
    with Fake(num_layers=2).open(tmp_path, None) as session:
        ((_, made_up),) = session.generate([text("a")])
    assert set(made_up.labels) == set(NLI.values())


def test_what_the_model_is_shown_is_in_the_key(tmp_path):
    asks = [replace(pair("a", "b"), classify=how) for how in ("pair", "chat", None)]
    assert len({row_key({}, ask) for ask in asks}) == 3


def test_a_stored_answer_reads_back():
    answer = Answer("", True, 3, 0, labels=("good", "bad"), label_scores=(-0.25, -1.5))
    assert decode(encode(answer)) == answer


def test_a_model_without_a_head_is_refused(tmp_path):
    config = BertConfig(vocab_size=len(WORDS), max_position_embeddings=48, **SIZES)
    folder = save(tmp_path, BertModel(config))
    with pytest.raises(SourceError, match=r"no whole classifier: it lacks classifier\.bias"):
        classify(folder, [text("a")])


def test_pickled_weights_are_refused(tmp_path):
    folder = bert(tmp_path)
    model = BertForSequenceClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="does not hold a model"):
        classify(folder, [text("a")])


def test_not_a_number_is_a_failure(tmp_path):
    folder = bert(tmp_path)
    model = BertForSequenceClassification.from_pretrained(folder)
    model.classifier.bias.data[0] = float("nan")
    model.save_pretrained(folder)
    assert classify(folder, [text("a")])[0].failed == "the model's scores are not numbers"
