"""`kdbuild build`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbuild.cli import project_root
from kdbuild.cli._dvc import watched_repro
from kdbuild.errors import SpecError, StageError

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
    found = project.load_for(root, names)
    stages = whole.closure(found.stages, names)  # a misspelt name writes nothing
    for line in whole.left_out(found):
        click.echo(line, err=True)
    if found.broken and not write.is_written(root, stages):
        broken = ", ".join(f"specs/{name}.yaml" for name in sorted(found.broken))
        raise SpecError(f"the stages of {', '.join(names)} are not in dvc.yaml yet, which cannot be written while {broken} is not valid")
    for path in write.write(found):
        click.echo(f"wrote {path}")
    plan = whole.make(root, found, names)
    click.echo("\n".join(text.lines(plan)))
    if not plan.is_fresh:
        _require_teachers(found, plan)
        _ask_about_money(plan, yes=yes)
        sys.stdout.flush()
        # The structure stage belongs to no spec; it goes along, so that a later plan of everything finds nothing left. Where a spec is
        # left out there is no such plan, and what the structure stage has to say is not of this one.
        structure = [] if found.broken else [found.stages[0].name]
        code, failed = watched_repro(root, [*structure, *(one.stage.name for one in plan.planned)] if names else [])
        plan = _built(root, found, names, code, failed)
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
    from kdbuild.plan.text import paid_for

    paid = paid_for(plan)
    if paid is None or yes:
        return
    teachers, what = paid
    if not sys.stdin.isatty():
        raise StageError(f"this build asks {teachers} for {what}, and nobody is here to agree", hint="pass --yes to spend it")
    if not click.confirm(f"Ask {teachers} for {what}?", default=False):
        raise StageError("stopped before the first paid call; nothing was spent")


def _built(root: Path, found: Project, names: Sequence[str], code: int, failed: str | None) -> Plan:
    """Return the plan after a build; `failed` is the stage whose command did.

    Raises:
        StageError: the build failed; names the stage.
    """
    from kdbuild.plan import whole

    if failed is not None:
        raise StageError(f"stage {failed} failed", hint="the reason is above; what earlier stages built is kept, and so is every answer")
    if code != 0:
        raise StageError(f"the build stopped: dvc ended with {code}", hint="the reason is above; then `kdbuild doctor`")
    return whole.make(root, found, names)


def _remember(root: Path, names: Sequence[str], plan: Plan) -> None:
    from kdbuild.plan import state

    if plan.is_fresh:
        state.remember(root, names, plan.watched, sum(not one.stage.compiles for one in plan.planned))
    else:
        state.forget(root)
        click.echo("something changed while it was built: build again", err=True)
