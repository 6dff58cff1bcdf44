import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM

from kdbuild import kinds
from kdbuild.errors import SourceError, StageError
from kdbuild.students.causal_lm import CausalLm, _keep_layers, spaced
from kdbuild.teachers import _network
from kdbuild.training.models import save_causal_lm

FAKE = kinds.parse("teachers", {"kind": "fake"})
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
IDS = torch.arange(3, 11).unsqueeze(0)


def build(tmp_path, weights=None, teacher=FAKE, **settings):
    student = kinds.parse("students", {"kind": "causal-lm", **settings})
    return student.build(root=tmp_path, weights=weights, teacher=teacher, teacher_weights=None)


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("total", "kept", "numbers"),
    [(30, 10, [0, 3, 6, 10, 13, 16, 19, 23, 26, 29]), (4, 4, [0, 1, 2, 3]), (4, 2, [0, 3]), (4, 1, [0]), (5, 3, [0, 2, 4])],
)
def test_layers_are_evenly_spaced(total, kept, numbers):
    assert spaced(total, kept) == numbers


def test_layers_come_from_the_teacher_with_everything_around_them(tmp_path):
    teacher, _ = _network.build(4, 64, 0)
    student, tokenizer = build(tmp_path, init={"from": "teacher", "layers": 2})
    assert student.config.num_hidden_layers == len(student.model.layers) == 2
    assert tokenizer.chat_template
    for new, old in enumerate((0, 3)):
        assert same(student.model.layers[new], teacher.model.layers[old])
    for part in ("model.embed_tokens", "model.norm", "lm_head"):
        assert same(student.get_submodule(part), teacher.get_submodule(part))


def test_all_layers_are_the_teacher(tmp_path):
    student, _ = build(tmp_path, init={"from": "teacher", "layers": 4})
    assert same(student, _network.build(4, 64, 0)[0])


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"] * 3, "sliding_window": 4, "use_sliding_window": True}),
        ("gemma3_text", {"sliding_window": 4}),
        ("smollm3", {"no_rope_layers": [1, 1, 0, 1, 1, 0]}),
        ("mistral", {}),
    ],
)
@torch.no_grad()
def test_a_cut_model_runs_saves_loads_and_generates_as_itself(tmp_path, model_type, settings):
    special = {"vocab_size": 31, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **special, "num_hidden_layers": 6, **settings}))
    student = _keep_layers(whole.eval(), 3)
    for name in ("layer_types", "no_rope_layers"):
        if name in settings:
            assert getattr(student.config, name) == [settings[name][number] for number in spaced(6, 3)]
    expected = student(IDS).logits
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(IDS).logits, expected)
    with_cache = loaded.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    without = loaded.generate(IDS, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(with_cache, without)


def test_more_layers_than_the_teacher_has_are_refused(tmp_path):
    with pytest.raises(StageError, match="asks for 5 layers of a teacher that has 4"):
        build(tmp_path, init={"from": "teacher", "layers": 5})


def test_an_unknown_layout_is_refused():
    gpt2 = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=16, n_head=2, n_layer=3, vocab_size=31))
    with pytest.raises(StageError, match="keeps no list `layers`"):
        _keep_layers(gpt2, 2)


def test_a_config_and_its_seed_are_the_student(tmp_path):
    config = {"model_type": "llama", **SIZES}
    first, tokenizer = build(tmp_path, config=config)
    again, _ = build(tmp_path, config=config)
    other, _ = build(tmp_path, config=config, seed=1)
    assert same(first, again)
    assert not same(first, other)
    assert first.config.vocab_size == len(tokenizer)
    assert first.config.hidden_size == 16
    assert first.config.eos_token_id == tokenizer.eos_token_id


def test_building_leaves_torchs_generator_as_it_was(tmp_path):
    before = torch.random.get_rng_state()
    build(tmp_path, config={"model_type": "llama", **SIZES})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_by_source_is_that_model(tmp_path):
    model, tokenizer = _network.build(2, 16, 5)
    save_causal_lm(model, tokenizer, tmp_path / "there")
    student, _ = build(tmp_path, weights=tmp_path / "there", teacher=None, model="path:there")
    assert same(student, model)


def test_a_config_can_bring_a_tokenizer_of_its_own(tmp_path):
    model, tokenizer = _network.build(1, 8, 0)
    save_causal_lm(model, tokenizer, tmp_path / "there")
    settings = {"config": {"model_type": "llama", **SIZES}, "tokenizer": "path:there"}
    student, found = build(tmp_path, weights=tmp_path / "there", teacher=None, **settings)
    assert found.get_vocab() == tokenizer.get_vocab()
    assert student.config.vocab_size == len(tokenizer)


@pytest.mark.parametrize(
    ("settings", "sources", "from_teacher"),
    [
        ({"init": {"from": "teacher", "layers": 2}}, (), True),
        ({"model": "path:a"}, ("path:a",), False),
        ({"config": {"model_type": "llama"}}, (), True),
        ({"config": {"model_type": "llama"}, "tokenizer": "path:a"}, ("path:a",), False),
    ],
)
def test_what_it_starts_from(settings, sources, from_teacher):
    student = kinds.parse("students", {"kind": "causal-lm", **settings})
    assert (student.sources(), student.starts_from_teacher()) == (sources, from_teacher)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "this one has none"),
        ({"model": "path:a", "init": {"from": "teacher", "layers": 2}}, "this one has `init` and `model`"),
        ({"model": "path:a", "tokenizer": "path:b"}, "goes with `config`"),
        ({"config": {"hidden_size": 16}}, "needs a `model_type`"),
    ],
)
def test_exactly_one_start(settings, message):
    with pytest.raises(ValidationError, match=message):
        CausalLm.model_validate({"kind": "causal-lm", **settings})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "no-such-type"}, "does not make a causal language model"),
        ({"model_type": "t5"}, "does not make a causal language model"),
        ({"model_type": "llama", **SIZES, "hidden_size": 15}, "does not make a causal language model"),
        ({"model_type": "llama", **SIZES, "hiden_size": 16}, "did you mean `hidden_size`"),
        ({"model_type": "llama", **SIZES, "vocab_size": 7}, "vocabulary of 7"),
    ],
)
def test_a_config_that_is_no_student_is_one_sentence(tmp_path, config, message):
    with pytest.raises(SourceError, match=message):
        build(tmp_path, config=config)
