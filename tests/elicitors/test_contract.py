"""What every elicitor promises: run by the real conversations, against the real store and a teacher that counts its calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdbuild import kinds, records
from kdbuild.elicitors import Elicitor, Scene, _ensemble, _reads
from kdbuild.elicitors._asking import Asking
from kdbuild.elicitors._extent import Extent
from kdbuild.errors import StageError
from kdbuild.records import Message, Row
from kdbuild.rows.conversations import Setting, Talks, start
from kdbuild.rows.store import Store
from kdbuild.teachers import Ask
from kdbuild.teachers.fake import Fake

TEACHER = Fake(num_layers=1, hidden_size=16)
KNOWN = frozenset({"prompt", "answer", *(field for field in Row.__dataclass_fields__)})
LONGEST_CONVERSATION = 400


class Vectors:
    """Vectors of texts by their letters."""

    def embed(self, texts):
        import numpy as np

        counts = np.array([[text.count(letter) + 0.01 for letter in "etaoinshrdlu"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


SCENE = Scene(Path(), gives={"teacher": TEACHER.gives, "student": TEACHER.gives}, embedder=Vectors())
SETTING = Setting(SCENE, {actor: TEACHER.answer_identity(Path()) for actor in ("teacher", "student")}, held_out_frac=0.2)
WORDS = (
    *("oak", "ash", "elm", "fir", "yew", "box", "bay", "fig", "gum", "koa", "lime", "plum"),
    *("pear", "rowan", "teak", "thorn", "holly", "hazel", "alder", "aspen", "birch", "cedar", "maple", "larch"),
)


def row(name: str, word: str) -> Row:
    """A row that has something in every field."""
    return Row(
        name,
        (
            Message("user", f"How tall does the {word} grow? 2 + 3"),
            Message("assistant", f"The {word} grows.\nIt has 5 leaves.", train=True),
        ),
        context=({"doc_id": f"d-{word}", "text": f"The {word} is a tree of the north. It is tall.", "score": None},),
        rationale=f"The {word} is tall.",
        program=f"answer = len({word!r})",
        gold="5",
        label=word,
        candidates=tuple({"text": f"{word} {i} is tall", "source": "teacher", "logprob": -1.0 * i, "score": 1.0 / i} for i in (1, 2)),
        ranking=(0, 1),
        feedback=f"Say more of the {word}.",
        scores={"overall": 3.0},
        tool={
            "name": f"measure_{word}",
            "description": f"Measure one {word}.",
            "parameters": '{"type":"object","properties":{"metres":{"type":"number"}},"required":["metres"]}',
            "returns": "number",
            "callable": "math:floor",
        },
        media={"type": "image", "path": "", "text_view": f"A picture of one {word} by a river."},
        meta={"kind": "topic", "value": word},
    )


ROWS = [row(f"r{i:02d}", word) for i, word in enumerate(WORDS)]


@pytest.fixture(params=kinds.available("elicitors"))
def elicitor(request: pytest.FixtureRequest) -> Elicitor:
    return made(request.param)


def made(kind: str) -> Elicitor:
    cls = kinds.load("elicitors", kind)
    required = {name: field.examples[0] for name, field in cls.model_fields.items() if field.is_required() and field.examples}
    return cls.model_validate({"kind": kind, **required})


def run(elicitor: Elicitor, rows: list[Row], folder: Path) -> tuple[Talks, list[Ask]]:
    """Run an operator to its end; return its conversations and the calls made."""
    calls: list[Ask] = []
    with Store.open(folder) as store, TEACHER.open(Path(), None) as session:
        talks = Talks(elicitor, sorted(rows, key=lambda row: row.id), SETTING, store, failures=False)
        questions = talks.advance()
        asks = [question.ask for question in questions]
        for index, answer in session.generate(asks):
            calls.append(questions[index].ask)
            assert len(calls) < LONGEST_CONVERSATION * len(rows)
            store.put(*questions[index].asked, answer)
            new = talks.deliver(questions[index], answer)
            questions += new
            asks += [question.ask for question in new]
        assert talks.advance() == []
    return talks, calls


def keys(talks: Talks) -> set[str]:
    return {key for key, _ in talks.answers}


def test_every_call_is_made_once_and_a_second_run_makes_none(elicitor, tmp_path):
    first, calls = run(elicitor, ROWS, tmp_path)
    again, none = run(elicitor, list(reversed(ROWS)), tmp_path)
    assert len(calls) == len(keys(first))
    assert none == []
    assert [records.as_json(row) for row in again.rows] == [records.as_json(row) for row in first.rows]
    assert again.dropped == first.dropped
    assert bool(calls) == bool(elicitor.needs)


def test_rows_made_carry_their_keys_their_parents_and_their_seeds(elicitor, tmp_path):
    talks, _ = run(elicitor, ROWS, tmp_path)
    ids = {row.id for row in ROWS}
    known = keys(talks)
    made = talks.rows
    assert made or talks.dropped
    assert len({row.id for row in made}) == len(made)
    for row in made:
        assert row.id in ids or row.roots
        assert set(records.root_of(row)) <= ids
        assert set(row.keys) <= known
    assert all(one.reason and one.by for one in talks.dropped)


def test_no_row_is_lost_without_a_reason(elicitor, tmp_path):
    talks, _ = run(elicitor, ROWS, tmp_path)
    if elicitor.pooled:
        return
    heard_of = {one.id for one in talks.dropped}
    for row in talks.rows:
        heard_of |= {row.id, *row.parents, *records.root_of(row)}
    assert {row.id for row in ROWS} <= heard_of


def test_a_changed_row_asks_again_exactly_what_shows_it(elicitor, tmp_path):
    before, _ = run(elicitor, ROWS, tmp_path)
    edited = replace(row(ROWS[5].id, "juniper"), gold="7")
    after, calls = run(elicitor, [edited if one.id == edited.id else one for one in ROWS], tmp_path)
    assert len(calls) == len(keys(after) - keys(before))
    if not elicitor.pooled:
        others = {key for talk in after.talks if talk.rows[0].id != edited.id for key, _ in talk.used}
        assert others <= keys(before)
        own = next(talk for talk in after.talks if talk.rows[0].id == edited.id)
        assert len(calls) <= len(own.used)
        assert bool(calls) == bool(elicitor.needs)
        return
    shown = [_first_questions(elicitor, rows) for rows in (ROWS, [edited if one.id == edited.id else one for one in ROWS])]
    new = shown[1].keys() - shown[0].keys()
    gone = shown[0].keys() - shown[1].keys()
    assert all("juniper" in text for text in new)
    assert all(WORDS[5] in text for text in gone)


def _first_questions(elicitor: Elicitor, rows: list[Row]) -> dict[str, None]:
    """Texts of the questions that a pooled operator starts with, both sides together."""
    found: dict[str, None] = {}
    for subject, scene in SETTING.subjects(elicitor, rows):
        talk = elicitor.gather(subject, scene)
        try:
            found.update(dict.fromkeys("\n".join(m.content for m in ask.messages) for ask in next(talk)))
        except StopIteration:
            continue
        talk.close()
    return found


def test_an_empty_answer_makes_no_row_of_its_own(elicitor, drive):
    driven = drive(elicitor, ROWS[:3], lambda ask: " " if not ask.choices and ask.reading is None else "", SCENE)
    if not elicitor.needs or not isinstance(elicitor, Asking):
        return
    fresh = [row for row in driven.rows if row.keys]
    answered = [row for row in fresh if not (row.answer or "").strip() and row.answer is not None]
    assert answered == []


def test_asks_once_is_true(elicitor, tmp_path, drive):
    driven = drive(elicitor, ROWS[:1], lambda ask: "", SCENE) if elicitor.needs and not any_signal(elicitor) else None
    if elicitor.asks_once and driven is not None and not elicitor.pooled:
        assert len(driven.rounds) <= 1


def any_signal(elicitor: Elicitor) -> bool:
    """Whether its questions cannot be answered by hand."""
    return elicitor.makes_features


def test_what_it_reads_and_writes_are_fields_of_a_row(elicitor):
    assert {one.partition(".")[0] for name in elicitor.reads for one in name.split("|")} <= KNOWN
    assert set(elicitor.writes) <= KNOWN


def test_what_it_says_it_writes_is_there(elicitor, tmp_path):
    talks, _ = run(elicitor, ROWS, tmp_path)
    for name in elicitor.writes if talks.rows else ():
        assert any(_has(row, name) for row in talks.rows), name


def test_it_says_everything_it_writes(elicitor, tmp_path):
    """Of rows that have what it reads alone: `check` refuses later operators by what this one says."""
    read = {one.partition(".")[0] for name in elicitor.reads for one in name.split("|")} - {"prompt", "answer"}
    kept = {"id", "messages", *read}
    bare = [Row(**{name: getattr(row, name) for name in kept}) for row in ROWS]
    talks, _ = run(elicitor, bare, tmp_path)
    said = {"prompt", "meta", *elicitor.writes, *(_reads.had_by(bare) if elicitor.keeps else ())}
    assert {name.partition(".")[0] for name in _reads.had_by(talks.rows)} <= said


def test_rows_without_what_it_reads_are_refused_before_a_question(elicitor, tmp_path):
    for name in elicitor.reads:
        single = {one.partition(".")[0] for one in name.split("|")}
        messages = () if "prompt" in single else ROWS[0].prompt if "answer" in single else ROWS[0].messages
        empty = {one: getattr(Row(""), one) for one in single - {"prompt", "answer"}}
        lacking = [replace(row, messages=messages, **empty) for row in ROWS]
        with Store.open(tmp_path) as store, pytest.raises(StageError) as caught:
            start(elicitor, lacking, SETTING, store, allowed_failures=0)
        first = f"operator `{elicitor.kind}` reads {_reads.shown(name)}, which 24 of 24 rows lack (the first: row `r00`)"
        assert caught.value.message == first


def _has(row: Row, name: str) -> bool:
    if name == "prompt":
        return bool(row.prompt)
    return bool(row.answer) if name == "answer" else bool(getattr(row, name))


def test_packaged_templates_are_there_and_none_is_left_over(elicitor):
    assert all(path.is_file() for path in elicitor.templates())
    folder = Path(kinds.__file__).parent / "elicitors" / f"_{elicitor.kind.replace('-', '_')}"
    used = {path.name for path in elicitor.templates()}
    assert not folder.is_dir() or used <= {path.name for path in folder.iterdir()}


def test_identity_reads_back(elicitor):
    assert kinds.parse("elicitors", elicitor.identity()) == elicitor


def test_it_names_the_block_it_implements(elicitor):
    assert elicitor.block is not None
    assert elicitor.block.split(".")[0] in ("gen", "op")


def test_no_more_is_asked_and_made_than_it_promises(elicitor, tmp_path):
    talks, calls = run(elicitor, ROWS, tmp_path)
    most = _ensemble.most(elicitor, Extent.of(ROWS))
    assert most.asks is None or len(calls) <= most.asks
    assert most.rows is None or len(talks.rows) <= most.rows
    assert most.candidates is None or all(len(row.candidates) <= most.candidates for row in talks.rows)
    assert most.asks == 0 if not elicitor.needs else most.asks != 0
