import math

import pytest
import torch

from kdbuild.errors import StageError
from kdbuild.evaluators.teacher_agreement import TeacherAgreement


def test_a_divergence_worked_out_by_hand(toy):
    teacher, student = toy.constant("teacher", a=2 / 3, b=1 / 3), toy.constant(a=0.25, b=0.75)
    found = TeacherAgreement().measure(student, [toy.row("r", "a", "a b")], teacher)
    by_hand = 2 / 3 * math.log(2 / 3 / 0.25) + 1 / 3 * math.log(1 / 3 / 0.75)
    assert found.metrics["kl_to_teacher_nats_per_token"] == pytest.approx(by_hand, abs=1e-6)
    assert found.metrics["top1_agreement_frac"] == 0
    assert found.rows["r"] == found.metrics


def test_the_direction_is_teacher_to_student(toy):
    sharp, flat = toy.constant(a=0.99, b=0.01), toy.constant("teacher", a=0.5, b=0.5)
    forward = TeacherAgreement().measure(sharp, [toy.row("r", "a", "a b")], flat)
    assert forward.metrics["kl_to_teacher_nats_per_token"] == pytest.approx(-0.5 * math.log(4 * 0.99 * 0.01), abs=1e-5)


def test_a_teacher_agrees_with_itself(toy):
    teacher = toy.llama("teacher", seed=3)
    rows = [toy.row(f"r{n}", "a " * n, "b a", ended=True) for n in range(1, 6)]
    found = TeacherAgreement().measure(teacher, rows, teacher)
    assert found.metrics == {"kl_to_teacher_nats_per_token": 0.0, "top1_agreement_frac": 1.0}


def test_it_is_what_whole_logits_say(toy, monkeypatch):
    monkeypatch.setattr("kdbuild.evaluators._scoring.POSITIONS_PER_CHUNK", 3)
    teacher, student = toy.llama("teacher", seed=1, hidden_size=24), toy.llama(seed=2)
    rows = [toy.row(f"r{n}", "a b " * n, "b b a " * (4 - n), ended=True) for n in range(1, 4)]
    kl, agreed, count = 0.0, 0, 0
    for row in rows:
        ids, trained = student.encode(row, 64)
        with torch.no_grad():
            ours, theirs = (s.model(input_ids=torch.tensor([ids])).logits[0].double().softmax(1) for s in (student, teacher))
        for at in range(1, len(ids)):
            if trained[at]:
                p, q = theirs[at - 1], ours[at - 1]
                kl += float((p * (p.log() - q.log())).sum())
                agreed += int(p.argmax() == q.argmax())
                count += 1
    found = TeacherAgreement().measure(student, rows, teacher).metrics
    assert found["kl_to_teacher_nats_per_token"] == pytest.approx(kl / count, abs=1e-5)
    assert found["top1_agreement_frac"] == pytest.approx(agreed / count)


def test_a_wider_head_of_the_teacher_is_cut_to_the_shared_words(toy):
    teacher, student = toy.llama("teacher", seed=1), toy.llama(seed=2)
    plain = TeacherAgreement().measure(student, [toy.row("r", "a", "a b")], teacher)
    wide = toy.llama("teacher", seed=1)
    wide.model.resize_token_embeddings(9, mean_resizing=False)
    found = TeacherAgreement().measure(student, [toy.row("r", "a", "a b")], wide)
    assert found.metrics == pytest.approx(plain.metrics, abs=1e-6)


def test_another_tokenizer_is_refused(toy, tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["</s>", "<user>", "b", "a", "<assistant>", "<s>"])}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    other = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="</s>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=tokenizer.chat_template,
    )
    teacher = toy.subject("teacher", toy.llama().model, other)
    with pytest.raises(StageError, match="cuts row `r` into other tokens than that of `student`"):
        TeacherAgreement().measure(toy.llama(), [toy.row("r", "a", "a b")], teacher)


def test_no_teacher_is_an_error_that_says_what_to_do(toy):
    with pytest.raises(StageError, match="needs the teacher's logits") as raised:
        TeacherAgreement().measure(toy.llama(), [toy.row("r", "a", "a b")], None)
    assert "leave teacher-agreement out" in raised.value.hint
