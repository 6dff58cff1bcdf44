"""Rows to token ids, and which of them the student learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from kdbuild.errors import RowError, StageError
from kdbuild.records import Message, Row


@dataclass(frozen=True)
class Encoded:
    """One row as tokens."""

    ids: list[int]
    trained: list[bool]
    """Whether each token is learned: those of trained turns and, where the turn ended by itself, its end-of-turn token."""

    @property
    def num_trained(self) -> int:
        """Number of tokens with a loss; the first token of a sequence has no prediction and never counts."""
        return sum(self.trained[1:])


def encode(tokenizer: PreTrainedTokenizerBase, row: Row, max_tokens: int) -> Encoded:
    """Return a row as tokens, cut at its end to `max_tokens`; what follows the last trained token is left out.

    A trained turn is written as the chat template writes it after its generation prompt. Prompt, answer and end of turn are tokenised
    apart, so that a token never spans two of them, and a special token spelt out inside an answer is text, not a control.

    Raises:
        RowError: the template refuses the row, or writes a trained turn other than after its generation prompt.
        StageError: the tokenizer has no chat template.
    """
    ids: list[int] = []
    trained: list[bool] = []
    for text, learned, is_content in _pieces(tokenizer, row):
        tokens = tokenizer(text, add_special_tokens=False, split_special_tokens=is_content, verbose=False)["input_ids"] if text else []
        ids += tokens
        trained += [learned] * len(tokens)
    return Encoded(ids[:max_tokens], trained[:max_tokens])


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """Return turns as the chat template writes them.

    Raises:
        StageError: the tokenizer has no chat template.
        jinja2.TemplateError: the template refuses the turns.
    """
    if not tokenizer.chat_template:
        raise StageError(
            "the student's tokenizer has no chat template, so a row cannot be written as a prompt",
            hint="take a student or a `tokenizer:` that has one",
        )
    turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt))


def _pieces(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[tuple[str, bool, bool]]:
    """Return (text, learned, is the turn's content) for all of a row up to its last trained token."""
    pieces: list[tuple[str, bool, bool]] = []
    done = ""
    trained_turns = [i for i, message in enumerate(row.messages) if message.train]
    for i in trained_turns:
        message = row.messages[i]
        prompt, turn = _prompt_and_turn(tokenizer, row, i, done)
        before, content, end, found_end = _split_turn(tokenizer, turn, message.content, row.id)
        if not found_end and i == trained_turns[-1]:
            end = tokenizer.eos_token or ""  # the template writes no end of turn: only the end token can stop a generation
        spaces = before if not before.strip() else ""
        pieces.append((prompt[len(done) :] + before.removesuffix(spaces), False, False))
        pieces.append((spaces + content, True, True))
        pieces.append((end, message.ended, False))
        done = prompt + before + content + (end if found_end else "")
    if trained_turns and not row.messages[trained_turns[-1]].ended:
        pieces.pop()  # the end that the last answer never reached
    return pieces


def _prompt_and_turn(tokenizer: PreTrainedTokenizerBase, row: Row, i: int, done: str) -> tuple[str, str]:
    """Return the text before turn `i` with its generation prompt, and the text of the turn after it."""
    if row.messages[i].role != "assistant":
        raise RowError(f"row `{row.id}` trains a turn of role `{row.messages[i].role}`; only assistant turns can be trained")
    try:
        prompt = render(tokenizer, row.messages[:i], add_generation_prompt=True)
        whole = render(tokenizer, row.messages[: i + 1], add_generation_prompt=False)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise RowError(f"the student's chat template refuses row `{row.id}`: {' '.join(str(error).split())[:300]}") from None
    if not whole.startswith(prompt) or not prompt.startswith(done):
        raise RowError(
            f"the student's chat template does not write row `{row.id}`, turn {i + 1}, after its generation prompt",
            hint="train only the last turn of each row, or use a tokenizer whose template only appends",
        )
    return prompt, whole[len(prompt) :]


def _split_turn(tokenizer: PreTrainedTokenizerBase, turn: str, content: str, row_id: str) -> tuple[str, str, str, bool]:
    """Return what stands before the content, the content as written, its end of turn, and whether there is an end of turn."""
    for written in (content, content.rstrip(), content.lstrip(), content.strip()):
        start = turn.find(written)
        if start >= 0:
            break
    else:
        raise RowError(f"the student's chat template does not write the answer of row `{row_id}` as it is")
    after = turn[start + len(written) :]
    specials = [token for token in _special_tokens(tokenizer) if token in after]
    first = min(specials, key=lambda token: (after.find(token), -len(token)), default=None)
    if first is None or after[: after.find(first)].strip():
        return turn[:start], written, "", False
    return turn[:start], written, after[: after.find(first) + len(first)], True


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)
