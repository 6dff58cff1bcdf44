"""`kdbuild compile`."""

from __future__ import annotations

import sys

import click

from kdbuild.cli import project_root


@click.command("compile", help="Write dvc.yaml and resolved.json from the specs.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if a generated file is not what the specs ask for.")
@click.option("--force", is_flag=True, help="Overwrite a dvc.yaml that was edited by hand.")
def command(*, check: bool, force: bool) -> None:
    """Compile every spec of the project."""
    from kdbuild.compile import project, write

    root = project_root()
    found = project.load(root)
    if check:
        different = [path for path, text in write.generated(found).items() if _text(root / path) != text]
        for path in different:
            click.echo(f"{path} is not what the specs ask for", err=True)
        if different:
            click.echo("\nhint: run `kdbuild compile`", err=True)
            sys.exit(1)
        return
    if force:
        (root / "dvc.yaml").unlink(missing_ok=True)
    changed = write.write(found)
    for path in changed:
        click.echo(f"wrote {path}")
    if not changed:
        click.echo(f"nothing to write: {len(found.specs)} specs, {len(found.stages)} stages")


def _text(path: object) -> str | None:
    from pathlib import Path

    try:
        return Path(str(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
