"""`kdbuild check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from kdbuild.cli import project_root

if TYPE_CHECKING:
    from kdbuild.spec.model import Spec


@click.command("check", help="Say what is wrong with specs and params.yaml.")
@click.argument("spec", nargs=-1)
def command(*, spec: tuple[str, ...]) -> None:
    """Check the named specs (names or paths), or all; exit with 1 if anything cannot be built."""
    from kdbuild.compile.review import review

    root = project_root()
    found = review(root, spec)
    for warning in found.warnings:
        click.echo(warning + "\n", err=True)
    for name in found.good:
        click.echo(f"specs/{name}.yaml: ok ({summary(found.specs[name])})")
    if found.errors:
        click.echo("\n\n".join(found.errors), err=True)
        sys.exit(1)


def summary(spec: Spec) -> str:
    """Return one line on what a spec builds."""
    phases = list(spec.phases)
    objectives = list(dict.fromkeys(o.kind for phase in spec.phases.values() for o in phase.objectives))
    parts = [f"{'phase' if len(phases) == 1 else 'phases'} {', '.join(phases)}"]
    parts += [f"teacher {spec.teacher}"] if spec.teacher else []
    parts += [f"{'objective' if len(objectives) == 1 else 'objectives'} {', '.join(objectives)}"] if objectives else []
    return "; ".join(parts)
