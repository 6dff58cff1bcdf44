"""The shipped pairs that judges are tried on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from kdbuild.scorers import _calibration
from kdbuild.scorers.entail import Entail
from kdbuild.scorers.ifd import Ifd
from kdbuild.scorers.model import Model
from kdbuild.scorers.rating import Rating

PAIRS = [json.loads(line) for line in _calibration.FILE.read_text(encoding="utf-8").splitlines()]
FAULTS = {"fact", "number", "cut off", "off topic", "repeating", "refusing", "against the instruction", "not in the passage"}


def test_they_are_well_formed():
    assert len(PAIRS) == 48
    assert len({pair["prompt"] for pair in PAIRS}) == 48
    for pair in PAIRS:
        assert {"prompt", "good", "spoilt", "fault"} <= set(pair) <= {"prompt", "good", "spoilt", "fault", "context"}
        assert all(isinstance(text, str) and text == text.strip() and text for text in pair.values())
        assert pair["good"] != pair["spoilt"]
        assert "context" in pair or pair["fault"] != "not in the passage"
    assert Counter(pair["fault"] for pair in PAIRS) == dict.fromkeys(FAULTS, 6)


@pytest.mark.parametrize("length", [len, lambda text: len(text.split())], ids=["characters", "words"])
def test_length_tells_nothing(length):
    def longer_share(pairs):
        return sum(length(pair["good"]) > length(pair["spoilt"]) for pair in pairs) / len(pairs)

    assert 0.45 <= longer_share(PAIRS) <= 0.55
    with_context = [pair for pair in PAIRS if "context" in pair]
    assert len(with_context) == 16
    assert 0.4 <= longer_share(with_context) <= 0.6
    means = [sum(length(pair[side]) for pair in PAIRS) / len(PAIRS) for side in ("good", "spoilt")]
    assert means[0] == pytest.approx(means[1], rel=0.1)


def test_form_tells_little():
    """Neither a capital letter at the start nor a full stop at the end finds the good one, but where it was cut."""
    whole = [pair for pair in PAIRS if pair["fault"] != "cut off"]
    assert sum(pair["good"][0].isupper() == pair["spoilt"][0].isupper() for pair in whole) >= len(whole) - 2
    assert sum(pair["good"].endswith(".") == pair["spoilt"].endswith(".") for pair in whole) >= len(whole) * 0.9


def test_a_cut_answer_is_the_beginning_of_the_good_one():
    cut = [pair for pair in PAIRS if pair["fault"] == "cut off"]
    assert all(pair["good"].startswith(pair["spoilt"]) for pair in cut)


def test_pairs_become_rows_and_an_accuracy():
    pairs = _calibration.pairs(Rating())
    assert len(pairs) == 48
    assert len(_calibration.pairs(Ifd())) == 48
    good, spoilt = pairs[0]
    assert (good.answer, spoilt.answer) == (PAIRS[0]["good"], PAIRS[0]["spoilt"])
    assert good.prompt == spoilt.prompt
    # Right, wrong and undecided: (1 + 0 + 0.5) / 3.
    values = [(2.0, 1.0), (1.0, 2.0), (1.5, 1.5)]
    scored = [replace(row, scores={"x": v}) for pair, both in zip(pairs, values, strict=False) for row, v in zip(pair, both, strict=True)]
    assert _calibration.accuracy(pairs[:3], scored, "x") == 0.5


def test_a_scorer_gets_the_pairs_it_can_tell_apart():
    assert _calibration.pairs(Rating(reference="gold")) == []  # no pair has a right answer beside it
    assert _calibration.pairs(Model(shown="pair", of=["prompt", "context"])) == []  # both sides look the same to it
    assert len(_calibration.pairs(Entail())) == 16
