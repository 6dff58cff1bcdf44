"""Signals of conversations as they stand: what a model says of each trained token when it is shown the tokens before it."""

# Shape suffixes: B rows of the batch, T trained tokens of one row, W last positions of a pass, V vocabulary, H width.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from transformers import PreTrainedModel

from kdbuild.errors import RowError
from kdbuild.teachers import Answer
from kdbuild.teachers import Reading as Wanted
from kdbuild.teachers._batch import MOST_NUMBERS, Network, Prefix, cut, num_words
from kdbuild.teachers._rows import Reading, failure


def read(network: Network, rows: Sequence[Reading], batch_tokens: int) -> Iterator[tuple[int, Answer]]:
    """Yield (index, answer): the payload's i-th entry is taken at the position that predicts the row's i-th trained token."""
    for wanted in sorted({row.wanted for row in rows}, key=repr):
        alike = [row for row in rows if row.wanted == wanted]
        # The first predicting position is in the row's own pass, whatever the rows share.
        prefix = network.prefix([row.prompt[: row.trained[0]] for row in alike])
        for group in cut(alike, lambda row: max(len(row.prompt) / batch_tokens, _num_numbers(row, network.model) / MOST_NUMBERS)):
            give = _hidden if wanted.form == "hidden" else _distributions
            for row, encode in zip(group, give(network, group, prefix, wanted), strict=True):
                yield row.index, _answer(row, encode)


def _answer(row: Reading, encode: Callable[[], bytes] | None) -> Answer:
    if encode is None:
        return failure("the model's logits are not numbers", len(row.prompt))
    try:
        return Answer("", True, len(row.prompt), 0, payload=encode())
    except RowError as error:
        return failure(error.message, len(row.prompt))


def _num_numbers(row: Reading, model: PreTrainedModel) -> int:
    """Return how many numbers a pass hands over for a row."""
    config, length = model.config.get_text_config(), len(row.prompt)
    if row.wanted.form != "hidden":
        return row.span * num_words(model)
    maps = config.num_attention_heads * length if row.wanted.attention else 0
    return int(length * (config.hidden_size + maps) * (config.num_hidden_layers + 1))


def _distributions(network: Network, rows: list[Reading], prefix: Prefix, wanted: Wanted) -> Iterator[Callable[[], bytes] | None]:
    """Yield what encodes each row's next-token distributions; None where they are not numbers."""
    from kdbuild.teachers import _features

    logits_BWV = network.forward(network.start(rows, prefix), num_last=max(row.span for row in rows)).logits
    for row, logits_WV in zip(rows, logits_BWV, strict=True):
        logits_TV = logits_WV[_columns(row)].float()
        finite = bool(torch.isfinite(logits_TV).all())
        yield partial(_features.encode_distributions, logits_TV, _tokens(row), wanted, row.ask.seed) if finite else None


def _hidden(network: Network, rows: list[Reading], prefix: Prefix, wanted: Wanted) -> Iterator[Callable[[], bytes] | None]:
    """Yield what encodes each row's hidden states and attention maps; None where they are not numbers."""
    from kdbuild.teachers import _features

    with _maps_shown(network.model, wanted.attention):
        out = network.forward(network.start(rows, prefix), output_hidden_states=True, output_attentions=wanted.attention)
    for i, row in enumerate(rows):
        at_T = _columns(row)
        hidden = {layer: out.hidden_states[layer][i, at_T] for layer in wanted.layers}
        maps = None
        if wanted.attention:
            # Layer 0, the embedding, attends to nothing: the n-th map belongs to layer n + 1.
            layers = {layer: layer if layer < 0 else layer - 1 for layer in wanted.layers if layer % len(out.hidden_states)}
            maps = {layer: out.attentions[n][i][:, at_T][:, :, at_T] for layer, n in layers.items()}
        finite = all(bool(torch.isfinite(state_TH).all()) for state_TH in hidden.values())
        yield partial(_features.encode_hidden, hidden, maps, _tokens(row), wanted.dtype) if finite else None


def _columns(row: Reading) -> torch.Tensor:
    """Return where the row's trained tokens are predicted, counted from the end of the pass, at which all rows end."""
    return torch.tensor(row.trained) - 1 - len(row.prompt)


def _tokens(row: Reading) -> torch.Tensor:
    return torch.tensor([row.prompt[i] for i in row.trained])


@contextmanager
def _maps_shown(model: PreTrainedModel, shown: bool) -> Iterator[None]:
    """Let the model compute attention in the way that has its maps as values."""
    before = model.config._attn_implementation
    if shown:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if shown:
            model.set_attn_implementation(before)
