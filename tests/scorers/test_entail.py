"""Does an answer follow from its passages? By a trained cross-encoder, and by signs."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from kdbuild.embedders.fake import Fake
from kdbuild.errors import StageError
from kdbuild.records import Message, Row
from kdbuild.scorers import Scene, _calibration, _entailment
from kdbuild.scorers._entailment import Signs, agreement_of, facts_of, probability, sentences_of
from kdbuild.scorers._entailment_fit import fit, held_out, read, signs_of
from kdbuild.scorers.entail import Entail
from kdbuild.teachers import Answer, Ask, Signal
from kdbuild.teachers.classifier import Classifier

BUILT = Path(__file__).parents[2] / "artifacts/models"
NLI = ("contradiction", "entailment", "neutral")
USER = Message("user", "What of the ship?")


class Vectors:
    """The stage's embedder, without weights."""

    def embed(self, texts):
        return Fake(dimension=256).embed(texts, None)


SCENE = Scene(Path(), embedder=Vectors())


def row(name: str, answer: str, *passages: str) -> Row:
    context = tuple({"doc_id": f"{name}-{i}", "text": text, "score": None} for i, text in enumerate(passages))
    return Row(name, (USER, Message("assistant", answer, train=True)), context=context)


# --- by a classifier -----------------------------------------------------------------------------------------------------------

COLOURS = ["red", "green", "blue", "white", "black", "grey"]
THINGS = ["mast", "keel", "sail", "deck", "rope", "flag"]


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    """Return the folder of a tiny cross-encoder, trained on what things are painted."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("nli")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "is", ".", *COLOURS, *THINGS]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64)
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(words),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            initializer_range=0.2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            id2label=dict(enumerate(NLI)),
        )
    )
    rng, optimiser = random.Random(0), torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(400):
        firsts, seconds, labels = zip(*(_example(rng) for _ in range(32)), strict=True)
        batch = tokenizer(list(firsts), list(seconds), return_tensors="pt", padding=True)
        loss = model(**batch, labels=torch.tensor(labels)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss < 0.02:
            break
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _example(rng: random.Random) -> tuple[str, str, int]:
    thing, colour = rng.choice(THINGS), rng.choice(COLOURS)
    label = rng.randrange(3)
    named = rng.choice([one for one in THINGS if one != thing]) if label == 2 else thing
    said = colour if label == 1 else rng.choice([one for one in COLOURS if one != colour])
    return f"the {thing} is {colour} .", f"the {named} is {said} .", label


@pytest.fixture(scope="module")
def ask_nli(nli):
    """Return the classifier's answer to a question."""
    with Classifier(model="path:nli", device="cpu").open(Path(), nli) as session:

        def reply(ask: Ask) -> Answer:
            ((_, answer),) = session.generate([ask])
            return answer

        yield reply


def direct(folder: Path, premise: str, hypothesis: str) -> float:
    """Return P(entailment) by one plain pass."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**AutoTokenizer.from_pretrained(folder)(premise, hypothesis, return_tensors="pt")).logits[0]
    return float(logits.softmax(0)[NLI.index("entailment")])


def test_it_is_the_cross_encoder_s_own_probability(score, nli, ask_nli):
    passages = ["the mast is red .", "the keel is black ."]
    sentences = ["the mast is red.", "the keel is white."]
    given = row("r", " ".join(sentences), *passages)
    by_sentence = [max(direct(nli, passage, sentence) for passage in passages) for sentence in sentences]
    assert score(Entail(how="nli"), [given], ask_nli).values("entail") == pytest.approx([min(by_sentence)], abs=1e-5)
    mean = sum(by_sentence) / 2
    assert score(Entail(how="nli", over="mean"), [given], ask_nli).values("entail") == pytest.approx([mean], abs=1e-5)


def test_what_the_passage_says_gets_more_than_what_it_does_not(score, ask_nli):
    good, spoilt = row("g", "the mast is white.", "the mast is white ."), row("s", "the mast is black.", "the mast is white .")
    driven = score(Entail(how="nli"), [good, spoilt], ask_nli)
    assert driven.values("entail")[0] > 0.5 > driven.values("entail")[1]
    (ask, _) = driven.asks
    assert (ask.classify, [turn.content for turn in ask.messages]) == ("pair", ["the mast is white .", "the mast is white."])


def test_labels_of_other_names_and_models_with_one_output(score):
    given = row("r", "Yes.", "It is so.")
    other = Answer("", True, 3, 0, labels=("yes", "no"), label_scores=(math.log(0.75), math.log(0.25)))
    assert score(Entail(how="nli", entailment="Yes"), [given], lambda ask: other).values("entail") == [0.75]
    with pytest.raises(StageError, match="`entailment`, which its model has not"):
        score(Entail(how="nli"), [given], lambda ask: other)
    single = replace(other, labels=("score",), label_scores=(math.log(3),))
    assert score(Entail(how="nli"), [given], lambda ask: single).values("entail") == [0.75]
    assert score(Entail(how="nli"), [given], lambda ask: "words").reasons == {"r": "no scores in the answer"}


def test_candidates_are_scored_one_by_one(score, ask_nli):
    given = replace(
        row("r", "", "the rope is red ."), messages=(USER,), candidates=({"text": "the rope is red."}, {"text": "the rope is black."})
    )
    first, second = score(Entail(how="nli"), [given], ask_nli).rows["r"].candidates
    assert first["score"] > second["score"]


# --- by signs ------------------------------------------------------------------------------------------------------------------


def likely(with_passages: float, without: float, num_tokens: int = 4):
    def reply(ask: Ask) -> Answer:
        told = with_passages if "40 m" in ask.messages[-1].content else without
        return Answer("", True, 3, 0, logprobs=(told,), num_choice_tokens=(num_tokens,))

    return reply


def test_the_three_signs_make_one_value(score):
    """A gain of 1.5 nats a token, the one name and one of two numbers found, and cosines by hand."""
    given = row("r", "The mast of Vega is 40 m. It weighs 7 t.", "The mast of Vega is 40 m.", "Sails are linen.")
    driven = score(Entail(), [given], likely(-4.0, -10.0), SCENE)
    vectors = Vectors().embed(["The mast of Vega is 40 m.", "It weighs 7 t.", "Sails are linen."]).astype(float)
    cosine = (1.0 + max(float(vectors[1] @ vectors[0]), float(vectors[1] @ vectors[2]))) / 2
    scores = driven.rows["r"].scores
    assert (scores["entail.pmi"], scores["entail.agreement"]) == (1.5, pytest.approx(2 / 3, abs=1e-6))
    assert scores["entail.cosine"] == pytest.approx(cosine, abs=2e-6)
    total = -3.087 + 0.913 * 1.5 + 0.868 * cosine + 1.450 * 2 / 3
    assert scores["entail"] == pytest.approx(1 / (1 + math.exp(-total)), abs=2e-6)
    assert Entail().names == ("entail", "entail.pmi", "entail.cosine", "entail.agreement")
    assert (Entail().needs, Entail().needs_embedder, Entail(how="nli").needs_embedder) == ({Signal.LIKELIHOOD}, True, False)


def test_a_gain_without_bounds_is_bounded(score):
    given = row("r", "Yes.", "The mast is 40 m.")
    assert score(Entail(), [given], likely(-1.0, -90.0), SCENE).values("entail.pmi") == [4.0]
    assert score(Entail(), [given], likely(-90.0, -1.0), SCENE).values("entail.pmi") == [-1.0]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("Ana Ruiz met Tom Bell's aunt on 3 May.", ["3", "ruiz", "tom", "bell", "may"]),
        ("The sum is 12,000.50, or 1,5 at 22:40; I paid.", ["12000.50", "1,5", "22:40"]),
        ("One. Two Three.", ["three"]),
        ("船有40米", ["40"]),
        ("", []),
    ],
)
def test_names_and_numbers(text, facts):
    assert list(facts_of(text)) == facts


def test_agreement():
    assert agreement_of("It was Ruiz in 1,200.", ["ANA RUIZ", "1200"]) == 1.0
    assert agreement_of("It was Bell in 1200.", ["Ana Ruiz, 1200"]) == 0.5
    assert agreement_of("It was so.", []) == 1.0


def test_sentences():
    assert sentences_of('He said "no." Then 3.5 m.\nEnd! ') == ['He said "no.', "Then 3.5 m.", "End!"]
    assert sentences_of("好。不好？") == ["好。", "不好？"]
    assert sentences_of(" \n ") == []


def test_edges(score):
    assert score(Entail(), [replace(row("r", "Yes."), context=())]).reasons == {"r": "no passage to follow from"}
    assert score(Entail(), [row("r", " ", "It is.")]).reasons == {"r": "no answer to score"}
    long = row("r", "wort " * 20_000, "船高40米。")
    assert 0 < score(Entail(), [long], likely(-4.0, -4.0), SCENE).values("entail")[0] < 1
    for wrong in ({"over": "min"}, {"entailment": "yes"}):
        with pytest.raises(ValidationError, match="are for `how: nli`"):
            Entail(**wrong)


# --- the fit -------------------------------------------------------------------------------------------------------------------


def test_the_fit_is_scikit_learn_s():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    signs, good = rng.normal(size=(60, 3)), np.tile([1.0, 0.0], 30)
    signs[::2] += 0.7
    expected = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(signs, good)
    np.testing.assert_allclose(fit(signs, good), [*expected.intercept_, *expected.coef_[0]], atol=1e-5)
    of_pairs, of_answers = held_out(signs, good)
    assert of_pairs > 0.7
    assert of_answers > 0.6


def test_the_pairs_differ_from_those_it_is_judged_by():
    own = {(one.context[0]["text"], one.answer) for one in read()}
    assert len(own) == 2 * 48
    shipped = [json.loads(line) for line in _calibration.FILE.read_text(encoding="utf-8").splitlines()]
    assert not {text for text, _ in own} & {line.get("context") for line in shipped}


@pytest.mark.real
def test_the_real_models_give_the_shipped_weights_and_their_accuracy():
    folders = BUILT / "smollm2/weights", BUILT / "embedder/weights"
    if not all((folder / "model.safetensors").is_file() for folder in folders):
        pytest.skip("`dvc repro` builds the models")
    rows = read()
    signs, good = signs_of(rows, *folders), np.tile([1.0, 0.0], len(rows) // 2)
    shipped = [_entailment.INTERCEPT, *(getattr(_entailment.WEIGHTS, name) for name in ("pmi", "cosine", "agreement"))]
    np.testing.assert_allclose(fit(signs, good), shipped, atol=0.02)
    of_pairs, of_answers = held_out(signs, good)
    pairs = _calibration.pairs(Entail())
    judged = [one for pair in pairs for one in pair]
    values = [probability(Signs(*one)) for one in signs_of(judged, *folders)]
    scored = [replace(one, scores={"entail": value}) for one, value in zip(judged, values, strict=True)]
    accuracy = _calibration.accuracy(pairs, scored, "entail")
    print(f"left out of the fit: {of_pairs:.3f} of pairs, {of_answers:.3f} of answers; shipped: {accuracy:.3f} of {len(pairs)} pairs")
    assert of_pairs > 0.85
    assert accuracy >= 0.5
