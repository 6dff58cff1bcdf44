"""Texts, pairs of texts and chats, through a model with a classification head: the longest first, alike long ones together."""

# Shape suffixes: B texts of the batch, T positions, L labels.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbuild.errors import SourceError, StageError
from kdbuild.teachers import Answer, Ask, Operation, Session
from kdbuild.teachers._batch import cut
from kdbuild.teachers._generate import Incoming, blocks
from kdbuild.teachers._rows import Unanswerable, failure, rounded
from kdbuild.teachers._session import device_of
from kdbuild.training.models import load_classifier, load_tokenizer

_NO_LIMIT = 10**9
"""Tokenizers that know of no limit say 10^30."""


def load(weights: Path | None, *, dtype: str, device: str, template: str | None, batch_tokens: int, cuts: bool) -> Session:
    """Return an opened classifier.

    Raises:
        SourceError: there is no model, or it is no classifier.
        StageError: there is no such device.
    """
    if weights is None:
        raise SourceError("the classifier's model is not there", hint="`dvc repro` fetches it")
    tokenizer = load_tokenizer(weights)
    if template is not None:
        tokenizer.chat_template = template
    return ClassifierSession(load_classifier(weights, dtype, device_of(device)), tokenizer, batch_tokens, cuts)


@dataclass(frozen=True)
class _Shown:
    """What the model is shown for one question."""

    index: int
    columns: dict[str, list[int]]
    """`input_ids` and whatever else the tokenizer gives for each token."""

    @property
    def prompt(self) -> list[int]:
        """Its tokens."""
        return self.columns["input_ids"]


@dataclass
class ClassifierSession(Session):
    """A classifier on its device."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_tokens: int
    cuts: bool

    def __post_init__(self) -> None:
        """Find out what the model reads at most, and what it says."""
        config = self.model.config
        self.max_tokens = _max_tokens(self.model, self.tokenizer)
        self.labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))

    def generate(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Yield (index, answer) batch by batch."""
        incoming = Incoming(asks)
        try:
            while fresh := incoming.take():
                for block in blocks(fresh):
                    yield from self._classify(block)
        except torch.OutOfMemoryError as error:
            hint = "lower the classifier's `batch_tokens` in params.yaml; every answer so far is stored"
            raise StageError("the classifier ran out of the device's memory", hint=hint) from error

    def _classify(self, block: Sequence[tuple[int, Ask]]) -> Iterator[tuple[int, Answer]]:
        shown = []
        for index, ask in block:
            try:
                shown.append(_Shown(index, self._columns(ask)))
            except Unanswerable as error:
                yield index, error.answer
        for batch in cut(shown, lambda one: len(one.prompt) / self.batch_tokens):
            for one, scores in zip(batch, self._scores(batch), strict=True):
                yield one.index, self._answer(one, scores)

    def _answer(self, one: _Shown, scores: list[float]) -> Answer:
        if not all(map(math.isfinite, scores)):
            return failure("the model's scores are not numbers", len(one.prompt))
        return Answer("", True, len(one.prompt), 0, labels=self.labels, label_scores=tuple(map(rounded, scores)))

    # --- a question as tokens --------------------------------------------------------------------------------------------------

    def _columns(self, ask: Ask) -> dict[str, list[int]]:
        """Return what the tokenizer makes of a question.

        Raises:
            Unanswerable: it is none for a classifier, or longer than the model reads.
        """
        if ask.operation is not Operation.CLASSIFY:
            raise Unanswerable("a classifier writes nothing and reads no tokens")
        texts = [message.content for message in ask.messages]
        if ask.classify == "chat":
            return self._chat(ask)
        if len(texts) != (2 if ask.classify == "pair" else 1):
            raise Unanswerable(f"a {ask.classify} of {len(texts)} texts cannot be classified")
        whole = self._encode(*texts)
        if self._fits(whole):
            return whole
        if len(self._encode("", *texts[1:])["input_ids"]) >= self.max_tokens:
            raise Unanswerable("the second text alone is longer than the classifier reads", len(whole["input_ids"]))
        return self._encode(*texts, truncation="only_first", max_length=self.max_tokens)

    def _encode(self, *texts: str, **more: Any) -> dict[str, list[int]]:
        # A special token spelt out in a text is text.
        found = self.tokenizer(*texts, split_special_tokens=True, **more)
        return {name: list(values) for name, values in found.items()}

    def _chat(self, ask: Ask) -> dict[str, list[int]]:
        if self.tokenizer.chat_template is None:
            raise Unanswerable("the classifier's tokenizer has no chat template")
        turns = [{"role": message.role, "content": message.content} for message in ask.messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise Unanswerable(f"the chat template refuses the messages: {error}") from error
        found = self.tokenizer(text, add_special_tokens=False)
        columns = {name: list(values) for name, values in found.items()}
        return columns if self._fits(columns) else {name: values[-self.max_tokens :] for name, values in columns.items()}

    def _fits(self, columns: dict[str, list[int]]) -> bool:
        """Return whether the model reads as much; False where it is to be cut.

        Raises:
            Unanswerable: it is longer, and must not be cut.
        """
        num_tokens = len(columns["input_ids"])
        if not num_tokens:
            raise Unanswerable("there is nothing to classify")
        if num_tokens > self.max_tokens and not self.cuts:
            raise Unanswerable(f"{num_tokens} tokens are more than the {self.max_tokens} that the classifier reads", num_tokens)
        return num_tokens <= self.max_tokens

    # --- a pass ----------------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _scores(self, batch: list[_Shown]) -> list[list[float]]:
        """Return what is said of each text: log-probabilities, or the only output."""
        config = self.model.config
        text_config = config.get_text_config()
        own = text_config.pad_token_id
        # Decoders read their answer off the last token that is not padding. A model that names none is given one that no text holds.
        text_config.pad_token_id = self._filler(batch) if own is None else own
        try:
            logits_BL = self.model(**self._tensors(batch, text_config.pad_token_id)).logits.float()
        finally:
            text_config.pad_token_id = own
        if config.num_labels == 1:
            found: list[list[float]] = logits_BL.tolist()
        elif config.problem_type == "multi_label_classification":
            found = logsigmoid(logits_BL).tolist()
        else:
            found = logits_BL.log_softmax(dim=-1).tolist()
        return found

    def _filler(self, batch: list[_Shown]) -> int:
        used = {token for one in batch for token in one.prompt}
        return next((token for token in range(len(self.tokenizer)) if token not in used), 0)

    def _tensors(self, batch: list[_Shown], filler: int) -> dict[str, torch.Tensor]:
        """Return the batch's input (BT each), padded on the right."""
        width = max(len(one.prompt) for one in batch)

        def padded(name: str) -> torch.Tensor:
            fill = filler if name == "input_ids" else 0
            rows = [one.columns[name] + [fill] * (width - len(one.prompt)) for one in batch]
            return torch.tensor(rows, device=self.model.device)

        return {name: padded(name) for name in batch[0].columns}


def _max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens a model reads: its positions, or fewer where its tokenizer says so."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _NO_LIMIT
    for name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the one of padding.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1
    return int(min(positions, tokenizer.model_max_length, _NO_LIMIT))
