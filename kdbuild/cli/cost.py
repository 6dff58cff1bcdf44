"""`kdbuild cost`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from kdbuild.cli import _stages, params_of, project_root
from kdbuild.rows.store import Spent

_MOST_ROWS = 20


@click.command("cost", help="Say what the calls of each stage and operator took: tokens and money.")
@click.argument("stages", metavar="[STAGE]...", nargs=-1)
@click.option("--rows", is_flag=True, help=f"The {_MOST_ROWS} dearest rows instead.")
def command(*, stages: tuple[str, ...], rows: bool) -> None:
    """Print a table of everything that was asked from this project, or by the named stages."""
    from kdbuild.rows import place
    from kdbuild.rows.store import Store

    if rows and stages:
        raise click.UsageError("--rows counts what all stages asked about a row: name no stage with it")
    root = project_root()
    with Store.open(place.store_dir(root, params_of(root).runtime.rows_dir), read_only=True) as store:
        if rows:
            _table(("row",), [((row,), spent) for row, spent in store.row_costs()[:_MOST_ROWS]])
            return
        costs = store.costs()
    _stages.require(stages, _stages.that_ask(root) | {stage for stage, _, _, _ in costs})
    shown = [((stage, operator, teacher), spent) for stage, operator, teacher, spent in costs if stage in stages or not stages]
    _table(("stage", "operator", "teacher"), shown)


def _table(heads: Sequence[str], lines: Iterable[tuple[tuple[str, ...], Spent]]) -> None:
    found = list(lines)
    if not found:
        click.echo("nothing was asked yet")
        return
    total = (("total", *("" for _ in heads[1:])), sum((spent for _, spent in found), Spent()))
    cells = [[*heads, "calls", "prompt tokens", "answer tokens", "USD"]]
    for names, spent in [*found, total]:
        numbers = (spent.num_calls, spent.num_prompt_tokens, spent.num_new_tokens)
        cells.append([*names, *(f"{number:,}" for number in numbers), f"{spent.usd:.4f}"])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    for line in cells:
        aligned = [cell.ljust(w) if i < len(heads) else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        click.echo("  ".join(aligned).rstrip())
