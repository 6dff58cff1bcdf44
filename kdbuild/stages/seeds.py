"""Seeds: copy a source that lies outside the project (a set of the hub, a package's documentation) into a hashed output."""

from __future__ import annotations

from kdbuild import records
from kdbuild.errors import SourceError
from kdbuild.records import Row
from kdbuild.spec import layout
from kdbuild.spec.sections import SeedsSection
from kdbuild.stages.job import Job


def run(job: Job) -> None:
    """Write the seed rows as the data set `artifacts/<spec>/seeds/rows/`.

    Raises:
        SourceError: the source cannot be reached, or is not the one that was compiled.
        RowError: a row is not what it should be.
    """
    section = SeedsSection.of(job.section)
    now = section.seeds.outside() or {}
    if now != section.outside:
        told = ", ".join(f"{key} {section.outside.get(key)} -> {now.get(key)}" for key in sorted({*now, *section.outside}))
        raise SourceError(
            f"the source of {job.spec}'s seeds is not the one that was compiled: {told}",
            hint="run `kdbuild compile` to take the one that is here now, or use the environment it was compiled in",
        )
    records.write_dataset(job.out(layout.out(job.spec, "seeds", "rows")), Row, section.seeds.rows(job.root))
