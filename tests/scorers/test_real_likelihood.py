"""What the real SmolLM2-135M-Instruct finds likely, and how it rates, on the shipped pairs of a good and a spoilt answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kdbuild.records import Row
from kdbuild.rows.conversations import Setting, Talks
from kdbuild.rows.store import Store
from kdbuild.scorers import Scene, Scorer, _calibration
from kdbuild.scorers.gain import Gain
from kdbuild.scorers.ifd import Ifd
from kdbuild.scorers.ppl import Ppl
from kdbuild.scorers.rating import Rating
from kdbuild.teachers.transformers import Transformers

pytestmark = pytest.mark.real

WEIGHTS = Path(__file__).parents[2] / "artifacts/models/smollm2/weights"
SCORERS: list[tuple[Scorer, int]] = [
    (Ppl(), 1),
    (Ifd(measure="loss", name="ifd-loss"), -1),
    (Ifd(), -1),
    (Ifd(reversed=True, name="r-ifd"), -1),
    (Gain(), 1),
    (Rating(), 1),
    (Rating(name="written", verdict="text", max_new_tokens=24), 1),
]
"""Scorer, and whether the better answer has the higher (1) or the lower (-1) value."""


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> dict[str, list[tuple[Row, Row]]]:
    """Return, by the name of the score, the pairs (good, spoilt) as they were scored."""
    if not (WEIGHTS / "model.safetensors").is_file():
        pytest.skip("`dvc repro` makes the model")
    teacher = Transformers(model="path:model", device="cpu")
    root, found = tmp_path_factory.mktemp("root"), {}
    (root / "store").mkdir()
    setting = Setting(Scene(root, gives={"teacher": teacher.gives}), {"teacher": {"model": "smollm2"}})
    with Store.open(root / "store") as store, teacher.open(root, WEIGHTS) as session:
        for scorer, _ in SCORERS:
            found[scorer.label] = _score(scorer, _calibration.pairs(scorer), setting, store, session)
    return found


def _score(scorer, pairs, setting, store, session) -> list[tuple[Row, Row]]:
    talks = Talks(scorer, [row for pair in pairs for row in pair], setting, store, failures=True)
    waiting = talks.advance()
    while waiting:
        asked, waiting = waiting, []
        for index, answer in session.generate([question.ask for question in asked]):
            assert answer.failed is None, answer.failed
            waiting += talks.deliver(asked[index], answer)
    rows = {row.id: row for row in talks.rows}
    return [(rows[good.id], rows[spoilt.id]) for good, spoilt in pairs if good.id in rows and spoilt.id in rows]


def _share(pairs: Sequence[tuple[Row, Row]], name: str, sign: int) -> float:
    points = [sign * (good.scores[name] - spoilt.scores[name]) for good, spoilt in pairs]
    return sum(1.0 if point > 0 else 0.5 if point == 0 else 0.0 for point in points) / len(points)


def test_the_shipped_pairs(scored, record_property):
    for scorer, sign in SCORERS:
        name, pairs = scorer.label, scored[scorer.label]
        if not pairs:
            continue
        share = _share(pairs, name, sign)
        record_property(name, share)
        means = [sum(row.scores[name] for row in side) / len(pairs) for side in zip(*pairs, strict=True)]
        print(f"\n{name}: {share:.0%} of {len(pairs)} pairs judged right; mean {means[0]:.3f} of good, {means[1]:.3f} of spoilt answers")
        for good, spoilt in pairs[:6]:
            print(f"  {good.scores[name]:8.3f} {spoilt.scores[name]:8.3f}  {(good.answer or '')[:40]!r} | {(spoilt.answer or '')[:40]!r}")
    assert all(1 <= row.scores["rating"] <= 5 for pair in scored["rating"] for row in pair)
    assert all(row.scores["ppl"] < 0 for pair in scored["ppl"] for row in pair)
    assert all(row.scores["ifd"] > 0 for pair in scored["ifd"] for row in pair)
