"""`kdbuild plan`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from kdbuild.cli import project_root


@click.command("plan", help="Say what a build would do, why, and how many teacher calls it takes.")
@click.argument("specs", metavar="[SPEC]...", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON (schema kdbuild-plan/1).")
def command(*, specs: tuple[str, ...], as_json: bool) -> None:
    """Print the plan; exit with 0 if nothing is stale, 2 if something is."""
    from kdbuild import canonical
    from kdbuild.compile import project
    from kdbuild.plan import text, whole

    root = project_root()
    whole.require_dvc(root)
    names = spec_names(specs)
    loaded = project.load_for(root, names)
    found = whole.make(root, loaded, names)
    for line in whole.left_out(loaded):
        click.echo(line, err=True)
    if as_json:
        click.echo(canonical.pretty(found.as_json()), nl=False)
    else:
        click.echo("\n".join(text.lines(found)))
    sys.exit(0 if found.is_fresh else 2)


def spec_names(given: tuple[str, ...]) -> list[str]:
    """Return the names of specs given by name or by path."""
    return [Path(one).name.removesuffix(".yaml") for one in given]
