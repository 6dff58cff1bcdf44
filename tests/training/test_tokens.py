import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdbuild.errors import RowError, StageError
from kdbuild.records import Message, Row
from kdbuild.training.tokens import encode

WORDS = ["<s>", "</s>", "[U]", "[A]", "hello", "there", "fine", "thanks", "yes", "now"]
APPENDING = (
    "{% for m in messages %}{{ ('[U] ' if m.role == 'user' else '[A] ') + m.content + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}[A] {% endif %}"
)


def words(template):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["[U]", "[A]"],
        chat_template=template,
    )


def shown(tokenizer, row, max_tokens=100):
    """Every token as text, trained ones in capitals."""
    encoded = encode(tokenizer, row, max_tokens)
    assert len(encoded.ids) == len(encoded.trained)
    return " ".join((WORDS[i].upper() if trained else WORDS[i].lower()) for i, trained in zip(encoded.ids, encoded.trained, strict=True))


def turns(*given):
    return Row("r", tuple(Message(*turn) for turn in given))


def test_answer_and_its_end_are_trained_and_nothing_after():
    row = turns(("user", "hello there"), ("assistant", "fine thanks", True))
    assert shown(words(APPENDING), row) == "[u] hello there </s> [a] FINE THANKS </S>"


def test_an_answer_that_was_cut_has_no_trained_end():
    row = turns(("user", "hello"), ("assistant", "fine", True, False))
    assert shown(words(APPENDING), row) == "[u] hello </s> [a] FINE"


def test_every_trained_turn_is_trained_and_the_turns_between_are_not():
    row = turns(("user", "hello"), ("assistant", "fine", True), ("user", "there"), ("assistant", "yes", True, False), ("user", "now"))
    assert shown(words(APPENDING), row) == "[u] hello </s> [a] FINE </S> [u] there </s> [a] YES"


def test_an_answer_that_was_cut_keeps_its_end_as_context_of_the_next_turn():
    row = turns(("user", "hello"), ("assistant", "fine", True, False), ("user", "there"), ("assistant", "yes", True))
    assert shown(words(APPENDING), row) == "[u] hello </s> [a] FINE </s> [u] there </s> [a] YES </S>"


def test_max_tokens_cuts_the_end():
    row = turns(("user", "hello there"), ("assistant", "fine thanks", True))
    tokenizer = words(APPENDING)
    assert shown(tokenizer, row, 6) == "[u] hello there </s> [a] FINE"
    assert encode(tokenizer, row, 5).num_trained == 0
    assert encode(tokenizer, row, 6).num_trained == 1


def test_a_row_without_a_trained_turn_has_no_tokens():
    assert encode(words(APPENDING), turns(("user", "hello")), 100).ids == []


def test_a_template_without_end_of_turn_gets_the_end_token():
    template = "{% for m in messages %}{{ m.content + ' ' }}{% endfor %}"
    assert shown(words(template), turns(("user", "hello"), ("assistant", "fine", True))) == "hello FINE </S>"


def test_text_the_template_puts_before_the_answer_is_not_trained():
    template = APPENDING.replace("'[A] ') + m.content", "'[A] now ') + m.content")
    row = turns(("user", "hello"), ("assistant", "fine", True))
    assert shown(words(template), row) == "[u] hello </s> [a] now FINE </S>"


def test_an_answer_the_template_strips_is_still_found():
    template = APPENDING.replace("m.content", "(m.content | trim)")
    row = turns(("user", "hello"), ("assistant", " fine thanks\n", True))
    assert shown(words(template), row) == "[u] hello </s> [a] FINE THANKS </S>"


def test_a_special_token_spelt_out_in_an_answer_is_text(tokenizer):
    row = turns(("user", "hello"), ("assistant", f"a {tokenizer.eos_token} b", True))
    encoded = encode(tokenizer, row, 1000)
    trained = [i for i, learned in zip(encoded.ids, encoded.trained, strict=True) if learned]
    assert trained.count(tokenizer.eos_token_id) == 1
    assert trained[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(trained[:-1]) == f"a {tokenizer.eos_token} b"


@pytest.mark.parametrize("answer", ["plain", " spaced", "\nlines\n", "ünïcode ✓"])
def test_the_prompt_never_merges_with_the_answer(tokenizer, answer):
    row = turns(("user", "hello"), ("assistant", answer, True))
    encoded = encode(tokenizer, row, 1000)
    first = encoded.trained.index(True)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=True, add_generation_prompt=True)
    assert encoded.ids[:first] == list(prompt["input_ids"])
    assert tokenizer.decode(encoded.ids[first:-1]) == answer


def test_a_template_that_rewrites_earlier_turns_is_refused_by_name():
    template = (
        "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ m.content + ' ' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[A] {% endif %}"
    )
    row = turns(("user", "hello"), ("assistant", "fine", True), ("user", "there"), ("assistant", "yes", True))
    with pytest.raises(RowError, match="row `r`"):
        encode(words(template), row, 100)


def test_a_template_that_refuses_the_turns_is_a_row_error():
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RowError, match=r"`r`.*roles must alternate"):
        encode(words(template), turns(("user", "hello"), ("assistant", "fine", True)), 100)


def test_a_template_that_changes_the_answer_is_refused():
    template = APPENDING.replace("m.content", "(m.content | upper)")
    with pytest.raises(RowError, match="as it is"):
        encode(words(template), turns(("user", "hello"), ("assistant", "fine", True)), 100)


def test_only_assistant_turns_can_be_trained():
    with pytest.raises(RowError, match="role `user`"):
        encode(words(APPENDING), turns(("user", "hello", True)), 100)


def test_a_tokenizer_without_template_is_refused():
    with pytest.raises(StageError, match="no chat template"):
        encode(words(None), turns(("user", "hello"), ("assistant", "fine", True)), 100)
