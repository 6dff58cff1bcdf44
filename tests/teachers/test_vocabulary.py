"""What tokens say, as bytes."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kdbuild.errors import ArtifactError
from kdbuild.teachers import _network
from kdbuild.teachers._vocabulary import Vocabulary, of_tokenizer

TEXT = "Naïve café: 100 % of “it”\n\tis here, and there. 日本語"


def byte_level(*texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def pieces():
    vocabulary = {"<unk>": 0, "</s>": 1, **{f"<0x{byte:02X}>": 2 + byte for byte in range(256)}, "▁": 258, "▁it": 259, "ï": 260}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "i")][:0], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("tokenizer", [byte_level(TEXT * 3), _network.build(1, 8, 0)[1]], ids=["byte-level", "fake"])
def test_the_bytes_of_a_texts_tokens_are_the_text(tokenizer):
    vocabulary = of_tokenizer(tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(vocabulary.text(token) for token in ids) == TEXT.encode()


def test_pieces_write_spaces_and_bytes_their_own_way():
    vocabulary = of_tokenizer(pieces())
    assert vocabulary.words[259] == b" it"
    assert vocabulary.words[2 + 0xE6] == b"\xe6"
    assert vocabulary.words[260] == "ï".encode()


def test_controls_are_no_text():
    tokenizer = byte_level(TEXT)
    vocabulary = of_tokenizer(tokenizer)
    assert tokenizer.eos_token_id in vocabulary.controls
    assert vocabulary.text(tokenizer.eos_token_id) == b""
    assert vocabulary.words[tokenizer.eos_token_id] == b"<|end|>"
    assert vocabulary.text(len(vocabulary.words)) == vocabulary.text(-1) == b""


def test_digests_are_those_of_ids_and_texts(tmp_path):
    one, same, other = of_tokenizer(byte_level(TEXT)), of_tokenizer(byte_level(TEXT)), of_tokenizer(byte_level("something else " * 9))
    assert one.digest == same.digest != other.digest
    one.write(tmp_path / "v.json")
    assert Vocabulary.read(tmp_path / "v.json") == one


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"words": [1], "controls": []}', '{"words": ["日"], "controls": []}'])
def test_torn_files_are_refused(tmp_path, text):
    (tmp_path / "v.json").write_text(text)
    with pytest.raises(ArtifactError, match="vocabulary"):
        Vocabulary.read(tmp_path / "v.json")
