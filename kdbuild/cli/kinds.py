"""`kdbuild kinds`."""

from __future__ import annotations

import click

from kdbuild.errors import KdbuildError

FAMILIES = ("seeds", "teachers", "elicitors", "selectors", "objectives", "students", "adaptations", "evaluators", "embedders")


@click.command("kinds", help="List the words a spec can use, family by family.")
@click.argument("families", nargs=-1)
def command(families: tuple[str, ...]) -> None:
    """Print each kind with the first line of its documentation and its source."""
    from kdbuild.kinds import available, load, nearest

    for family in families or FAMILIES:
        if family not in FAMILIES:
            near = nearest(family, FAMILIES)
            raise KdbuildError(
                f"no family named `{family}`." + (f" Did you mean `{near}`?" if near else ""), hint=f"families: {', '.join(FAMILIES)}"
            )
        click.echo(family)
        for name in available(family):
            kind = load(family, name)
            what = (kind.__doc__ or "").strip().splitlines()[0]
            facts = "; ".join(fact for fact in (kind.block, kind.source) if fact)
            click.echo(f"  {name:<22} {what}" + (f"\n{'':<25}[{facts}]" if facts else ""))
