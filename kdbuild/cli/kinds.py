"""`kdbuild kinds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kdbuild.errors import KdbuildError

if TYPE_CHECKING:
    from kdbuild.kinds import Kind

FAMILIES = ("seeds", "teachers", "elicitors", "scorers", "selectors", "objectives", "students", "adaptations", "evaluators", "embedders")


@click.command("kinds", help="List the words a spec can use, family by family.")
@click.argument("words", metavar="[FAMILY | KIND]...", nargs=-1)
def command(words: tuple[str, ...]) -> None:
    """Print each kind with the first line of its documentation and its source; of a kind that is named, every field."""
    from kdbuild.kinds import available, load, nearest

    kinds = {name: [family for family in FAMILIES if name in available(family)] for one in FAMILIES for name in available(one)}
    for word in words or FAMILIES:
        if word in kinds:
            for family in kinds[word]:
                _fields(load(family, word))
            continue
        if word not in FAMILIES:
            near = nearest(word, [*FAMILIES, *kinds])
            known = f"families: {', '.join(FAMILIES)}"
            raise KdbuildError(f"no family or kind named `{word}`." + (f" Did you mean `{near}`?" if near else ""), hint=known)
        family = word
        click.echo(family)
        for name in available(family):
            kind = load(family, name)
            what = (kind.__doc__ or "").strip().splitlines()[0]
            facts = "; ".join(fact for fact in (kind.block, kind.source) if fact)
            click.echo(f"  {name:<22} {what}" + (f"\n{'':<25}[{facts}]" if facts else ""))


def _fields(kind: type[Kind]) -> None:
    """Print a kind's documentation and its fields, each with its default and whether it is a knob."""
    from kdbuild.kinds import knobs, singular

    turned = knobs(kind)
    click.echo(f"{kind.model_fields['kind'].default} ({singular(kind.family)}): {' '.join((kind.__doc__ or '').split())}")
    for name, field in kind.model_fields.items():
        if name == "kind":
            continue
        default = "required" if field.is_required() else f"default {field.default!r}"
        knob = "; knob" if name in turned else ""
        click.echo(f"  {field.alias or name} ({default}{knob}): {' '.join((field.description or '').split())}")
