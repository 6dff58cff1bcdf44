"""Pairs out of candidates."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from kdbuild.elicitors.pair import Pair
from kdbuild.records import Message, Row

USER = Message("user", "Name a tree.")


def row(*scores, ranking=(), name="r", **more) -> Row:
    texts = ["Oak", "Elm", "Ash", "Fir", "Yew"]
    items = tuple({"text": text, "score": score, "source": "s"} for text, score in zip(texts, scores, strict=False))
    return Row(name, (USER,), candidates=items, ranking=ranking, keys=("k",), **more)


def pair_of(drive, operator, one):
    driven = drive(operator, [one], None)
    assert driven.asks == []
    return (driven.rows[0].chosen, driven.rows[0].rejected) if driven.rows else driven.rejected[0].reason


@pytest.mark.parametrize(
    ("operator", "given", "pair"),
    [
        (Pair(), row(3.0, 5.0, 1.0), ("Elm", "Ash")),
        (Pair(), row(3.0, 5.0, 5.0, 1.0, 1.0), ("Elm", "Yew")),
        (Pair(), row(3.0, None, 1.0), ("Oak", "Ash")),
        (Pair(min_gap=4.0), row(3.0, 5.0, 1.0), ("Elm", "Ash")),
        (Pair(min_gap=4.1), row(3.0, 5.0, 1.0), "the gap between the scores is too small"),
        (Pair(), row(2.0, 2.0), "both answers have the same score"),
        (Pair(), row(2.0), "both answers are the same"),
        (Pair(), row(), "no candidate with a score"),
        (Pair(), row(None, None), "no candidate with a score"),
        (Pair(best="ranking", worst="ranking"), row(None, None, None, ranking=(2, 0, 1)), ("Ash", "Elm")),
        (Pair(best="ranking", worst="ranking"), row(None, None), "no ranking of the candidates"),
        (Pair(best="ranking", worst="ranking", min_gap=1.0), row(None, None, ranking=(1, 0)), "no score to tell the gap by"),
        (Pair(best="ranking", worst="ranking"), row(2.0, 1.0, ranking=(1, 0)), ("Elm", "Oak")),
        (Pair(best="ranking", worst="ranking", weigh="gap"), row(2.0, 1.0, ranking=(1, 0)), "the gap between the scores is too small"),
        (Pair(worst="random"), row(1.0, 1.0, 1.0), "no candidate that is worse"),
        (Pair(best="gold", worst="random"), row(None, gold="Larch"), ("Larch", "Oak")),
        (Pair(best="gold", worst="random"), row(None, gold="oak."), "no candidate that is worse"),
        (Pair(best="gold", worst="random"), row(None), "no right answer"),
        (Pair(best="gold"), row(2.0, 1.0, gold="Larch"), ("Larch", "Elm")),
    ],
)
def test_the_two_sides(drive, operator, given, pair):
    assert pair_of(drive, operator, given) == pair


def test_the_chosen_one_is_learned(drive):
    given = row(1.0, 4.0)
    cut = tuple({**item, "ended": i != 1} for i, item in enumerate(given.candidates))
    (made,) = drive(Pair(), [Row("r", (USER, Message("assistant", "x", train=True)), candidates=cut, keys=("k",))], None).rows
    assert made.messages == (USER, Message("assistant", "Elm", train=True, ended=False))
    assert (made.id, made.keys, made.weight, made.ranking) == ("r", ("k",), None, ())
    assert [item["text"] for item in made.candidates] == ["Oak", "Elm"]


def test_the_gap_as_weight_and_the_list(drive):
    (made,) = drive(Pair(weigh="gap", lists=True), [row(0.25, 0.5, 0.1)], None).rows
    assert made.weight == 0.4
    assert made.ranking == (1, 0, 2)
    assert {"ranking", "weight"} <= set(Pair(weigh="gap", lists=True).writes)
    (judged,) = drive(Pair(best="ranking", worst="ranking", lists=True), [row(None, None, ranking=(1, 0))], None).rows
    assert judged.ranking == (1, 0)


def test_a_random_worst_is_drawn_below_the_best_by_the_rows_id(drive):
    operator = Pair(worst="random")
    drawn = Counter(pair_of(drive, operator, row(1.0, 9.0, 3.0, 9.0, name=f"r{i}")) for i in range(200))
    assert set(drawn) == {("Elm", "Oak"), ("Elm", "Ash")}  # Fir is as good as Elm
    assert min(drawn.values()) > 65  # 100 each; 65 is five standard deviations below
    assert pair_of(drive, operator, row(1.0, 9.0, 3.0, name="r7")) == pair_of(drive, operator, row(1.0, 9.0, 3.0, name="r7"))


def test_what_it_needs():
    assert Pair().needs == frozenset()
    assert Pair(best="gold", worst="random").reads == ("prompt", "candidates", "gold|answer")
    assert Pair(best="ranking").reads == ("prompt", "candidates", "ranking")
    with pytest.raises(ValidationError, match="the right answer has no score"):
        Pair(best="gold", weigh="gap")
