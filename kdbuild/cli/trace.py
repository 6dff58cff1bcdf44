"""`kdbuild trace`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbuild.cli import params_of, project_root
from kdbuild.errors import KdbuildError, SpecError

if TYPE_CHECKING:
    from kdbuild.records import Call, Dropped, Row
    from kdbuild.rows.rejected import Stored
    from kdbuild.rows.store import Store
    from kdbuild.teachers import Ask

_SHOWN_CHARACTERS = 400
_MOST_ROWS = 20
_MOST_NAMES = 20_000
"""Among more row ids than this a misspelt one is not looked for."""


@click.command("trace", help="Say where a row came from, what each step said of it, and who trains on it.")
@click.argument("row", metavar="ROW")
@click.option("--spec", metavar="SPEC", help="Only this spec; else every spec that knows the row.")
def command(*, row: str, spec: str | None) -> None:
    """Print what was built of a row: seed, questions and answers, each step of its selection, and what is trained on it."""
    from kdbuild.rows import place
    from kdbuild.rows.store import Store
    from kdbuild.spec.source import no_such

    root = project_root()
    built = _built(root)
    if spec is not None and spec not in built:
        raise SpecError(no_such("compiled spec", spec, built), hint=f"there are: {', '.join(built) or 'none; run `kdbuild compile`'}")
    with Store.open(place.store_dir(root, params_of(root).runtime.rows_dir), read_only=True) as store:
        traces = [_Trace(root, name, built, row, store) for name in built if spec in (None, name)]
        found = [trace for trace in traces if trace.knows]
        if not found:
            raise _unknown(row, traces)
        for trace in found:
            for line in trace.lines():
                click.echo(line)


def _built(root: Path) -> dict[str, dict[str, Any]]:
    """Return each spec's resolved.json, by name."""
    from kdbuild.spec import layout

    files = sorted((root / layout.ARTIFACTS).glob("*/resolved.json"))
    return {file.parent.name: _json(file) for file in files if file.parent.name != "models"}


def _json(file: Path) -> dict[str, Any]:
    from kdbuild.errors import ArtifactError

    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise ArtifactError(f"{file} cannot be read", hint="`kdbuild compile` or `dvc repro` writes it") from None


def _unknown(row: str, traces: Iterable[_Trace]) -> SpecError:
    """Return the error for a row that no spec knows: the rows made of it where it is a seed, else the one that was probably meant."""
    from kdbuild.spec.source import no_such

    roots = {name: seeds for trace in traces for name, seeds in trace.roots().items()}
    made = sorted(name for name, seeds in roots.items() if row in seeds)
    if made:
        more = f" and {len(made) - _MOST_ROWS} more" if len(made) > _MOST_ROWS else ""
        return SpecError(f"`{row}` is a seed: name a row that was made of it", hint=f"{', '.join(made[:_MOST_ROWS])}{more}")
    if not roots:
        return SpecError(f"no row named `{row}`: nothing is built here", hint="`kdbuild build` builds it, `dvc pull` fetches it")
    return SpecError(
        no_such("row", row, roots if len(roots) <= _MOST_NAMES else ()), hint="`kdbuild rows list STAGE` lists the rows of a stage"
    )


@dataclass
class _Phase:
    """What one phase has of a row."""

    name: str
    sections: Mapping[str, Any]
    """Step to its section of resolved.json."""
    elicited: Row | None
    selected: Row | None
    dropped: list[Dropped]
    """What became of it instead; of an answer that was rejected, too."""
    calls: list[Call]
    judged: list[Call]
    """Answers of its scorers."""
    scores: dict[str, float]
    steps: list[Mapping[str, Any]]
    """The steps of its selection, from select.json."""

    @property
    def knows(self) -> bool:
        return bool(self.elicited or self.selected or self.dropped)


@dataclass
class _Trace:
    """One row in one spec."""

    root: Path
    spec: str
    built: Mapping[str, Mapping[str, Any]]
    row: str
    store: Store
    _stored: dict[str, Stored | None] = field(default_factory=dict)
    """Phase to what its operators make of the stored answers."""

    @cached_property
    def phases(self) -> list[_Phase]:
        """What each phase has of it, in the spec's order."""
        sections = self.built[self.spec]
        # A stage of a phase is a section inside the phase's; every other section is a stage's own.
        return [self._phase(name, steps) for name, steps in sections.items() if isinstance(steps, dict) and "_key" not in steps]

    @property
    def knows(self) -> bool:
        """Whether any phase has the row."""
        return any(phase.knows for phase in self.phases)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _folder(self, phase: str, name: str) -> Path:
        from kdbuild.spec import layout

        return self.root / layout.out(self.spec, phase, name)

    def _read(self, folder: Path, record: type, **any_of: Iterable[str]) -> list[Any]:
        from kdbuild import records

        if not (folder / records.MANIFEST).is_file():
            return []
        return records.read_dataset(folder, record, any_of={column: set(values) for column, values in any_of.items()})

    def _phase(self, name: str, sections: Mapping[str, Any]) -> _Phase:
        from kdbuild import records
        from kdbuild.records import Call, Dropped, Row, Scored
        from kdbuild.spec import layout

        mine = [self.row]
        elicited = next(iter(self._read(self._folder(name, "elicited"), Row, id=mine)), None)
        gone = self._folder(name, "dropped")
        # Where the phase is not selected yet, or does not select, what elicitation rejected lies with its rows.
        dropped = gone if gone.is_dir() else self._folder(name, "elicited") / records.REJECTED
        facts = self.root / layout.facts(self.spec, name, "select")
        return _Phase(
            name=name,
            sections=sections,
            elicited=elicited,
            selected=next(iter(self._read(self._folder(name, "selected"), Row, id=mine)), None),
            dropped=self._read(dropped, Dropped, id=mine),
            calls=self._read(self._folder(name, "calls"), Call, id=mine, key=elicited.keys if elicited else ()),
            judged=self._read(gone / records.JUDGED, Call, id=mine),
            scores={one.name: one.value for one in self._read(gone / records.SCORES, Scored, id=mine)},
            steps=_json(facts).get("steps", []) if facts.is_file() else [],
        )

    def roots(self) -> dict[str, list[str]]:
        """Return the ids of all rows of the spec, and the seeds that they descend from."""
        found: dict[str, list[str]] = {}
        for phase in self.phases:
            found |= {name: [] for name, _ in self._columns(phase.name, "dropped", "id")}
            found |= {name: seeds or [] for name, seeds in self._columns(phase.name, "elicited", "id", "roots")}
            found |= {name: seeds or [] for name, seeds in self._columns(phase.name, "selected", "id", "roots")}
        return found

    def _columns(self, phase: str, name: str, *columns: str) -> Iterator[tuple[Any, Any]]:
        import pyarrow.parquet as pq

        for file in sorted(self._folder(phase, name).glob("*.parquet")):
            for line in pq.read_table(file, columns=list(columns)).to_pylist():
                yield line["id"], line.get("roots")

    # --- telling -----------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Yield what is known, a line each."""
        yield f"row {_plain(self.row)} in {self.spec}"
        yield from self._origin()
        for phase in self.phases:
            if phase.knows:
                yield f"  phase {phase.name}"
                yield from self._elicited(phase)
                yield from self._selected(phase)
        yield from self._use()

    def _origin(self) -> Iterator[str]:
        from kdbuild.records import root_of

        row = next((phase.elicited or phase.selected for phase in self.phases if phase.elicited or phase.selected), None)
        roots = root_of(row) if row else (self.row,)
        parents = [name for name in row.parents if name != row.id] if row else []
        texts = {one.id: one for one in self._ancestors({*parents, *roots})}
        for name in [*parents, *(root for root in roots if root not in parents)]:
            text = f": {_said(texts[name].prompt)}" if name in texts else ""
            if text or name != self.row:
                yield f"  {'seed' if name in roots else 'made of'} {_plain(name)}{text}"

    def _ancestors(self, names: set[str]) -> Iterator[Row]:
        """Yield rows by id, from the seeds and from what phases made."""
        from kdbuild.records import Row

        for phase in reversed(self.phases):
            yield from self._read(self._folder(phase.name, "elicited"), Row, id=names)
        for phase in self.phases:
            if "elicit" in phase.sections:
                yield from (row for row in self._seeds(phase.sections["elicit"]) if row.id in names)

    def _seeds(self, section: Mapping[str, Any]) -> list[Row]:
        from kdbuild import records
        from kdbuild.spec.sections import ElicitSection

        try:
            read = ElicitSection.of(section)
            return list(read.seeds.rows(self.root)) if read.seeds else records.read_dataset(self.root / read.rows, records.Row)
        except KdbuildError:
            return []  # they were moved since: what was made of them is told all the same

    def _elicited(self, phase: _Phase) -> Iterator[str]:
        from kdbuild.kinds import available

        operators = [one["kind"] for one in phase.sections.get("elicit", {}).get("operators", ())]
        asked = self._questions(phase) if phase.calls else {}

        def place(call: Call) -> int:
            kind = asked[call.key][0] if call.key in asked else ""
            return operators.index(kind) if kind in operators else len(operators)

        for call in sorted(phase.calls, key=place):
            yield from self._call(operators, call, *asked.get(call.key, (None, None)))
        for gone in phase.dropped:
            if gone.by in available("elicitors"):
                yield f"    elicit: rejected by {gone.by}: {_plain(gone.reason)}: {_plain(gone.text)}"

    def _call(self, operators: list[str], call: Call, operator: str | None, ask: Ask | None) -> Iterator[str]:
        from kdbuild.rows.answers import decode

        answer = decode(call.answer)
        who = operator or (operators[0] if len(operators) == 1 else f"one of {', '.join(operators)}")
        cost = f"{answer.num_prompt_tokens:,} prompt and {answer.num_new_tokens:,} answer tokens{self._paid([call])}"
        yield f"    elicit: {who} asked{f' {ask.to}' if ask else ''}, key {call.key[:16]}, {cost}"
        if ask is not None:
            yield f"      question: {_said(ask.messages)}"
            yield from (f"      given answer: {_plain(choice)}" for choice in ask.choices[:_MOST_ROWS])
        yield f"      answer: {_plain(answer.text) if answer.failed is None else f'failed: {_plain(answer.failed)}'}"

    def _questions(self, phase: _Phase) -> dict[str, tuple[str, Ask]]:
        """Return the questions that the specs as they are now ask, by key; an answer that was asked for otherwise has none."""
        if phase.name not in self._stored:
            self._stored[phase.name] = self._look(phase)
        found = self._stored[phase.name]
        return found.questions if found else {}

    def _look(self, phase: _Phase) -> Stored | None:
        from kdbuild.cli._stored import look_at
        from kdbuild.spec import layout

        try:
            return look_at(self.root, layout.stage_name(self.spec, "elicit", phase.name), self.store)
        except KdbuildError as error:
            click.echo(f"questions of {self.spec} {phase.name} are not shown: {str(error).splitlines()[0]}", err=True)
            return None

    def _selected(self, phase: _Phase) -> Iterator[str]:
        from kdbuild.kinds import available

        gone = next((one for one in phase.dropped if one.by not in available("elicitors")), None)
        if gone is None and phase.selected is None:
            return
        if phase.selected is not None and phase.selected.held_out:
            yield "    select: held out: by its seeds' ids; no selector compares it"
        else:
            yield from self._steps(phase, gone)
        if phase.judged:
            from kdbuild.rows.answers import decode

            answers = [decode(call.answer) for call in phase.judged]
            tokens = sum(one.num_prompt_tokens for one in answers), sum(one.num_new_tokens for one in answers)
            cost = f"{tokens[0]:,} prompt and {tokens[1]:,} answer tokens{self._paid(phase.judged)}"
            yield f"    scorers asked {len(answers):,} {'time' if len(answers) == 1 else 'times'}: {cost}"

    def _paid(self, calls: Iterable[Call]) -> str:
        """Return what answers cost in money; answers that came with pulled outputs were paid for elsewhere, which is not known here."""
        taken = self.store.taken_by(call.key for call in calls)
        return f", ${taken.usd:.4f}" if taken.num_calls else ""

    def _steps(self, phase: _Phase, gone: Dropped | None) -> Iterator[str]:
        """Yield what each step said, up to the one that dropped the row; of several of that kind the first stands for them all."""
        told: set[str] = set()
        for step in phase.steps:
            if gone is not None and step["kind"] == gone.by:
                break
            if step["kind"] == "select":
                continue  # it only leaves out what has no answer
            values = {name: value for name, value in phase.scores.items() if name.split("[")[0] in step.get("scores", ())}
            told |= values.keys()
            yield f"    select: {step['kind']}: {_numbers(values) or 'went on'}"
        if rest := {name: value for name, value in phase.scores.items() if name not in told}:
            yield f"    select: its scores: {_numbers(rest)}"
        if gone is not None:
            score = f", score {gone.score:g}" if gone.score is not None else ""
            yield f"    select: {gone.by}: dropped: {_plain(gone.reason)}{score}"
            if gone.because_of is not None:
                yield f"      lost to {_plain(gone.because_of)}: {self._text_of(phase, gone.because_of)}"

    def _text_of(self, phase: _Phase, name: str) -> str:
        """Return what a row lost to: a row that is kept, one that a later step dropped, or what lies beside the dropped rows."""
        from kdbuild import records
        from kdbuild.records import Dropped, Matched, Row

        gone = self._folder(phase.name, "dropped")
        for row in self._read(self._folder(phase.name, "selected"), Row, id=[name]):
            return _said(row.messages)
        for other in self._read(gone, Dropped, id=[name]):
            return f"{_plain(other.text)} (dropped later by {other.by}: {_plain(other.reason)})"
        found = self._read(gone / records.MATCHED, Matched, id=[name])
        return _plain(found[0].text) if found else "(in another data set)"

    def _use(self) -> Iterator[str]:
        from kdbuild.spec import layout

        kept = [phase for phase in self.phases if phase.selected is not None]
        held_out = any(phase.selected and phase.selected.held_out for phase in kept)
        paths = {layout.out(self.spec, phase.name, "selected") for phase in kept}
        users = [
            f"{user}{'' if (self.root / made).is_file() else ' (not built yet)'}"
            for spec in self.built
            for user, made, read in (self._examined(spec) if held_out else self._trained(spec))
            if paths & set(read)
        ]
        yield f"  {'held out, used' if held_out else 'trained on'} by {', '.join(users) or 'nothing'}"

    def _trained(self, spec: str) -> Iterator[tuple[str, str, list[str]]]:
        """Yield (who, the file that says it is done, the data sets it reads) of what trains."""
        from kdbuild.spec import layout

        for name, steps in self.built[spec].items():
            if isinstance(steps, dict) and isinstance(steps.get("train"), dict):
                yield f"{spec} {name}", layout.facts(spec, name, "train"), steps["train"]["data"]

    def _examined(self, spec: str) -> Iterator[tuple[str, str, list[str]]]:
        from kdbuild.spec import layout

        if "evaluate" in self.built[spec]:
            yield f"the evaluation of {spec}", layout.metrics(spec), self.built[spec]["evaluate"]["rows"]


# --- texts -----------------------------------------------------------------------------------------------------------


def _said(messages: Iterable[Any]) -> str:
    return _plain(" / ".join(f"{message.role}: {message.content}" for message in messages))


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{_plain(name)} {value:g}" for name, value in sorted(values.items()))


def _plain(text: str) -> str:
    """Return a text on one line, without what would move the cursor."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"
