"""Forward passes over held-out rows, in batches of like length, and the head applied in chunks."""

# Shape suffixes: B rows of a batch, L positions of the padded batch, T trained positions of one row, C positions of one chunk,
# D width, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from kdbuild.errors import StageError
from kdbuild.evaluators import Subject
from kdbuild.records import Row

POSITIONS_PER_CHUNK = 256
"""Positions whose logits exist at once: 256 x 49,152 words in float32 are 48 MiB."""


@dataclass(frozen=True)
class Scored:
    """One row as tokens."""

    id: str
    ids: tuple[int, ...]
    at: tuple[int, ...]
    """Positions of the trained tokens in `ids`; each is predicted from the position before it."""


def encode_rows(subject: Subject, rows: Sequence[Row], max_tokens: int) -> list[Scored]:
    """Return the rows that have a trained token within `max_tokens`, in the order given.

    Raises:
        StageError: no row has one, or a row is longer than the model's context.
    """
    scored = []
    for row in rows:
        ids, trained = subject.encode(row, max_tokens)
        at = tuple(i for i, learned in enumerate(trained) if learned and i > 0)
        if at:
            scored.append(Scored(row.id, tuple(ids), at))
    if not scored:
        raise StageError(
            f"none of the {len(rows)} held-out rows has an answer within {max_tokens} tokens, so `{subject.name}` cannot be scored",
            hint="raise the evaluator's `max_tokens`",
        )
    limit = getattr(subject.model.config, "max_position_embeddings", None)
    longest = max(scored, key=lambda row: len(row.ids))
    if isinstance(limit, int) and len(longest.ids) > limit:
        raise StageError(
            f"`{subject.name}` reads at most {limit} tokens; held-out row `{longest.id}` has {len(longest.ids)}",
            hint=f"set the evaluator's `max_tokens` to {limit}: longer rows are cut at their end",
        )
    return scored


def batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return indices in batches of like length, longest first, each at most `batch_tokens` with padding (but at least one row)."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def progress(items: Sequence[Any], what: str) -> Iterator[Any]:
    """Yield `items` with a bar on a terminal, if they take more than two seconds."""
    yield from tqdm(items, desc=what, delay=2, leave=False, disable=None, unit="batch")


def states(subject: Subject, batch: Sequence[Scored]) -> list[torch.Tensor]:
    """Return, for each row, the last hidden states [T, D] at the positions that predict its trained tokens."""
    device = subject.model.device
    longest = max(len(row.ids) for row in batch)
    ids_BL = torch.tensor([[*row.ids, *[0] * (longest - len(row.ids))] for row in batch], device=device)
    mask_BL = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in batch], device=device)
    body = subject.model.get_decoder() or subject.model.base_model
    hidden_BLD = body(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
    return [hidden_BLD[i, [at - 1 for at in row.at]] for i, row in enumerate(batch)]


def logits(subject: Subject, hidden_CD: torch.Tensor) -> torch.Tensor:
    """Return the logits [C, V] in float32, with the scale and the soft cap some models put after the head."""
    config = subject.model.config
    logits_CV: torch.Tensor = subject.model.get_output_embeddings()(hidden_CD)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits_CV = logits_CV * scale
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits_CV = logits_CV / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits_CV = torch.tanh(logits_CV / cap) * cap
    return logits_CV.float()


def chunks(num_positions: int) -> Iterator[slice]:
    """Yield slices of at most POSITIONS_PER_CHUNK positions."""
    for start in range(0, num_positions, POSITIONS_PER_CHUNK):
        yield slice(start, min(start + POSITIONS_PER_CHUNK, num_positions))


def labels(row: Scored, device: torch.device) -> torch.Tensor:
    """Return the ids [T] of the trained tokens."""
    return torch.tensor([row.ids[at] for at in row.at], device=device)
