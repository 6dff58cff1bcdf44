"""Seeds from images, sounds and other things that are no text: a manifest gives each a text view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from kdbuild import records
from kdbuild.errors import KdbuildError, RowError
from kdbuild.inside import inside
from kdbuild.records import Row
from kdbuild.seeds import Seeds
from kdbuild.seeds._fields import MEDIA, attributes, path_inside, text
from kdbuild.seeds._files import Place, Record, read_records
from kdbuild.seeds._rows import named, own_id
from kdbuild.spec.sources import check_path


def check_manifest(path: str) -> str:
    """Return the path of a manifest inside the project."""
    path = check_path(path)
    if not path.lower().endswith(".jsonl"):
        raise PydanticCustomError("media_manifest", "`{path}` is not a .jsonl file", {"path": path, "hint": "one object a line"})
    return path


class Media(Seeds):
    """One row for each object of a JSONL manifest: `type`, `text_view` (a caption, boxes, OCR, a SMILES string), and its file.

    Teachers are shown the text view. A `path` is relative to `folder`, whose content makes the build stale; what stands for the file in
    the row's id is its content. `meta` and `id` may be given; other columns are not read.
    """

    block: ClassVar[str | None] = "seed.media"

    kind: Literal["media"] = "media"
    path: Annotated[str, AfterValidator(check_manifest)]
    """The manifest, a JSONL file of the project."""
    folder: Annotated[str, AfterValidator(check_path)] | None = None
    """Folder of the project where the files lie; absent: the objects have no files."""

    @property
    def writes(self) -> tuple[str, ...]:
        """Return `media`, and `meta` where it is given."""
        return ("media", "meta")

    def files(self) -> tuple[str, ...]:
        """Return the manifest and the folder of the files."""
        return (self.path, *([self.folder] if self.folder else []))

    def rows(self, root: Path) -> Iterator[Row]:
        """Yield the rows in the order of the manifest."""
        digests: dict[str, str] = {}

        def content(row: Row) -> dict[str, Any]:
            path = (row.media or {}).get("path", "")
            if path and not row.id and path not in digests:
                digests[path] = records.sha256_of(root / path)
            return {"media": {**(row.media or {}), "path": digests.get(path, path)}, "meta": row.meta}

        return named(((place, self._row(record, place, root)) for place, record in read_records(root / self.path, self.path)), content)

    def _row(self, record: Record, place: Place, root: Path) -> Row:
        for name in ("type", "text_view"):
            if not isinstance(record.get(name), str) or not record[name].strip():
                raise RowError(
                    f"{place} has no `{name}`", hint='each line is {"type": "image", "path": "a.png", "text_view": "A red bus."}'
                )
        media = {name: text(record[name], place, name) for name in MEDIA if record.get(name) is not None}
        if "path" in media:
            media["path"] = self._file(media["path"], place, root)
        meta = attributes(record["meta"], place, "meta") if record.get("meta") is not None else {}
        return Row(own_id(record.get("id"), place), media=media, meta=meta)

    def _file(self, path: str, place: Place, root: Path) -> str:
        if self.folder is None:
            raise RowError(f"{place} has a `path`, and the spec does not say in which folder", hint="add `folder:` to the seeds")
        found = f"{self.folder}/{path_inside(path, place, 'path')}"
        try:
            inside(root / self.folder, path_inside(path, place, "path"))
            is_file = inside(root, found).is_file()
        except KdbuildError as error:
            raise RowError(f"{place}: {error.message}", hint=f"the file of a `path` lies in {self.folder}") from None
        if not is_file:
            raise RowError(f"{place}: `{found}` is not a file")
        return found
