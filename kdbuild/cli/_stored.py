"""What the stored answers of a stage come to, for the commands that show them or take them back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdbuild.errors import SpecError

if TYPE_CHECKING:
    from kdbuild.rows.rejected import Stored
    from kdbuild.rows.store import Store


def look_at(root: Path, name: str, store: Store) -> Stored:
    """Return what the operators of an elicit stage make of the stored answers, as the specs are now.

    Raises:
        SpecError: there is no elicit stage of this name, or its spec cannot be built.
        ArtifactError: the rows it reads are not there.
    """
    from kdbuild import records
    from kdbuild.compile import project
    from kdbuild.rows.rejected import look
    from kdbuild.spec.sections import ElicitSection
    from kdbuild.spec.source import no_such

    found = project.load(root, tolerant=True)
    asking = {stage.name: stage for stage in found.stages if stage.step == "elicit"}
    if name not in asking:
        broken = next((error for spec, error in found.broken.items() if name.startswith(f"{spec}_")), None)
        raise broken or SpecError(no_such("elicit stage", name, asking), hint=f"there are: {', '.join(asking) or 'none'}")
    section = ElicitSection.of(asking[name].section)
    given = section.seeds.rows(root) if section.seeds is not None else records.read_dataset(root / section.rows, records.Row)
    return look(section, sorted(given, key=lambda row: row.id), store, root)
