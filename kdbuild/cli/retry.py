"""`kdbuild retry`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbuild.cli import _stages, params_of, project_root
from kdbuild.cli._dvc import repro
from kdbuild.errors import SpecError, StageError

if TYPE_CHECKING:
    from kdbuild.rows.store import Store


@click.command("retry", help="Ask again what failed for good in a stage (accepted by `accept_failed_frac`), or could not be used.")
@click.argument("stage", metavar="STAGE")
@click.option("--rejected", is_flag=True, help="The answers that came and could not be used, instead.")
@click.option("--yes", is_flag=True, help="Do not ask before answers are given up.")
def command(*, stage: str, rejected: bool, yes: bool) -> None:
    """Forget the final failures, or the rejected answers, of an elicit stage, and run it again; every other answer is kept."""
    from kdbuild.rows import place
    from kdbuild.rows.store import Store

    root = project_root()
    with Store.open(place.store_dir(root, params_of(root).runtime.rows_dir)) as store:
        what = "could not be used" if rejected else "failed for good"
        num_forgotten = _forget_rejected(root, store, stage, yes=yes) if rejected else _forget_failed(root, store, stage)
    if not num_forgotten:
        click.echo(f"nothing to retry: no {'answer' if rejected else 'call'} of {stage} {what}")
        return
    click.echo(f"asking again: {num_forgotten:,} that {what}")
    sys.stdout.flush()
    code = repro(root, ["--force", "--no-run-cache", "--single-item", stage])
    if code == 0:
        click.echo("`kdbuild build` goes on from here")
    sys.exit(code)


def _forget_failed(root: Path, store: Store, stage: str) -> int:
    last = store.last_run(stage)
    if last is None:
        _stages.require([stage], _stages.that_ask(root))
        raise SpecError(f"stage `{stage}` has not been built here, so nothing of it failed", hint="`kdbuild build` builds it")
    return store.forget_failures(key for keys in last.values() for key in keys)


def _forget_rejected(root: Path, store: Store, stage: str, *, yes: bool) -> int:
    """Forget the answers that a stage rejected, after asking; return how many.

    Raises:
        StageError: the person says no, or nobody is there to agree.
    """
    from kdbuild.cli._stored import look_at
    from kdbuild.plan.text import money

    found = look_at(root, stage, store)
    taken = store.taken_by(found.keys)
    if not taken.num_calls:
        return 0
    for reason, count in Counter(one.reason for one in found.rejected).most_common():
        click.echo(f"{count:>7,}  {reason}")
    what = f"{taken.num_calls:,} answers, which took {taken.num_tokens:,} tokens, {money(taken.usd)}"
    if not yes and not sys.stdin.isatty():
        raise StageError(f"this gives up {what}, and nobody is here to agree", hint="pass --yes to ask them again")
    if not yes and not click.confirm(f"Give up {what}, and ask again?", default=False):
        raise StageError("nothing was given up")
    return store.forget_answers(found.keys)
