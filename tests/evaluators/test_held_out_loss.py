import math

import pytest
import torch

from kdbuild.errors import StageError
from kdbuild.evaluators.held_out_loss import HeldOutLoss
from kdbuild.records import Message, Row


def test_a_loss_worked_out_by_hand(toy):
    subject = toy.constant(a=2 / 3, b=1 / 3)
    rows = [toy.row("one", "b", "a a a"), toy.row("two", "a", "b")]
    found = HeldOutLoss().measure(subject, rows, None)
    # Three times -ln 2/3 and once -ln 1/3, over four tokens: not the mean of the two rows.
    assert found.metrics["held_out_loss_nats_per_token"] == pytest.approx((3 * math.log(3 / 2) + math.log(3)) / 4, abs=1e-6)
    assert found.rows["one"]["nll_nats_per_token"] == pytest.approx(math.log(3 / 2), abs=1e-6)
    assert found.rows["two"] == {"nll_nats_per_token": pytest.approx(math.log(3), abs=1e-6), "num_trained_tokens": 1}


def test_the_end_of_an_answer_counts_only_where_the_answer_ended(toy):
    subject = toy.constant(a=0.5, end=0.25, b=0.25)
    cut, ended = toy.row("cut", "b", "a"), toy.row("ended", "b", "a", ended=True)
    found = HeldOutLoss().measure(subject, [cut, ended], None)
    assert found.rows["cut"]["nll_nats_per_token"] == pytest.approx(math.log(2), abs=1e-6)
    assert found.rows["ended"]["nll_nats_per_token"] == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)


def test_it_is_what_transformers_own_loss_says(toy):
    subject = toy.llama()
    row = toy.row("r", "a b b", "b a a b", ended=True)
    ids, trained = subject.encode(row, 64)
    labels = [token if learned else -100 for token, learned in zip(ids, trained, strict=True)]
    with torch.no_grad():
        reference = subject.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    found = HeldOutLoss().measure(subject, [row], None)
    assert found.metrics["held_out_loss_nats_per_token"] == pytest.approx(float(reference), abs=1e-5)


def test_padding_and_batches_do_not_matter(toy, monkeypatch):
    rows = [toy.row(f"r{n}", "a b " * (1 + n % 4), "b a " * (1 + n % 3)) for n in range(9)]
    whole = HeldOutLoss().measure(toy.llama(), rows, None)
    single = HeldOutLoss().measure(toy.llama(batch_tokens=1), rows[::-1], None)
    monkeypatch.setattr("kdbuild.evaluators._scoring.POSITIONS_PER_CHUNK", 2)
    chunked = HeldOutLoss().measure(toy.llama(batch_tokens=30), rows, None)
    for other in (single, chunked):
        assert other.metrics == pytest.approx(whole.metrics, abs=1e-5)
        for row in rows:
            assert other.rows[row.id] == pytest.approx(whole.rows[row.id], abs=1e-5)


def test_a_row_cut_before_its_answer_is_left_out(toy):
    subject = toy.constant(a=0.5, b=0.5)
    long, short = toy.row("long", "a " * 20, "b"), toy.row("short", "a", "b")
    found = HeldOutLoss(max_tokens=8).measure(subject, [long, short], None)
    assert set(found.rows) == {"short"}
    with pytest.raises(StageError, match="none of the 1 held-out rows has an answer within 8 tokens"):
        HeldOutLoss(max_tokens=8).measure(subject, [long], None)


def test_rows_without_an_answer_are_an_error_if_there_are_no_others(toy):
    with pytest.raises(StageError, match="none of the 1 held-out rows"):
        HeldOutLoss().measure(toy.constant(a=1.0), [Row("r", (Message("user", "a"),))], None)


def test_a_row_longer_than_the_context_is_refused(toy):
    with pytest.raises(StageError, match="reads at most 128 tokens; held-out row `r` has 153") as raised:
        HeldOutLoss().measure(toy.llama(), [toy.row("r", "a", "b " * 150)], None)
    assert "max_tokens" in raised.value.hint
