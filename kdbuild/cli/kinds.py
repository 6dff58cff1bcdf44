"""`kdbuild kinds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args, get_origin

import click
from pydantic import BaseModel

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
        default = "required" if field.is_required() else f"default {_shown(field.get_default(call_default_factory=True))}"
        allowed = _allowed(field.annotation)
        default = f"{' | '.join(allowed)}; {default}" if allowed else default
        knob = "; knob" if name in turned else ""
        click.echo(f"  {field.alias or name} ({default}{knob}): {' '.join((field.description or '').split())}")


def _shown(value: object) -> str:
    """Return a default as a spec writes it."""
    if isinstance(value, BaseModel):
        given = value.model_dump(mode="json", by_alias=True)
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in given.items()) + "}"
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_shown(item)}" for name, item in value.items()) + "}"
    return value if isinstance(value, str) and value else repr(value)


def _allowed(annotation: object) -> list[str]:
    """Return the words that a field allows, of a Literal wherever it stands in the type; nothing where it allows anything."""
    if get_origin(annotation) is Literal:
        return [_shown(value) for value in get_args(annotation)]
    return list(dict.fromkeys(word for part in get_args(annotation) for word in _allowed(part)))
