"""Seeds from meta-information: topics, labels, entities, triples, function names, personas, knowledge points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild.errors import RowError
from kdbuild.kinds import nearest
from kdbuild.records import Row
from kdbuild.seeds import Seeds
from kdbuild.seeds._fields import attributes, shown, text
from kdbuild.seeds._files import READERS, Place, Record, read_records
from kdbuild.seeds._lines import read_lines
from kdbuild.seeds._rows import named, own_id
from kdbuild.seeds._yaml import place_of, read_yaml
from kdbuild.spec.sources import check_path

YAML_SUFFIXES, TEXT_SUFFIXES = (".yaml", ".yml"), (".txt",)


def check_topics(path: str) -> str:
    """Return the path of a file of topics inside the project."""
    path = check_path(path)
    if Path(path).suffix.lower() not in (*YAML_SUFFIXES, *TEXT_SUFFIXES, *READERS):
        raise PydanticCustomError(
            "topics_format",
            "`{path}` is not a .yaml, .txt, .csv, .jsonl, .json or .parquet file",
            {"path": path, "hint": "a text file has one topic a line"},
        )
    return path


class Topics(Seeds):
    """One row for each entry, with nothing but its `meta`: `kind` (what it is), `value` (which one), and its other columns.

    An entry is a text or an object with a `value`; a YAML file holds a list of them, or lists by kind (`label: [good, bad]`).
    """

    block: ClassVar[str | None] = "seed.meta"

    kind: Literal["topics"] = "topics"
    topics: list[str] = []
    """The entries themselves, where they are few."""
    path: Annotated[str, AfterValidator(check_topics)] | None = None
    """A file of the project: YAML, text (one a line), CSV, JSONL, JSON or Parquet."""
    means: str = Field("topic", min_length=1)
    """What an entry is, where it does not say so itself (`kind`): `topic`, `label`, `entity`, `triple`, `function`, `persona`."""
    columns: list[str] = []
    """Columns that make the `value`, joined by ` | ` (a triple's head, relation and tail); absent: `value`, or the one of `means`."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.topics) == (self.path is not None):
            raise PydanticCustomError("topics_place", "topics stand in `topics` (a list) or in the file `path`")
        return self

    @property
    def writes(self) -> tuple[str, ...]:
        """Return `meta`."""
        return ("meta",)

    def files(self) -> tuple[str, ...]:
        """Return the file, where there is one."""
        return () if self.path is None else (self.path,)

    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the rows in the order of the entries."""
        entries = self._read(root, self.path) if self.path is not None else ((f"topics[{i}]", text) for i, text in enumerate(self.topics))
        return named((place, self._row(entry, place)) for place, entry in entries)

    def _read(self, root: Path, path: str) -> Iterator[tuple[Place, Any]]:
        suffix = Path(path).suffix.lower()
        if suffix in READERS:
            return read_records(root / path, path)
        found = list(_of_yaml(root / path, path) if suffix in YAML_SUFFIXES else read_lines(root / path, path))
        if not found:
            raise RowError(f"{path} holds no rows", hint="a text file has one topic a line, a YAML file a list of them")
        return iter(found)

    def _row(self, entry: Any, place: Place) -> Row:
        record: Record = entry if isinstance(entry, dict) else {"value": "" if entry is None else text(entry, place, "value")}
        texts = attributes({name: value for name, value in record.items() if name != "id"}, place, "")
        names = self.columns or [next((name for name in ("value", self.means) if name in texts), "value")]
        if missing := [name for name in names if not texts.get(name, "").strip()]:
            near = nearest(missing[0], list(texts))
            hint = (f"did you mean `{near}`? " if near else "") + "a topic has a `value`; `columns:` names others that make it"
            raise RowError(f"{place} has no `{missing[0]}`: {shown(record)}", hint=hint)
        value = " | ".join(texts[name] for name in names)
        others = {name: text for name, text in texts.items() if self.columns or name not in names}
        return Row(own_id(record.get("id"), place), meta={"kind": self.means, **others, "value": value})


def _of_yaml(path: Path, name: str) -> Iterable[tuple[Place, Any]]:
    value, lines = read_yaml(path, name)
    if isinstance(value, list):
        yield from ((place_of(name, lines, i), item) for i, item in enumerate(value))
        return
    if not isinstance(value, dict):
        raise RowError(f"{name} holds no rows", hint="a YAML file of topics holds a list, or lists by kind")
    for means, items in value.items():
        if not isinstance(items, list):
            raise RowError(f"{place_of(name, lines, means)}: `{means}` is not a list", hint=f"`{means}: [..., ...]`")
        for i, item in enumerate(items):
            yield place_of(name, lines, means, i), {"kind": means, **(item if isinstance(item, dict) else {"value": item})}
