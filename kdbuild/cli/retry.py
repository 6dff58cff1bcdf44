"""`kdbuild retry`."""

from __future__ import annotations

import sys

import click

from kdbuild.cli import params_of, project_root
from kdbuild.cli._dvc import repro
from kdbuild.errors import SpecError


@click.command("retry", help="Ask again what failed for good in a stage (accepted by `accept_failed_frac`).")
@click.argument("stage", metavar="STAGE")
def command(*, stage: str) -> None:
    """Forget the final failures of an elicit stage, and run it again; every answer it has is kept."""
    from kdbuild.rows import place
    from kdbuild.rows.store import Store

    root = project_root()
    with Store.open(place.store_dir(root, params_of(root).runtime.rows_dir)) as store:
        last = store.last_run(stage)
        if last is None:
            raise SpecError(f"stage `{stage}` has not been built here", hint="`dvc stage list` shows the stages")
        num_failures = store.forget_failures(key for keys in last.values() for key in keys)
    if not num_failures:
        click.echo(f"nothing to retry: no call of {stage} failed for good")
        return
    click.echo(f"asking again: {num_failures} that failed for good")
    sys.stdout.flush()
    code = repro(root, ["--force", "--no-run-cache", "--single-item", stage])
    if code == 0:
        click.echo("`kdbuild build` goes on from here")
    sys.exit(code)
