"""`kdbuild schema`."""

from __future__ import annotations

import click

from kdbuild.cli import project_root
from kdbuild.errors import KdbuildError


@click.command("schema", help="Print the JSON Schema of a spec, for editors.")
@click.option("--params", is_flag=True, help="Of params.yaml instead.")
@click.option("--write", is_flag=True, help="Write both to specs/ instead, where the first line of a spec can name them.")
def command(*, params: bool, write: bool) -> None:
    """Print a schema, or write both where editors find them."""
    from kdbuild import canonical
    from kdbuild.compile.write import write_atomically
    from kdbuild.spec import schema

    if not write:
        click.echo(canonical.pretty(schema.of_params() if params else schema.of_spec()), nl=False)
        return
    root = project_root()
    if not (root / "specs").is_dir():
        raise KdbuildError(f"{root} holds no folder specs/ to write to", hint="`kdbuild init` starts a project")
    for path, content in ((schema.SPEC_FILE, schema.of_spec()), (schema.PARAMS_FILE, schema.of_params())):
        changed = write_atomically(root / path, canonical.pretty(content))
        click.echo(f"wrote {path}" if changed else f"{path} is up to date")
