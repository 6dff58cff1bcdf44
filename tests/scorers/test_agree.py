"""How much candidates agree."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer

from kdbuild.records import Message, Row
from kdbuild.scorers.agree import Agree


def row(texts: list[str], answer: str | None = None, prompt: str = "Q?", **fields) -> Row:
    turns = (Message("user", prompt), *((Message("assistant", answer, train=True),) if answer is not None else ()))
    return Row("r", turns, candidates=tuple({"text": text, "source": "teacher"} for text in texts), **fields)


def scored(score, scorer: Agree, given: Row) -> Row:
    (found,) = score(scorer, [given]).rows.values()
    return found


def test_the_majority_and_its_share(score):
    given = row(["2 + 2 = 4.\nAnswer: 4", "Answer: 4.0", "Answer: 5", "I do not know"])
    found = scored(score, Agree(answers="number"), given)
    # Two of four say 4, one 5; what says nothing is no vote but counts among the four.
    assert [one["score"] for one in found.candidates] == [0.5, 0.5, 0.25, 0.0]
    assert [one["scores"] for one in found.candidates] == [{"agree": 0.5}, {"agree": 0.5}, {"agree": 0.25}, {"agree": 0.0}]
    assert found.scores == {"agree": 0.5}
    assert [one["text"] for one in found.candidates] == [one["text"] for one in given.candidates]


def test_choices_by_letter_or_by_text(score):
    given = row(["Answer: B", "Answer: nine metres", "(A)"], prompt="How tall?\nA) five metres\nB) nine metres")
    assert scored(score, Agree(answers="choice"), given).scores == {"agree": 0.666667}


def test_a_row_with_an_answer_is_asked_how_many_say_the_same(score):
    found = scored(score, Agree(answers="number"), row(["Answer: 5", "Answer: 5", "Answer: 4"], "Answer: 4"))
    assert found.scores == {"agree": 0.333333}
    assert all("score" not in one for one in found.candidates)


TEXTS = ["the oak is a tall tree", "the oak is tall", "a fir is a tree", "no idea"]


def test_texts_by_rouge_l(score):
    rouge = RougeScorer(["rougeL"])
    expected = [sum(rouge.score(other, one)["rougeL"].fmeasure for other in TEXTS if other != one) / 3 for one in TEXTS]
    found = scored(score, Agree(of="texts"), row(TEXTS))
    assert [one["score"] for one in found.candidates] == pytest.approx(expected, abs=1e-6)
    assert found.scores["agree"] == pytest.approx(max(expected), abs=1e-6)
    # An answer that was taken from the candidates is not compared with itself.
    assert scored(score, Agree(of="texts"), row(TEXTS, TEXTS[1])).scores["agree"] == pytest.approx(expected[1], abs=1e-6)
    assert scored(score, Agree(of="texts"), row(["x"])).scores == {"agree": 0.0}


def test_a_judge_s_two_orders(score):
    scorer = Agree(of="orders")
    assert scored(score, scorer, row(["a", "b"], scores={"order_consistency": 0.75})).scores["agree"] == 0.75
    assert score(scorer, [row(["a", "b"])]).reasons == {"r": "no judge's two orders to compare"}
    assert scorer.reads_scores == ("order_consistency",)


def test_no_candidates(score):
    assert score(Agree(), [row([], "text")]).reasons == {"r": "no candidates to compare"}
