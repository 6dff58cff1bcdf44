"""`kdbuild build`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbuild.cli import project_root
from kdbuild.cli._dvc import repro
from kdbuild.errors import KdbuildError, StageError

if TYPE_CHECKING:
    from kdbuild.compile.project import Project
    from kdbuild.plan.whole import Plan


@click.command("build", help="Compile, show the plan, and build what is stale.")
@click.argument("specs", metavar="[SPEC]...", nargs=-1)
@click.option("--yes", is_flag=True, help="Do not ask before a teacher that costs money is called.")
def command(*, specs: tuple[str, ...], yes: bool) -> None:
    """Build the named specs, or all."""
    from kdbuild.plan import state

    root, names = project_root(), sorted({Path(one).name.removesuffix(".yaml") for one in specs})
    num_stages = state.nothing_to_do(root, names)
    if num_stages is not None:
        click.echo(f"nothing to do: {num_stages} stages fresh")
        return
    _build(root, names, yes=yes)


def _build(root: Path, names: Sequence[str], *, yes: bool) -> None:
    from kdbuild.compile import project, write
    from kdbuild.plan import text, whole

    whole.require_dvc(root)
    found = project.load(root)
    whole.closure(found.stages, names)  # a misspelt name writes nothing
    for path in write.write(found):
        click.echo(f"wrote {path}")
    plan = whole.make(root, found, names, exact=True)
    click.echo("\n".join(text.lines(plan)))
    if not plan.is_fresh:
        _require_teachers(found, plan)
        _ask_about_money(plan, yes=yes)
        sys.stdout.flush()
        # The structure stage belongs to no spec; it goes along, so that a later plan of everything finds nothing left.
        code = repro(root, [found.stages[0].name, *(one.stage.name for one in plan.planned)] if names else [])
        plan = _built(root, found, names, code)
    _remember(root, names, plan)


def _require_teachers(found: Project, plan: Plan) -> None:
    """Refuse a build that would stop at a teacher which cannot be asked here, before anything runs.

    Raises:
        StageError: names the teacher, the stage, and what is lacking.
    """
    from kdbuild.plan.asks import Bound
    from kdbuild.plan.planner import Status

    calling = {asks.stage for asks in plan.asks if asks.num_calls or asks.bound is Bound.UNKNOWN}
    for stage in (one.stage for one in plan.planned if one.status is Status.STALE and one.stage.name in calling):
        for name in sorted({use["name"] for use in stage.section["actors"].values()} & set(found.params.teachers)):
            try:
                found.params.teachers[name].require_here()
            except StageError as error:
                raise StageError(f"stage {stage.name} asks teacher `{name}`: {error.message}", hint=error.hint) from None


def _ask_about_money(plan: Plan, *, yes: bool) -> None:
    from kdbuild.plan.asks import Bound
    from kdbuild.plan.text import money

    paid = [asks for asks in plan.asks if asks.priced and (asks.num_calls or asks.bound is Bound.UNKNOWN)]
    if not paid or yes:
        return
    known = all(asks.bound is not Bound.UNKNOWN for asks in paid)
    teachers = ", ".join(sorted({asks.teacher for asks in paid}))
    what = f"about {money(sum(asks.usd for asks in paid))}" if known else "an amount that is not known yet"
    if not sys.stdin.isatty():
        raise StageError(f"this build asks {teachers} for {what}, and nobody is here to agree", hint="pass --yes to spend it")
    if not click.confirm(f"Ask {teachers} for {what}?", default=False):
        raise StageError("stopped before the first paid call; nothing was spent")


def _built(root: Path, found: Project, names: Sequence[str], code: int) -> Plan:
    """Return the plan after a build.

    Raises:
        StageError: the build failed; names the stage.
    """
    from kdbuild.plan import whole
    from kdbuild.plan.planner import Status

    try:
        plan = whole.make(root, found, names)
    except KdbuildError:
        if code == 0:
            raise
        raise StageError(f"the build stopped: dvc ended with {code}", hint="the reason is above; then `kdbuild doctor`") from None
    if code == 0:
        return plan
    waiting = next((one.stage.name for one in plan.planned if one.status in (Status.STALE, Status.RESTORABLE)), None)
    if waiting is None:
        raise StageError(f"the build stopped: dvc ended with {code}", hint="the reason is above")
    raise StageError(f"stage {waiting} failed", hint="the reason is above; what earlier stages built is kept, and so is every answer")


def _remember(root: Path, names: Sequence[str], plan: Plan) -> None:
    from kdbuild.plan import state

    if plan.is_fresh:
        state.remember(root, names, plan.watched, sum(not one.stage.compiles for one in plan.planned))
    else:
        state.forget(root)
        click.echo("something changed while it was built: build again", err=True)
