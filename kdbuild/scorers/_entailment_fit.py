"""Fits the weights of `_entailment` to pairs of an answer that follows from a passage and one that does not.

python -m kdbuild.scorers._entailment_fit --teacher FOLDER --embedder FOLDER

The answers of `_entail_pairs.jsonl`, written for this, are told apart by a logistic regression with an L2 penalty (C = 1, none on the
intercept). Shape suffixes: N answers, S signs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdbuild import kinds
from kdbuild.elicitors import Answered
from kdbuild.records import Message, Row
from kdbuild.scorers import Scene

PAIRS = Path(__file__).parent / "_entail_pairs.jsonl"
SIGNS = ("pmi", "cosine", "agreement")
_NUM_FOLDS = 8


@dataclass
class _Embedding:
    """An embedder with its model, as a scene has it."""

    embedder: Any
    weights: Path

    def embed(self, texts: Sequence[str]) -> Any:
        return self.embedder.embed(texts, self.weights)


def read(path: Path = PAIRS) -> list[Row]:
    """Return the answers as rows: the good one of each pair, then the spoilt one."""
    rows = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        pair = json.loads(line)
        context = ({"doc_id": f"passage-{i}", "text": pair["context"], "score": None},)
        for side in ("good", "spoilt"):
            turns = (Message("user", pair["prompt"]), Message("assistant", pair[side], train=True))
            rows.append(Row(f"pair-{i}-{side}", turns, context=context))
    return rows


def signs_of(rows: Sequence[Row], teacher: Path, embedder: Path) -> np.ndarray:
    """Return the signs of each row's answer: float64 of shape (N, S)."""
    scorer = kinds.parse("scorers", {"kind": "entail"})
    reader = kinds.parse("teachers", {"kind": "transformers", "model": "path:here"})
    encoder = kinds.parse("embedders", {"kind": "sentence-transformers", "model": "path:here"})
    scene = Scene(Path(), embedder=_Embedding(encoder, embedder))
    talks = [scorer.elicit(row, scene) for row in rows]
    asked = [next(talk) for talk in talks]
    with reader.open(Path(), teacher) as session:
        answers = dict(session.generate([ask for asks in asked for ask in asks]))
    found, at = [], 0
    for talk, asks in zip(talks, asked, strict=True):
        try:
            talk.send([Answered(answers[at + i], "") for i in range(len(asks))])
        except StopIteration as end:
            (row,) = end.value
            found.append([row.scores[f"entail.{sign}"] for sign in SIGNS])
        at += len(asks)
    return np.array(found)


def fit(signs_NS: np.ndarray, good_N: np.ndarray) -> np.ndarray:
    """Return the intercept and the weights that minimise |w|^2 / 2 + the summed log loss, by Newton's method."""
    x_NS = np.column_stack([np.ones(len(signs_NS)), signs_NS])
    penalty = np.diag([0.0, *([1.0] * signs_NS.shape[1])])
    weights_S = np.zeros(x_NS.shape[1])
    for _ in range(50):
        p_N = 1 / (1 + np.exp(-x_NS @ weights_S))
        slope_S = x_NS.T @ (p_N - good_N) + penalty @ weights_S
        step_S = np.linalg.solve(x_NS.T @ (x_NS * (p_N * (1 - p_N))[:, None]) + penalty, slope_S)
        weights_S = weights_S - step_S
        if np.abs(step_S).max() < 1e-12:
            break
    return weights_S


def held_out(signs_NS: np.ndarray, good_N: np.ndarray) -> tuple[float, float]:
    """Return the accuracy of pairs (whose good answer gets the higher value) and of single answers (above one half), each by weights that
    were fitted to the other pairs.
    """
    fold_N = (np.arange(len(good_N)) // 2) % _NUM_FOLDS
    total_N = np.empty(len(good_N))
    for fold in range(_NUM_FOLDS):
        out_N = fold_N == fold
        intercept, *weights = fit(signs_NS[~out_N], good_N[~out_N])
        total_N[out_N] = intercept + signs_NS[out_N] @ np.array(weights)
    return float((total_N[::2] > total_N[1::2]).mean()), float(((total_N > 0) == (good_N > 0)).mean())


def main() -> None:
    """Print what to write into `_entailment`, and how well it does on pairs left out of the fit."""
    parser = argparse.ArgumentParser(description="Fit the weights of the scorer `entail`.")
    for name in ("teacher", "embedder"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="folder of the model")
    given = parser.parse_args()
    rows = read()
    signs_NS, good_N = signs_of(rows, given.teacher, given.embedder), np.tile([1.0, 0.0], len(rows) // 2)
    intercept, *weights = fit(signs_NS, good_N)
    of_pairs, of_answers = held_out(signs_NS, good_N)
    print(f"INTERCEPT = {intercept:.3f}")
    print(f"WEIGHTS = Signs({', '.join(f'{name}={weight:.3f}' for name, weight in zip(SIGNS, weights, strict=True))})")
    print(f"left out of the fit: {of_pairs:.3f} of {len(rows) // 2} pairs, {of_answers:.3f} of {len(rows)} answers")


if __name__ == "__main__":
    main()
