"""The command line: a table of commands, each imported when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from kdbuild import __version__
from kdbuild.errors import KdbuildError

if TYPE_CHECKING:
    from kdbuild.spec.model import Params

COMMANDS = {
    "init": "Start a project in this folder.",
    "check": "Say what is wrong with specs and params.yaml.",
    "compile": "Write dvc.yaml and resolved.json from the specs.",
    "plan": "Say what a build would do, why, and how many teacher calls it takes.",
    "build": "Compile, show the plan, and build what is stale.",
    "cost": "Say what the calls of each stage and operator took: tokens and money.",
    "rows": "List the rows of a stage, or the answers it could not use.",
    "trace": "Say where a row came from, what each step said of it, and who trains on it.",
    "retry": "Ask again what failed for good in a stage, or could not be used.",
    "doctor": "Find, and with --fix mend, what a crash left behind.",
    "kinds": "List the words a spec can use, family by family.",
    "schema": "Print the JSON Schema of a spec, for editors.",
    "stage": "Run one step of one spec, as dvc.yaml does.",
}
"""Command name to the first line of its help; each is `kdbuild/cli/<name>.py` with a click command called `command`."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"kdbuild.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(f"no command named `{args[0]}`." + (f" Did you mean `{near[0]}`?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kdbuild")
def cli() -> None:
    """Make for distilled language models: one YAML spec per student, compiled to DVC stages."""


def project_root() -> Path:
    """Return the folder of the project: where the DVC stage runs, else the nearest folder upwards that holds specs/ or .dvc/."""
    here = Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "specs").is_dir() or (folder / ".dvc").is_dir():
            return folder
    return here


def params_of(root: Path) -> Params:
    """Return params.yaml.

    Raises:
        SpecError: it is not there, or something in it is wrong.
    """
    from kdbuild.spec.source import read_params

    return read_params(root / "params.yaml")


def fail(message: str, exit_code: int) -> NoReturn:
    """Print a user's error and leave."""
    click.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


def main() -> NoReturn:
    """Run the command line; a KdbuildError is printed without a traceback and becomes its exit code."""
    if sys.platform == "win32":
        fail("kdbuild needs Linux or macOS (file locks and process signals); on Windows use WSL", 1)
    try:
        code = cli(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.UsageError as error:
        error.show()
        sys.exit(1)
    except click.exceptions.Abort:
        fail("stopped", 1)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except KdbuildError as error:
        fail(str(error), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
