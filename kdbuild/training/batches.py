"""What is seen in which optimiser step (identity), and how a step is cut over ranks and forward passes (knobs)."""

# Shape suffixes: S tokens of one forward pass (several sequences end to end), T trained positions among them.

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from kdbuild import canonical
from kdbuild.training.tokens import Encoded


@dataclass(frozen=True)
class Example:
    """One row as training sees it."""

    row: str
    """Id of the row."""
    encoded: Encoded

    @cached_property
    def key(self) -> tuple[str, str]:
        """What orders examples: the row's id, then the content, for rows of two data sets that share an id."""
        return self.row, canonical.digest([self.encoded.ids, self.encoded.trained])

    def __len__(self) -> int:
        return len(self.encoded.ids)


@dataclass(frozen=True)
class Pack:
    """One forward pass: sequences end to end, positions counted from the start of each."""

    ids_1S: torch.Tensor
    positions_1S: torch.Tensor
    predicting_T: torch.Tensor
    """Indices into S of the tokens whose next token is trained."""
    labels_T: torch.Tensor
    """Ids of those next tokens."""

    def to(self, device: torch.device | str) -> Pack:
        """Return the pack on another device."""
        return Pack(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def optimiser_steps(examples: Iterable[Example], *, num_epochs: int, batch_tokens: int, seed: int) -> list[list[Example]]:
    """Return the examples of every optimiser step.

    Each epoch sees each example once, in an order that depends on the seed, the epoch and the rows' ids. It is cut into
    `round(tokens / batch_tokens)` steps of nearly equal size. Ranks, micro-batches and the order of `examples` play no part.
    """
    examples = list(examples)
    steps = []
    for epoch in range(num_epochs):

        def place(example: Example, epoch: int = epoch) -> tuple[str, tuple[str, str]]:
            return hashlib.sha256(canonical.dumps([seed, epoch, example.row]).encode()).hexdigest(), example.key

        steps += _cut(sorted(examples, key=place), batch_tokens)
    return steps


def _cut(ordered: Sequence[Example], batch_tokens: int) -> list[list[Example]]:
    num_tokens = sum(map(len, ordered))
    num_steps = max(1, round(num_tokens / batch_tokens))
    groups: list[list[Example]] = [[] for _ in range(num_steps)]
    seen = 0
    for example in ordered:
        middle = seen + len(example) / 2
        groups[min(int(middle * num_steps / num_tokens), num_steps - 1)].append(example)
        seen += len(example)
    return [group for group in groups if group]


def split(group: Sequence[Example], *, num_ranks: int, micro_batch_tokens: int) -> list[list[list[Example]]]:
    """Return the forward passes of each rank for one optimiser step: the same number on every rank, of nearly equal size.

    A pass holds at most `micro_batch_tokens` tokens, or a single longer example. Passes may be empty where examples are few.
    """
    ordered = sorted(group, key=lambda example: (-len(example), example.key))
    limit = max(micro_batch_tokens, len(ordered[0]))
    num_passes = num_ranks * max(1, -(-sum(map(len, ordered)) // (num_ranks * micro_batch_tokens)))
    while True:
        passes: list[list[Example]] = [[] for _ in range(num_passes)]
        sizes = [0] * num_passes
        for example in ordered:
            smallest = sizes.index(min(sizes))
            passes[smallest].append(example)
            sizes[smallest] += len(example)
        if max(sizes) <= limit or all(len(members) < 2 for members in passes):
            return [passes[rank::num_ranks] for rank in range(num_ranks)]
        num_passes += num_ranks


def pack(examples: Sequence[Example]) -> Pack:
    """Return examples as one forward pass; an empty pass runs two tokens that train nothing, to keep ranks in step."""
    ids: list[int] = []
    positions: list[int] = []
    predicting: list[int] = []
    for encoded in [example.encoded for example in examples] or [Encoded([0, 0], [False, False])]:
        start = len(ids)
        predicting += [start + i - 1 for i, trained in enumerate(encoded.trained) if trained and i > 0]
        ids += encoded.ids
        positions += range(len(encoded.ids))
    ids_1S = torch.tensor([ids], dtype=torch.long)
    predicting_T = torch.tensor(predicting, dtype=torch.long)
    return Pack(ids_1S, torch.tensor([positions], dtype=torch.long), predicting_T, ids_1S[0, predicting_T + 1])
