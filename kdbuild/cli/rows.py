"""`kdbuild rows`."""

from __future__ import annotations

import click

from kdbuild.cli import params_of, project_root

_SHOWN_CHARACTERS = 80


@click.group("rows", help="List the rows of a stage, or the answers it could not use.")
def command() -> None:
    """Look at rows without building anything."""


@command.command("list", help="List the rows that an elicit stage makes of the stored answers.")
@click.argument("stage", metavar="STAGE")
@click.option("--rejected", is_flag=True, help="The answers that could not be used instead: id, operator, reason, start of the text.")
def list_rows(*, stage: str, rejected: bool) -> None:
    """Print a line a row: its id and the start of its answer (of its prompt, where it has none), or why it was rejected."""
    from kdbuild.cli._stored import look_at
    from kdbuild.rows import place
    from kdbuild.rows.store import Store

    root = project_root()
    with Store.open(place.store_dir(root, params_of(root).runtime.rows_dir), read_only=True) as store:
        found = look_at(root, stage, store)
    if rejected:
        lines = sorted("\t".join((one.id, one.by, one.reason, _start(one.text))) for one in found.rejected)
    else:
        lines = sorted("\t".join((row.id, _start(row.answer or "\n".join(m.content for m in row.prompt)))) for row in found.rows)
    for line in lines:
        click.echo(line)
    click.echo(f"{len(lines):,} {'rejected' if rejected else 'rows'}", err=True)
    if found.unseen:
        click.echo(f"operator `{found.unseen}` compares meanings: what it and those after it make is not shown", err=True)


def _start(text: str) -> str:
    """Return the start of a text on one line, without what would move the cursor."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"
