"""`kdbuild stage`: what every stage of dvc.yaml runs."""

from __future__ import annotations

import click

from kdbuild.cli import project_root
from kdbuild.cli._dvc import running
from kdbuild.errors import StageError


@click.command("stage", help="Run one step of one spec, as dvc.yaml does.")
@click.argument("step")
@click.argument("spec")
@click.argument("phase", required=False)
def command(step: str, spec: str, phase: str | None) -> None:
    """Run one step."""
    from kdbuild.compile.stages import Stage

    with running(Stage(spec, step, phase).name):
        _run(step, spec, phase)


def _run(step: str, spec: str, phase: str | None) -> None:
    from kdbuild.compile import write

    root = project_root()
    write.refuse_edited(root)
    if step in ("structure", "compile"):
        _compile(step, spec)
        return
    from kdbuild.stages import runner

    runner.run(root, step, spec, phase)


def _compile(step: str, spec: str) -> None:
    from kdbuild.compile import project, write
    from kdbuild.spec import layout

    root = project_root()
    found = project.load(root, tolerant=True)
    if step == "structure":
        write.refuse_other_shape(found)
        write.write_atomically(root / layout.STRUCTURE, write.generated(found)[layout.STRUCTURE])
        return
    if spec in found.broken:
        raise found.broken[spec]
    if spec != "models" and spec not in found.specs:
        raise StageError(f"specs/{spec}.yaml is not there", hint="run `kdbuild compile` if you took it away")
    write.refuse_other_shape(found, only=spec)
    write.write_resolved(found, layout.MODELS if spec == "models" else layout.resolved(spec))
