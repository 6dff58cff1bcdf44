"""Seeds from a data set: a file of the project, or a set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdbuild import canonical
from kdbuild.errors import SourceError
from kdbuild.records import Row
from kdbuild.seeds import Seeds
from kdbuild.seeds._fields import Columns
from kdbuild.seeds._files import READERS, Place, Record, read_records
from kdbuild.seeds._rows import ANSWERS, PROMPTS, named, to_row
from kdbuild.spec.sources import check_path


def check_file(path: str) -> str:
    """Return the path of a seed file inside the project, of a format that is read."""
    path = check_path(path)
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise PydanticCustomError(
            "dataset_format", "`{path}` is not a .jsonl, .json, .parquet or .csv file", {"path": path, "hint": "convert it to JSONL"}
        )
    return path


class Dataset(Seeds):
    """Rows that exist already: prompts, conversations, or questions with answers.

    A file (JSONL, a JSON list, Parquet or CSV) is read where it lies; a set of the hub is copied once. By default the prompt of a row is
    its `messages`, `prompt` or `instruction` (with `input`), its known answer `answer`, `output` or `gold`, and its name `id`. What
    else the rows have is read from columns of these names: `context` (a text, passages), `label`, `rationale`, `program`,
    `candidates`, `feedback`, `chosen`, `rejected`, `tool`, `media` and `meta`. A row without a prompt has one of `context`, `tool`,
    `media` and `meta` to ask about.
    """

    kind_revision: ClassVar[int] = 3
    block: ClassVar[str | None] = "seed.dataset"

    kind: Literal["dataset"] = "dataset"
    path: Annotated[str, AfterValidator(check_file)] | None = None
    """A file of the project: .jsonl, .json, .parquet or .csv."""
    hf: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?$")
    """A data set of the Hugging Face hub, `org/name`."""
    revision: str | None = None
    """With `hf`: the commit, tag or branch. A commit cannot change under you."""
    subset: str | None = None
    """With `hf`: the subset, where the set has several."""
    split: str | None = None
    """With `hf`: the split, `train` where absent; also a slice, as `train[:1000]`."""
    prompt: str | None = None
    """Column that holds the prompt (a text or a list of turns), where it has another name."""
    answer: str | None = None
    """Column that holds the known answer, where it has another name."""
    columns: Columns = Columns()
    """The other columns, where they have another name (`{context: passage}`); null: not read, though a column has that name."""
    learn_answer: bool = False
    """Whether the known answer is the turn the student learns, as if a teacher had given it; every row then has one. Where a row also has
    a column `gold`, that is the right answer, which scorers compare with."""
    limit: int | None = Field(None, ge=1)
    """At most so many rows, drawn by their ids, so that the order of the file does not matter."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hf is None):
            raise PydanticCustomError("dataset_place", "a data set has either a `path` (a file of the project) or an `hf` (org/name)")
        given = [name for name in ("revision", "subset", "split") if getattr(self, name) is not None]
        if self.path is not None and given:
            raise PydanticCustomError("dataset_hub_only", "`{given}` goes with `hf`, not with `path`", {"given": given[0]})
        if self.hf is not None and not self.revision:
            raise PydanticCustomError(
                "dataset_revision",
                "`hf: {hf}` needs a `revision`: without one the set could change and nothing would notice",
                {"hf": self.hf, "hint": "the commit stands on the set's page under `Files and versions`"},
            )
        return self

    @property
    def writes(self) -> tuple[str, ...]:
        """Whatever the data holds."""
        return ("*",)

    def files(self) -> tuple[str, ...]:
        """Return the file, where it is one of the project."""
        return () if self.path is None else (self.path,)

    def outside(self) -> dict[str, Any] | None:
        """Return name and revision of a set of the hub; the hub is not asked."""
        return None if self.hf is None else {"dataset": self.hf, "revision": self.revision}

    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the rows, in file order or, with `limit`, in the order they were drawn."""
        found = read_records(root / self.path, self.path) if self.path is not None else self._hub_records()
        rows = named(
            (place, to_row(record, place, self.prompt, self.answer, self.columns, learn=self.learn_answer)) for place, record in found
        )
        if self.limit is not None:
            return iter(sorted(rows, key=lambda row: canonical.fraction("limit", row.id))[: self.limit])
        return rows

    def _hub_records(self) -> Iterator[tuple[Place, Record]]:
        import datasets

        name, split = str(self.hf), self.split or "train"
        if Path(name).exists():
            # `load_dataset` prefers a folder of that name, of which the revision says nothing.
            raise SourceError(f"a folder `{name}` lies here and would be read instead of the hub's set", hint="rename it, or use `path:`")
        try:
            table = datasets.load_dataset(name, self.subset, split=split, revision=self.revision)
        except Exception as error:  # a network, a cache and foreign files: each fails in its own way
            raise SourceError(
                f"could not read {split} of {name}@{self.revision} from the hub: {type(error).__name__}: {error}",
                hint="check the name, `revision`, `subset` and `split`; HF_ENDPOINT names a mirror, HF_HOME the cache. Without a network, "
                "put the rows into a file of the project and name it as `path:`",
            ) from error
        yield from self._of_columns(table, name)

    def _of_columns(self, table: Any, name: str) -> Iterator[tuple[Place, Record]]:
        others = dict(self.columns)
        used = {"id", *PROMPTS, "input", *ANSWERS, self.prompt, self.answer, *others.values()}
        columns = [column for column in table.column_names if column in used]
        named_here = (self.prompt, self.answer, *(column for name, column in others.items() if column != name))
        if missing := [column for column in named_here if column is not None and column not in columns]:
            raise SourceError(f"{name} has no column `{missing[0]}`", hint=f"columns: {', '.join(table.column_names)}")
        if not len(table):
            raise SourceError(f"{name} has no rows in this split")
        # Only what is read: decoding the images or sounds of other columns takes time, and packages.
        for number, record in enumerate(table.select_columns(columns), 1):
            yield f"{name}, row {number}", record
