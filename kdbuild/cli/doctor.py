"""`kdbuild doctor`."""

from __future__ import annotations

import sys

import click

from kdbuild.cli import project_root


@click.command("doctor", help="Find, and with --fix mend, what a crash left behind.")
@click.option("--fix", is_flag=True, help="Mend what was found.")
def command(*, fix: bool) -> None:
    """List what is wrong; exit with 1 if anything is, and stays so."""
    from kdbuild.plan import damage, state, whole

    root = project_root()
    whole.require_dvc(root)
    found = damage.find(root)
    for one in found:
        click.echo(one.what)
        if fix and one.mend is not None:
            click.echo(f"    {one.mend()}")
        else:
            click.echo(f"    --fix {one.remedy}")
    for line in damage.advice(root):
        click.echo(f"advice: {line}")
    if not found:
        click.echo("nothing is broken")
        return
    if fix:
        state.forget(root)
    left = [one for one in found if one.mend is None] if fix else found
    if left:
        sys.exit(1)
