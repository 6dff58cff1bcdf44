import pytest
from rouge_score.rouge_scorer import RougeScorer

from kdbuild.errors import StageError
from kdbuild.evaluators._writing import question, write
from kdbuild.evaluators.rouge import Rouge, _Words
from kdbuild.records import Message, Row


def test_a_score_worked_out_by_hand(toy):
    # The model always writes `a`, three times: "a a a" against "b a a b" has a longest common subsequence of 2.
    subject = toy.constant(a=0.9, b=0.1)
    found = Rouge(max_new_tokens=3).measure(subject, [toy.row("r", "b", "b a a b")], None)
    precision, recall = 2 / 3, 2 / 4
    assert found.texts == {"r": "a a a"}
    assert found.metrics["rouge_l_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found.rows == {"r": found.metrics}


def test_it_stops_at_the_end_of_turn_and_an_empty_answer_scores_nothing(toy):
    found = Rouge().measure(toy.constant(end=0.9, a=0.1), [toy.row("r", "b", "a")], None)
    assert found.texts == {"r": ""}
    assert found.metrics == {"rouge_l_f1": 0.0}


def test_batches_and_left_padding_do_not_change_what_is_written(toy):
    rows = [toy.row(f"r{n}", "a b " * (1 + n), "b a") for n in range(6)]
    together = Rouge(max_new_tokens=8).measure(toy.llama(seed=5), rows, None)
    alone = Rouge(max_new_tokens=8).measure(toy.llama(seed=5, batch_tokens=1), rows[::-1], None)
    assert together.texts == alone.texts
    assert len(set(together.texts.values())) > 1


def test_only_the_last_trained_turn_is_written():
    turns = (Message("user", "a"), Message("assistant", "b", train=True), Message("user", "a"), Message("assistant", "a", train=True))
    assert question(Row("r", turns)) == turns[:3]
    assert question(Row("r", turns[:1])) == turns[:1]


def test_a_prompt_that_leaves_no_room_is_an_error_that_names_the_row(toy):
    rows = [toy.row("short", "a", "b"), toy.row("long", "a " * 100, "b")]
    with pytest.raises(StageError, match="`student` cannot answer held-out row `long`: 102 prompt tokens and 64 new ones"):
        Rouge().measure(toy.llama(), rows, None)
    assert set(write(toy.llama(), rows, 64, skip_failures=True)) == {"short"}


@pytest.mark.parametrize(
    ("text", "other"),
    [("The cat, sat ON the mat.", "a cat on: the-mat 42"), ("x_y z", "z x y"), ("don't", "dont"), ("", "a")],
)
def test_words_are_those_of_rouge_score_on_plain_english(text, other):
    ours, theirs = RougeScorer(["rougeL"], tokenizer=_Words()), RougeScorer(["rougeL"])
    assert ours.score(text, other) == theirs.score(text, other)


def test_words_of_other_scripts_count():
    assert _Words().tokenize("Grüße, мир 42") == ["grüße", "мир", "42"]
    assert _Words().tokenize("你好 world") == ["你", "好", "world"]


def test_rows_without_an_answer_are_an_error(toy):
    with pytest.raises(StageError, match="none of the 1 held-out rows has a teacher's answer"):
        Rouge().measure(toy.constant(a=1.0), [Row("r", (Message("user", "a"),))], None)
