"""Training on what a teacher said before: found by row and answer, checked, and equal to training on the teacher itself."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kdbuild import kinds
from kdbuild.errors import StageError
from kdbuild.records import Message
from kdbuild.teachers import Answer, Ask, Reading, _features, _network, _vocabulary
from kdbuild.teachers._feature_files import Offer, Source, feature, write_features
from kdbuild.training.batches import Example
from kdbuild.training.launch import train
from kdbuild.training.stored import StoredSignals
from kdbuild.training.task import Task
from kdbuild.training.tokens import encode

TOP = Reading("top-k", 16)
LARGE = 2**30


@pytest.fixture(scope="session")
def fake():
    return _network.build(4, 64, 0)


@pytest.fixture(scope="session")
def other():
    return _network.build(4, 64, 1)


def payload_of(teacher, row, reading, seed=0):
    model, tokenizer = teacher
    encoded = encode(tokenizer, row, LARGE)
    at = [i for i, trained in enumerate(encoded.trained) if trained and i]
    with torch.no_grad():
        out = model(torch.tensor([encoded.ids]), output_hidden_states=True)
    tokens = torch.tensor([encoded.ids[i] for i in at])
    before = torch.tensor(at) - 1
    if reading.form == "hidden":
        return _features.encode_hidden({n: out.hidden_states[n][0, before] for n in reading.layers}, None, tokens, reading.dtype)
    return _features.encode_distributions(out.logits[0, before], tokens, reading, seed)


@pytest.fixture
def store(tmp_path):
    """Return the function that stores what teachers (actor to network and tokenizer) say of rows."""
    made = []

    def write(rows, reading, teachers, fusion=None, payloads=payload_of):
        folder = tmp_path / f"features-{len(made)}"
        made.append(folder)
        folder.mkdir()
        features = [
            feature(Ask(row.id, row.messages, to=actor, reading=reading), f"{i:032x}{j:032x}", Answer("", True, 1, 0, payload=p), "{}")
            for i, row in enumerate(rows)
            for j, (actor, teacher) in enumerate(teachers.items())
            for p in [payloads(teacher, row, reading)]
        ]
        sources = {
            actor: Source(f"the-{actor}", {"model": actor, "revision": "1"}, _vocabulary.of_tokenizer(teacher[1]))
            for actor, teacher in teachers.items()
        }
        write_features(folder, features, [Offer(reading, tuple(teachers), fusion)], sources)
        return folder

    return write


def objective(**fields):
    return kinds.parse("objectives", {"kind": "forward-kl", "signal": "stored", **fields})


def examples_of(tokenizer, rows, max_tokens=LARGE):
    return [Example(row.id, encode(tokenizer, row, max_tokens)) for row in rows]


def signals_of(folders, tokenizer, rows, *, max_tokens=LARGE, matched=None, expected=None, num_logits=None):
    """Return the signals of all rows in one pass."""
    vocabulary = _vocabulary.of_tokenizer(tokenizer)
    examples = examples_of(tokenizer, rows, max_tokens)
    found = StoredSignals(
        folders, matched or objective(), vocabulary, examples, expected or {}, num_logits=num_logits or len(vocabulary.words)
    )
    return found.of(examples, "cpu")


def rows_of(new_task, count=None):
    return new_task().rows[:count]


# --- against the teacher itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_stored_top_k_trains_as_the_teacher_reduced_to_it(new_task, store, fake, temperature):
    online = new_task(objectives=[{"kind": "forward-kl", "top_k": 16, "temperature": temperature}], train={"learning_rate": 5e-4})
    stored = new_task(
        objectives=[{"kind": "forward-kl", "signal": "stored", "temperature": temperature}],
        train={"learning_rate": 5e-4},
        teachers={},
        features=(store(online.rows, TOP, {"teacher": fake}),),
    )
    first, second = train(online), train(stored)
    assert first.num_steps == second.num_steps > 4
    for one, two in zip(first.curve, second.curve, strict=True):
        assert two["loss_nats_per_token"] == pytest.approx(one["loss_nats_per_token"], abs=2e-4)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=5e-3)


def test_stored_whole_distributions_train_as_the_teacher(new_task, store, fake):
    online = new_task(objectives=[{"kind": "sft"}, {"kind": "forward-kl", "weight": 0.5}], train={"learning_rate": 5e-4})
    stored = new_task(
        objectives=[{"kind": "sft"}, {"kind": "forward-kl", "weight": 0.5, "signal": "stored"}],
        train={"learning_rate": 5e-4},
        teachers={},
        features=(store(online.rows, Reading("full"), {"teacher": fake}),),
    )
    for one, two in zip(train(online).curve, train(stored).curve, strict=True):
        assert two["loss_nats_per_token"] == pytest.approx(one["loss_nats_per_token"], abs=1e-3)
        assert two["sft_nats_per_token"] == pytest.approx(one["sft_nats_per_token"], abs=1e-4)


def test_drawn_tokens_estimate_the_cross_entropy(new_task, store, fake, start):
    online = new_task(objectives=[{"kind": "forward-kl"}], train={"num_epochs": 1, "learning_rate": 1e-9})
    features = (store(online.rows, Reading("sampled", 400), {"teacher": fake}),)
    stored = new_task(
        objectives=[{"kind": "forward-kl", "signal": "stored"}],
        train={"num_epochs": 1, "learning_rate": 1e-9},
        teachers={},
        features=features,
    )
    entropy = 0.0
    examples = examples_of(fake[1], online.rows)
    for example in examples:
        at = [i - 1 for i, trained in enumerate(example.encoded.trained) if trained]
        with torch.no_grad():
            logprobs = fake[0](torch.tensor([example.encoded.ids])).logits[0, at].log_softmax(1)
        entropy -= float((logprobs.exp() * logprobs).sum())
    kl, cross = train(online), train(stored)
    assert kl.num_steps == cross.num_steps
    count = sum(example.encoded.num_trained for example in examples)
    means = [np.mean([point["loss_nats_per_token"] for point in run.curve]) for run in (kl, cross)]
    assert means[1] - means[0] == pytest.approx(entropy / count, abs=0.02)


def test_several_ranks_and_passes_read_their_own_rows(new_task, store, fake):
    rows = rows_of(new_task)
    features = (store(rows, TOP, {"teacher": fake}),)
    fields = {"objectives": [{"kind": "forward-kl", "signal": "stored"}], "teachers": {}, "features": features}
    curves = [train(new_task(**fields, train={"learning_rate": 5e-4}, runtime=knobs)).curve for knobs in ({}, {"micro_batch_tokens": 40})]
    for one, two in zip(*curves, strict=True):
        assert one["loss_nats_per_token"] == pytest.approx(two["loss_nats_per_token"], abs=1e-5)


@pytest.mark.slow
def test_two_ranks_read_their_own_rows(new_task, store, fake):
    rows = rows_of(new_task)
    features = (store(rows, TOP, {"teacher": fake}),)
    fields = {"objectives": [{"kind": "forward-kl", "signal": "stored"}], "teachers": {}, "features": features}
    curves = [train(new_task(**fields, train={"learning_rate": 5e-4}, runtime=knobs)).curve for knobs in ({}, {"num_ranks": 2})]
    for one, two in zip(*curves, strict=True):
        assert one["loss_nats_per_token"] == pytest.approx(two["loss_nats_per_token"], abs=1e-5)


def test_a_task_that_is_written_keeps_its_features(new_task, tmp_path):
    task = new_task(features=(tmp_path / "a", tmp_path / "b"), expected={"t": {"model": "m"}})
    folder = tmp_path / "job"
    folder.mkdir()
    task.write(folder)
    again = Task.read(folder)
    assert again.features == task.features
    assert again.expected == task.expected


# --- found by row and by answer ------------------------------------------------------------------------------------------------


def test_the_prompt_may_be_another(new_task, store, fake):
    rows = rows_of(new_task)
    folder = store(rows, TOP, {"teacher": fake})
    erased = [replace(row, messages=(Message("user", "?"), *row.messages[1:])) for row in rows]
    one, two = signals_of([folder], fake[1], rows), signals_of([folder], fake[1], erased)
    assert torch.equal(one.named.logprobs_TK, two.named.logprobs_TK)
    assert len(one.named.tail_T) == sum(example.encoded.num_trained for example in examples_of(fake[1], rows))


def test_a_cut_row_takes_a_prefix(new_task, store, fake):
    rows = rows_of(new_task)
    folder = store(rows, TOP, {"teacher": fake})
    longest = max(len(example) for example in examples_of(fake[1], rows))
    whole = signals_of([folder], fake[1], rows)
    cut = signals_of([folder], fake[1], rows, max_tokens=longest - 10)
    numbers = [[example.encoded.num_trained for example in examples_of(fake[1], rows, most)] for most in (LARGE, longest - 10)]
    assert sum(numbers[1]) < sum(numbers[0])
    starts = np.cumsum([0, *numbers[0]])
    kept = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, numbers[1], strict=False)])
    assert torch.equal(cut.named.ids_TK, whole.named.ids_TK[kept])


def test_a_row_without_signals_is_named(new_task, store, fake):
    rows = rows_of(new_task)
    with pytest.raises(StageError, match="`r03` has no stored signals"):
        signals_of([store([*rows[:3], *rows[4:]], TOP, {"teacher": fake})], fake[1], rows)


def test_another_answer_is_named(new_task, store, fake):
    rows = list(rows_of(new_task))
    folder = store(rows, TOP, {"teacher": fake})
    for content in ("another answer", (rows[5].answer or "") + " more", (rows[5].answer or "")[:-1]):
        turn = replace(rows[5].messages[-1], content=content)
        changed = [*rows[:5], replace(rows[5], messages=(rows[5].messages[0], turn)), *rows[6:]]
        with pytest.raises(StageError, match=r"`r05`.*another answer"):
            signals_of([folder], fake[1], changed)


def test_an_answer_is_looked_for_in_every_data_set(new_task, store, fake):
    rows = rows_of(new_task)
    one, two = store(rows[:6], TOP, {"teacher": fake}), store(rows[6:], TOP, {"teacher": fake})
    whole = store(rows, TOP, {"teacher": fake})
    assert torch.equal(signals_of([one, two], fake[1], rows).named.ids_TK, signals_of([whole], fake[1], rows).named.ids_TK)


def test_signals_of_two_teachers_are_told_apart_by_name(new_task, store, fake, other):
    rows = rows_of(new_task, 4)
    folders = [store(rows, TOP, {"a": fake}), store(rows, TOP, {"b": other}, payloads=lambda t, r, g: payload_of(t, r, g))]
    changed = [folders[0], store(rows, TOP, {"c": other, "b": other}, fusion="average")]
    with pytest.raises(StageError, match="more than one teacher"):
        signals_of(changed, fake[1], rows)
    got = signals_of(folders, fake[1], rows, matched=objective(teacher="the-b"))
    assert torch.equal(got.named.ids_TK, signals_of(folders[1:], fake[1], rows).named.ids_TK)


# --- what does not fit ---------------------------------------------------------------------------------------------------------


def test_another_teacher_k_or_form_is_refused(new_task, store, fake):
    rows = rows_of(new_task, 3)
    folder = store(rows, TOP, {"teacher": fake})
    for wrong, words in (
        ({"teacher": "gpt"}, "`the-teacher`.*`gpt`"),
        ({"top_k": 64}, "top_k: 64.*k = 16"),
    ):
        with pytest.raises(StageError, match=words):
            signals_of([folder], fake[1], rows, matched=objective(**wrong))
    with pytest.raises(StageError, match="hidden states"):
        signals_of([store(rows, Reading("hidden", layers=(-1,)), {"teacher": fake})], fake[1], rows)
    with pytest.raises(StageError, match="temperature"):
        signals_of([store(rows, Reading("sampled", 4), {"teacher": fake})], fake[1], rows, matched=objective(temperature=2.0))
    with pytest.raises(StageError, match="no stored signals"):
        signals_of([], fake[1], rows)


def test_another_revision_is_refused(new_task, store, fake):
    rows = rows_of(new_task, 3)
    folder = store(rows, TOP, {"teacher": fake})
    same = {"the-teacher": {"model": "teacher", "revision": "1"}, "unused": {"model": "x"}}
    assert signals_of([folder], fake[1], rows, expected=same).named is not None
    with pytest.raises(StageError, match="revision changed"):
        signals_of([folder], fake[1], rows, expected={"the-teacher": {"model": "teacher", "revision": "2"}})


def test_two_readings_at_once_are_refused(new_task, store, fake):
    rows = rows_of(new_task, 3)
    folders = [store(rows, TOP, {"teacher": fake}), store(rows, Reading("top-k", 4), {"teacher": fake})]
    with pytest.raises(StageError, match="2 readings"):
        signals_of(folders, fake[1], rows)
    assert signals_of(folders, fake[1], rows, matched=objective(top_k=4)).named.ids_TK.shape[1] == 4


@pytest.mark.parametrize("reading", [TOP, Reading("full")], ids=str)
def test_a_student_with_fewer_logits_is_refused(new_task, store, fake, reading):
    rows = rows_of(new_task, 3)
    folder = store(rows, reading, {"teacher": fake})
    with pytest.raises(StageError, match="logits"):
        read_all([folder], fake[1], rows)


def read_all(folders, tokenizer, rows):
    got = signals_of(folders, tokenizer, rows, num_logits=40)
    return got.named or got.full_CV(slice(0, 4))


# --- hidden states -------------------------------------------------------------------------------------------------------------


class Anything:
    kind, teacher = "anything", None

    def refuses(self, reading):
        return None


def test_hidden_states_come_in_the_order_of_the_pass(new_task, store, fake):
    rows = rows_of(new_task, 4)
    reading = Reading("hidden", layers=(0, -1), dtype="float32")
    folder = store(rows, reading, {"teacher": fake})
    examples = examples_of(fake[1], rows)
    found = StoredSignals([folder], Anything(), _vocabulary.of_tokenizer(fake[1]), examples, {}, 300)
    got = found.of(examples[::-1], "cpu")
    expected = [torch.from_numpy(_features.decode(payload_of(fake, row, reading)).states[-1]) for row in rows[::-1]]
    assert torch.allclose(got.states[-1], torch.cat(expected), atol=1e-6)
    assert got.states.keys() == {0, -1}
    assert found.of([], "cpu").states == {}


@pytest.mark.parametrize("reading", [TOP, Reading("sampled", 3), Reading("full")], ids=str)
def test_a_pass_without_rows_has_no_signals(new_task, store, fake, reading):
    rows = rows_of(new_task, 2)
    vocabulary = _vocabulary.of_tokenizer(fake[1])
    found = StoredSignals([store(rows, reading, {"teacher": fake})], objective(), vocabulary, examples_of(fake[1], rows), {}, 300)
    got = found.of([], "cpu")
    assert got.full_CV is not None if reading.form == "full" else len(got.named.tail_T) == 0


# --- several teachers ----------------------------------------------------------------------------------------------------------


def dense(named, words):
    """Return the probability of each word where it is named (TV)."""
    got = torch.zeros(len(named.tail_T), words)
    return got.scatter_add_(1, named.ids_TK, named.logprobs_TK.exp())


def test_the_likelier_teacher_is_taken_for_each_row(new_task, store, fake, other):
    rows = rows_of(new_task)
    teachers = {"a": fake, "b": other}
    got = signals_of([store(rows, TOP, teachers, fusion="min-cross-entropy")], fake[1], rows)
    alone = [signals_of([store(rows, TOP, {actor: teacher})], fake[1], rows) for actor, teacher in teachers.items()]
    start, taken = 0, set()
    for row in rows:
        nats = [_features.decode(payload_of(teacher, row, TOP)).answer_nats for teacher in teachers.values()]
        best = nats.index(min(nats))
        taken.add(best)
        end = start + examples_of(fake[1], [row])[0].encoded.num_trained
        assert torch.equal(got.named.ids_TK[start:end], alone[best].named.ids_TK[start:end])
        start = end
    assert taken == {0, 1}


@pytest.mark.parametrize("form", ["top-k", "full", "sampled"])
def test_an_average_weighs_each_teacher(new_task, store, fake, other, form):
    rows = rows_of(new_task, 3)
    words = len(fake[1].get_vocab())
    reading = Reading(form, 0 if form == "full" else words if form == "top-k" else 5)
    teachers = {"a": fake, "b": other}
    got = signals_of([store(rows, reading, teachers, fusion="average")], fake[1], rows)
    start = 0
    for row in rows:
        length = examples_of(fake[1], [row])[0].encoded.num_trained
        said = [_features.decode(payload_of(teacher, row, reading)) for teacher in teachers.values()]
        scores = [math.exp(-one.answer_nats / length) for one in said]
        expected = torch.zeros(length, words)
        for one, score in zip(said, scores, strict=True):
            mass = torch.from_numpy(np.exp(one.logprobs_TK.astype(np.float32))) * score / sum(scores)
            ids = torch.arange(words).expand(length, -1) if one.ids_TK is None else torch.from_numpy(one.ids_TK.astype(np.int64))
            expected.scatter_add_(1, ids, mass)
        rows_of_pass = slice(start, start + length)
        if form == "full":
            assert torch.allclose(got.full_CV(rows_of_pass).exp(), expected, atol=1e-5)
        else:
            assert torch.allclose(dense(got.named, words)[rows_of_pass], expected, atol=1e-5)
        start += length


# --- another tokenizer ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bpe():
    """A tokenizer of merged bytes, with the chat template of the fake teacher's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["</turn>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cat sat on a mat and ate some rice with beans"] * 3, trainer)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</turn>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</turn>", chat_template=template)


@pytest.fixture(scope="session")
def foreign(bpe):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(bpe), initializer_range=0.3, pad_token_id=0, **sizes)).eval(), bpe


@pytest.mark.parametrize("form", ["top-k", "full"])
def test_a_foreign_teacher_speaks_in_the_students_tokens(new_task, store, fake, foreign, form):
    rows = rows_of(new_task, 5)
    student, theirs = _vocabulary.of_tokenizer(fake[1]), _vocabulary.of_tokenizer(foreign[1])
    words = len(student.words)
    reading = Reading(form, 0 if form == "full" else len(theirs.words))
    got = signals_of([store(rows, reading, {"teacher": foreign})], fake[1], rows)
    given = got.full_CV(slice(0, 10_000)).exp() if form == "full" else dense(got.named, words)
    start, num_aligned, num_fallen_back = 0, 0, 0
    for row in rows:
        encoded = examples_of(fake[1], [row])[0].encoded
        ids = [token for token, trained in zip(encoded.ids, encoded.trained, strict=True) if trained]
        said = _features.decode(payload_of(foreign, row, reading))
        begins = {}
        for i, token in enumerate(said.token_ids_T.tolist()):
            begins[sum(len(theirs.text(t)) for t in said.token_ids_T[:i].tolist()), theirs.text(token) == b""] = i
        for n, token in enumerate(ids):
            offset = sum(len(student.text(t)) for t in ids[:n])
            row_V = given[start + n]
            i = begins.get((offset, student.text(token) == b""))
            if i is None:
                assert row_V[token] == pytest.approx(1.0, abs=1e-5)
                num_fallen_back += 1
                continue
            num_aligned += 1
            p = np.exp(said.logprobs_TK[i].astype(float))
            named = dict(zip(range(len(p)) if said.ids_TK is None else said.ids_TK[i].tolist(), p, strict=True))
            letter = theirs.words.index(b"t")
            ours = student.words.index(b"t")
            # Every word that says more than the letter goes elsewhere or nowhere, so at least the letter's own mass is there.
            assert row_V[ours] >= named[letter] - 1e-3
            end = next(iter(theirs.controls))
            if student.text(token) == b"":
                assert row_V[token] >= named[end] - 1e-3
        start += len(ids)
    assert num_aligned > 20
    assert num_fallen_back > 20


def test_a_foreign_teacher_of_another_answer_is_named(new_task, store, fake, foreign):
    rows = list(rows_of(new_task, 3))
    folder = store(rows, TOP, {"teacher": foreign})
    rows[1] = replace(rows[1], messages=(rows[1].messages[0], replace(rows[1].messages[1], content="quite another")))
    with pytest.raises(StageError, match=r"`r01`.*another answer"):
        signals_of([folder], fake[1], rows)


def test_a_foreign_teacher_trains_a_student(new_task, store, fake, foreign):
    task = new_task(objectives=[{"kind": "forward-kl", "signal": "stored"}], teachers={})
    folder = store(task.rows, TOP, {"a": fake, "b": foreign}, fusion="average")
    trained = train(replace(task, features=(folder,)))
    assert trained.curve[-1]["loss_nats_per_token"] < trained.curve[0]["loss_nats_per_token"]


def test_hidden_states_of_another_tokenizer_are_refused(new_task, store, fake, foreign):
    rows = rows_of(new_task, 2)
    folder = store(rows, Reading("hidden", layers=(-1,)), {"teacher": foreign})
    with pytest.raises(StageError, match="another tokenizer"):
        StoredSignals([folder], Anything(), _vocabulary.of_tokenizer(fake[1]), examples_of(fake[1], rows), {}, 300)
