"""`kdbuild init`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from kdbuild.errors import KdbuildError

PARTS = Path(__file__).parent / "_init"
"""What a new project starts from, file by file; `dot-` stands for a leading dot."""


@click.command("init", help="Start a project in this folder.")
def command() -> None:
    """Write a project that builds; files that are there already are left as they are."""
    from kdbuild.compile import project, write

    root = Path.cwd()
    if not _inside_git(root):
        raise KdbuildError(f"{root} is not in a git repository", hint="run `git init` first: DVC keeps versions through git")
    if not (root / ".dvc").is_dir():
        _dvc(root, "init", "--quiet", *([] if (root / ".git").exists() else ["--subdir"]))
        _dvc(root, "config", "core.analytics", "false")
    for part in sorted(path for path in PARTS.rglob("*") if path.is_file()):
        name = part.relative_to(PARTS).as_posix().replace("dot-", ".")
        if (root / name).exists():
            click.echo(f"kept  {name}")
            continue
        write.write_atomically(root / name, part.read_text(encoding="utf-8"))
        click.echo(f"wrote {name}")
    for path in write.write(project.load(root)):
        click.echo(f"wrote {path}")
    click.echo(
        "\nNext: edit specs/first-student.yaml and specs/seeds/first.jsonl, then\n"
        "  kdbuild plan      what would be built, and how many teacher calls it takes\n"
        "  kdbuild build     build it (plain `dvc repro` does the same)\n"
        "To share what you build:\n"
        "  dvc remote add -d storage <url>\n"
        "  dvc remote modify storage verify true   # a damaged object is refused on pull\n"
        "  dvc push"
    )


def _inside_git(root: Path) -> bool:
    found = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True, check=False)
    return found.returncode == 0


def _dvc(root: Path, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise KdbuildError(f"`dvc {' '.join(arguments)}` failed: {done.stderr.strip()}")
