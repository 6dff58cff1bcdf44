"""Questions as token ids: the same for every engine, because they share what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from kdbuild.records import Message, Row
from kdbuild.teachers import Ask
from kdbuild.training.tokens import encode

_NO_LIMIT = 2**31


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Iterable[Message]) -> list[int]:
    """Return the tokens of a prompt: the turns, then what the chat template writes before an answer."""
    turns = [{"role": m.role, "content": m.content} for m in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def before_choices(tokenizer: PreTrainedTokenizerBase, ask: Ask) -> list[int]:
    """Return the tokens before given answers: a prompt or, where there is no conversation, the token that a text begins with.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    if ask.is_conditioned:
        return prompt_ids(tokenizer, ask.messages)
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if first is None:
        raise ValueError("the tokenizer has no token that a text begins with")
    return [int(first)]


def choice_ids(tokenizer: PreTrainedTokenizerBase, choices: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each given answer; a special token spelt out in one is text."""
    return [list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]) for text in choices]


def reading_ids(tokenizer: PreTrainedTokenizerBase, row_id: str, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Return the tokens of a conversation up to the last trained one, and the positions of the trained ones that are predicted."""
    encoded = encode(tokenizer, Row(row_id, messages=tuple(messages)), _NO_LIMIT)
    return encoded.ids, [i for i, learned in enumerate(encoded.trained) if learned and i > 0]
