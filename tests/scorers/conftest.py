"""Driving a scorer by hand, or by a tiny network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdbuild.elicitors import Answered, Conversation, Made, Rejected
from kdbuild.records import Row
from kdbuild.scorers import Scene, Scorer
from kdbuild.teachers import Answer, Ask, Signal
from kdbuild.teachers.fake import Fake

Reply = Callable[[Ask], str | Answer]
SCENE = Scene(Path(), gives={"teacher": frozenset(Signal)})


@dataclass
class Driven:
    """What a scorer asked, and what came of each row."""

    rounds: list[list[Ask]] = field(default_factory=list)
    """The questions, as it asked them together."""
    rows: dict[str, Row] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Of the rows that could not be scored."""

    @property
    def asks(self) -> list[Ask]:
        return [ask for asks in self.rounds for ask in asks]

    def values(self, name: str) -> list[float]:
        return [row.scores[name] for row in self.rows.values()]


def score(scorer: Scorer, rows: Sequence[Row], reply: Reply = lambda ask: "", scene: Scene = SCENE) -> Driven:
    """Score rows; `reply` answers each question with a text or a whole `Answer`."""
    driven = Driven()
    if scorer.pooled:
        _take(driven, "pool", _run(scorer.gather(sorted(rows, key=lambda row: row.id), scene), reply, driven))
        return driven
    for row in rows:
        _take(driven, row.id, _run(scorer.elicit(row, scene), reply, driven))
    return driven


def _take(driven: Driven, row: str, result: list[Row] | Rejected | Made) -> None:
    if isinstance(result, Rejected):
        driven.reasons[row] = result.reason
        return
    made = result if isinstance(result, Made) else Made(result)
    driven.rows |= {row.id: row for row in made.rows}
    driven.reasons |= {gone.id: gone.reason for gone in made.dropped}


def _run(talk: Conversation, reply: Reply, driven: Driven) -> list[Row] | Rejected | Made:
    answers: list[Answered] | None = None
    while True:
        try:
            asks = list(next(talk) if answers is None else talk.send(answers))
        except StopIteration as end:
            return end.value
        driven.rounds.append(asks)
        said = [reply(ask) for ask in asks]
        answers = [Answered(one if isinstance(one, Answer) else Answer(one, True, 3, 4), f"{i:064x}") for i, one in enumerate(said)]


@pytest.fixture(name="score")
def _score() -> Callable[..., Driven]:
    return score


@pytest.fixture(scope="session")
def network():
    """Return the fake teacher's network and tokenizer."""
    return Fake().load(Path(), None)


@pytest.fixture(scope="session")
def weigh(network) -> Reply:
    """Return the network's answer to a question about a likelihood."""
    from kdbuild.teachers._generate import Engine

    def reply(ask: Ask) -> Answer:
        ((_, answer),) = Engine(*network).generate([ask])
        return answer

    return reply


@pytest.fixture(scope="session")
def loss(network) -> Callable[[Sequence[tuple[str, str]], str], float]:
    """Return the mean loss (nats a token) of a text after turns of (role, content), by one plain pass of the network."""
    import torch

    model, tokenizer = network

    def of(turns: Sequence[tuple[str, str]], text: str) -> float:
        first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        before = [first]
        if turns:
            written = tokenizer.apply_chat_template(
                [{"role": r, "content": c} for r, c in turns], tokenize=False, add_generation_prompt=True
            )
            before = tokenizer(written, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([before + tokenizer(text, add_special_tokens=False)["input_ids"]])
        labels = ids.clone()
        labels[:, : len(before)] = -100
        with torch.no_grad():
            return float(model(ids, labels=labels).loss)

    return of
