"""Report: report.html and the cards, from what the other stages wrote."""

from __future__ import annotations

from kdbuild import records
from kdbuild.report import cards, page
from kdbuild.report.story import gather
from kdbuild.spec import layout
from kdbuild.stages.job import Job


def run(job: Job) -> None:
    """Write report.html and `evaluate/cards/`.

    Raises:
        ArtifactError: an input is missing or torn.
    """
    story = gather(job)
    job.file(layout.report(job.spec)).write_text(page.render(story), encoding="utf-8")
    folder = job.out(layout.out(job.spec, "evaluate", "cards"))
    for name, text in cards.render(story).items():
        (folder / name).mkdir()
        (folder / name / "README.md").write_text(text, encoding="utf-8")
    records.write_manifest(folder, {"record": "Cards"})
