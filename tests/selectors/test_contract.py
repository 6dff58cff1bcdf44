"""What every selector promises."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from kdbuild import canonical, kinds
from kdbuild.embedders.fake import Fake
from kdbuild.records import Message, Row
from kdbuild.selectors import Scene, Selector, Verdict

EMBEDDER = Fake(dimension=512)


class Vectors:
    """The stage's embedder, without weights."""

    def embed(self, texts):
        return EMBEDDER.embed(texts, None)


SCENE = Scene(Path(__file__).parents[2], embedder=Vectors())


def row(id: str, prompt: str, answer: str | None) -> Row:
    turns = (Message("user", prompt), Message("assistant", answer, train=True)) if answer is not None else (Message("user", prompt),)
    return Row(id, turns, scores={"quality": round(canonical.fraction("quality", id), 6)})


def rows(seed: int = 0, count: int = 60) -> list[Row]:
    """Return rows by id, about half of which repeat another, in full or nearly."""
    rng = random.Random(seed)
    made: list[Row] = []
    for i in range(count):
        id = f"r{i:03d}"
        if made and rng.random() < 0.5:
            old = rng.choice(made)
            text = old.messages[0].content + rng.choice(["", "  ", " please", " please now"])
            made.append(row(id, text, old.answer))
        else:
            words = [f"word{rng.randrange(500)}" for _ in range(8)]
            made.append(row(id, " ".join(words), f"answer of {' '.join(words[::-1])}"))
    return made


@pytest.fixture(params=kinds.available("selectors"))
def selector(request: pytest.FixtureRequest) -> Selector:
    cls = kinds.load("selectors", request.param)
    return cls.model_validate({"kind": request.param, **{name: f.examples[0] for name, f in cls.model_fields.items() if f.examples}})


def judged(selector: Selector, given: list[Row], scene: Scene = SCENE) -> dict[str, Verdict]:
    """Judge as the stage does: sorted by id."""
    ordered = sorted(given, key=lambda r: r.id)
    return dict(zip((r.id for r in ordered), selector.judge(ordered, scene), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_rows_does_not_matter(selector: Selector, seed: int) -> None:
    given = rows(seed)
    expected = judged(selector, given)
    assert len(expected) == len(given)
    random.Random(seed).shuffle(given)
    assert judged(selector, given) == expected


def test_judged_twice_gives_the_same(selector: Selector) -> None:
    assert judged(selector, rows()) == judged(selector, rows())


def test_a_row_dropped_for_another_names_a_kept_one(selector: Selector) -> None:
    verdicts = judged(selector, rows())
    named = [v.because_of for v in verdicts.values() if v.because_of is not None]
    # What an evaluation set holds is named `<set>/<id>`, and is none of the rows.
    assert all(verdicts[id].reason is None for id in named if "/" not in id)
    assert all(v.because_of is None and v.score is None for v in verdicts.values() if v.reason is None)


def test_of_two_equal_rows_one_is_kept(selector: Selector) -> None:
    verdicts = judged(selector, [row("b", "the same words", "the same answer"), row("a", "the same words", "the same answer")])
    if verdicts["b"].because_of is None:
        pytest.skip("compares no rows")
    assert verdicts["a"].reason is None
    assert verdicts["b"].because_of == "a"


def test_what_is_kept_would_be_kept_again(selector: Selector) -> None:
    given = rows()
    kept = [r for r in given if judged(selector, given)[r.id].reason is None]
    if any(v.because_of for v in judged(selector, given).values()):
        assert all(v.reason is None for v in judged(selector, kept).values())
    else:
        pytest.skip("compares no rows")


def test_the_better_row_stays(selector: Selector) -> None:
    if "by_score" not in type(selector).model_fields or "against" not in type(selector).model_fields:
        pytest.skip("compares no rows")
    given = {r.id: r for r in rows()}
    verdicts = judged(selector.model_copy(update={"by_score": "quality"}), list(given.values()))
    lost = [(given[id], given[v.because_of]) for id, v in verdicts.items() if v.because_of]
    assert lost
    assert all(winner.scores["quality"] > loser.scores["quality"] for loser, winner in lost)


def test_rows_of_pools_never_lose(selector: Selector) -> None:
    if not {"by_score", "against"} <= type(selector).model_fields.keys():
        pytest.skip("drops no row for being like one of a pool")
    old = [replace(r, id=f"z{r.id}") for r in rows(0)]
    new = [*rows(0), *(replace(r, id=f"y{r.id}") for r in rows(1))]
    verdicts = judged(selector.model_copy(update={"against": ["before"]}), new, replace(SCENE, pools={"before": old}))
    assert all(verdicts[r.id].reason is not None for r in rows(0))
    assert {v.because_of for v in verdicts.values() if v.because_of} & {r.id for r in old}
    assert any(v.reason is None for v in verdicts.values())


def test_reasons_hold_no_numbers(selector: Selector) -> None:
    """A threshold in a reason would change the bytes of an output whose rows are the same."""
    reasons = {v.reason for v in judged(selector, rows()).values() if v.reason}
    assert not any(char.isdigit() for reason in reasons for char in reason)


def test_rows_without_what_is_compared_and_no_rows(selector: Selector) -> None:
    assert selector.judge([], SCENE) == []
    bare = [replace(row(f"r{i}", f"question {i} {'abc'[i]}", None)) for i in range(3)]
    for of in ("prompt", "answer", "both"):
        turned = selector.model_copy(update={"of": of}) if "of" in type(selector).model_fields else selector
        verdicts = turned.judge(bare, SCENE)
        assert all(v.because_of is None for v in verdicts)


def test_identity_reads_back(selector: Selector) -> None:
    assert kinds.parse("selectors", selector.identity()) == selector
